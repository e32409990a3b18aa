"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const config = { displaylogo: false, displayModeBar: false, responsive: true };
  let shown = 0;

  const themed = (layout) => {
    const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), automargin: true };
    return {
      ...layout,
      xaxis: { ...axis, ...layout.xaxis },
      yaxis: { ...axis, ...layout.yaxis },
      font: { color: css("--text") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 60, r: 15, t: 15, b: 50 },
      hovermode: "closest",
    };
  };

  const drawPlots = () => {
    for (const [name, plot] of Object.entries(data.plots)) {
      const target = element(name);
      Plotly.react(target, plot.data, themed(plot.layout), config);
      target.removeAllListeners("plotly_click");
      target.on("plotly_click", (event) => {
        const place = event.points.map((point) => point.customdata).find((found) => found !== undefined);
        if (place !== undefined) choose(place);
      });
    }
  };

  const drawStructures = () => {
    const axis = { visible: false, showspikes: false };
    const layout = {
      scene: { xaxis: axis, yaxis: axis, zaxis: axis, aspectmode: "data",
        camera: { eye: { x: 1.1, y: 1.3, z: 0.7 }, projection: { type: "orthographic" } } },
      font: { color: css("--text") },
      paper_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 0, r: 0, t: 0, b: 0 },
      legend: { orientation: "h" },
    };
    ["predicted", "verified"].forEach((id, side) => {
      Plotly.react(element(id), data.scenes[shown][side], structuredClone(layout), config);
      element(id).setAttribute("aria-label", `${data.documents[shown].formula}, ${id} structure`);
    });
  };

  const show = (place) => {
    shown = place;
    const found = data.documents[place];
    const change = found.structure_change;
    element("name").textContent = `${found.formula}, ${found.candidate_id}`;
    const verified = found.energy_above_hull === null
      ? `${found.energy_per_atom.toFixed(4)} eV/atom` : `${found.energy_above_hull.toFixed(3)} eV/atom above hull`;
    element("about").textContent = `DAO's rank ${found.rank}: predicted ${found.predicted_energy_above_hull.toFixed(3)} ` +
      `eV/atom above hull, verified ${verified}. ` +
      (change.matches ? `The structures match, RMSE ${change.rmse.toFixed(3)}` : "The structures do not match") +
      `; volume ${change.volume_ratio < 1 ? "−" : "+"}${Math.abs(100 * (change.volume_ratio - 1)).toFixed(1)} %, space group ${change.space_group_before} → ` +
      `${change.space_group_after}.`;
    const links = element("links");
    links.replaceChildren();
    const entries = {
      comparison: found.comparison_id, candidate: found.candidate_id, verification: found.verification_id,
      "screening, science hash": found.candidate_science_hash,
      "verification, science hash": found.verification_science_hash,
      "in your store": `dao-flows show ${found.candidate_id}; dao-flows show ${found.verification_id}`,
    };
    for (const [term, text] of Object.entries(entries)) {
      links.append(Object.assign(document.createElement("dt"), { textContent: term }));
      links.append(Object.assign(document.createElement("dd"), { textContent: text }));
    }
    element("document").textContent = JSON.stringify(found, null, 1);
    for (const row of document.querySelectorAll("tbody tr")) {
      row.setAttribute("aria-selected", String(Number(row.dataset.place) === place));
    }
    drawStructures();
  };

  const choose = (place) => {
    history.replaceState(null, "", `#${encodeURIComponent(data.documents[place].comparison_id)}`);
    show(place);
  };

  const fromAddress = () => {
    const wanted = decodeURIComponent(location.hash.slice(1));
    const place = data.documents.findIndex((found) => found.comparison_id === wanted);
    show(Math.max(place, 0));
  };

  element("download").addEventListener("click", () => {
    const found = data.documents[shown];
    const url = URL.createObjectURL(new Blob([JSON.stringify(found, null, 1)], { type: "application/json" }));
    Object.assign(document.createElement("a"), { href: url, download: `${found.comparison_id}.json` }).click();
    URL.revokeObjectURL(url);
  });
  for (const row of document.querySelectorAll("tbody tr")) {
    row.addEventListener("click", (event) => {
      event.preventDefault();
      choose(Number(row.dataset.place));
      element("one").scrollIntoView({ block: "start" });
    });
  }
  window.addEventListener("hashchange", fromAddress);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawPlots(); drawStructures(); });
  drawPlots();
  fromAddress();
})();
