"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const drawing = document.querySelector("#drawing svg");
const about = document.getElementById("about");
const first = about.innerHTML;
const cards = [...drawing.querySelectorAll("[data-card]")];
const lines = [...drawing.querySelectorAll(".edge")];
const parents = data.cards.map(() => []), children = data.cards.map(() => []);
for (const [from, to] of data.edges) { parents[to].push(from); children[from].push(to); }

// what is in view, in the drawing's own units
const whole = drawing.viewBox.baseVal;
const size = { width: whole.width, height: whole.height };
let seen = { x: 0, y: 0, width: size.width, height: size.height };
drawing.removeAttribute("width");
drawing.removeAttribute("height");
function look() { drawing.setAttribute("viewBox", `${seen.x} ${seen.y} ${seen.width} ${seen.height}`); }
function units() { return 1 / drawing.getScreenCTM().a; }
function readable() {  // a wide drawing is not squeezed until nothing can be read
  seen = { x: 0, y: 0, width: size.width, height: size.height };
  look();
  const box = drawing.getBoundingClientRect();
  if (units() > 1.6) {
    seen = { x: (size.width - box.width * 1.2) / 2, y: 0, width: box.width * 1.2, height: box.height * 1.2 };
    const asked = drawing.querySelector(".asked rect");
    if (asked) centre(asked); else look();
  }
}
function within(at, length, all) { return length > all ? (all - length) / 2 : Math.min(Math.max(at, 0), all - length); }
function centre(box) {
  const middle = (side, length) => +box.getAttribute(side) + box.getAttribute(length) / 2 - seen[length] / 2;
  seen.x = within(middle("x", "width"), seen.width, size.width);
  seen.y = within(middle("y", "height"), seen.height, size.height);
  look();
}

let from = null, moved = false;
drawing.addEventListener("pointerdown", (event) => { from = [event.clientX, event.clientY]; moved = false; });
addEventListener("pointerup", () => { from = null; });
addEventListener("pointermove", (event) => {
  if (!from) return;
  const [dx, dy] = [event.clientX - from[0], event.clientY - from[1]];
  if (Math.abs(dx) + Math.abs(dy) > 3) moved = true;
  seen.x -= dx * units();
  seen.y -= dy * units();
  from = [event.clientX, event.clientY];
  look();
});
drawing.addEventListener("wheel", (event) => {
  event.preventDefault();
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
  const by = Math.exp(event.deltaY * 0.0015);
  seen = { x: at.x - (at.x - seen.x) * by, y: at.y - (at.y - seen.y) * by, width: seen.width * by, height: seen.height * by };
  look();
}, { passive: false });

function reached(start, next) {
  const found = new Set(start), waiting = [...start];
  while (waiting.length) for (const each of next[waiting.pop()]) if (!found.has(each)) { found.add(each); waiting.push(each); }
  return found;
}
function light(chosen) {
  drawing.classList.toggle("chosen", chosen.length > 0);
  const back = reached(chosen, parents), forward = reached(chosen, children);
  for (const card of cards) card.classList.toggle("on", back.has(+card.dataset.card) || forward.has(+card.dataset.card));
  for (const line of lines) {
    const [a, b] = [+line.dataset.from, +line.dataset.to];
    line.classList.toggle("on", (back.has(a) && back.has(b)) || (forward.has(a) && forward.has(b)));
  }
}
function element(name, content) {
  const made = document.createElement(name);
  if (content !== undefined) made.textContent = content;
  return made;
}
function list(facts) {
  const made = element("dl");
  for (const [name, value] of Object.entries(facts)) {
    if (name === "attempts" || name === "details" || name === "label") continue;
    made.append(element("dt", name.replaceAll("_", " ")), element("dd", value));
  }
  for (const [name, value] of Object.entries(facts.details || {})) {
    const shown = typeof value === "object" ? JSON.stringify(value) : value;
    made.append(element("dt", name.replaceAll("_", " ")), element("dd", shown));
  }
  for (const attempt of facts.attempts || []) {
    const told = [attempt.outcome || "not ended", (attempt.began || "").slice(0, 19), attempt.host, attempt.who, attempt.error];
    made.append(element("dt", `attempt ${attempt.index}`), element("dd", told.filter(Boolean).join(", ")));
  }
  return made;
}
function choose(number) {
  light([number]);
  const card = data.cards[number];
  about.replaceChildren(element("h2", card.title));
  if (card.members.length === 1) { about.append(list(card.members[0])); return; }
  about.append(element("p", `${card.members.length} of one kind (${card.kind}) that came about alike`));
  for (const member of card.members) {
    const one = element("details");
    one.append(element("summary", member.node));
    one.addEventListener("toggle", () => { if (one.open && !one.querySelector("dl")) one.append(list(member)); });
    about.append(one);
  }
}
function nothing() { light([]); about.innerHTML = first; }
for (const card of cards) {
  card.addEventListener("click", (event) => { if (!moved) { choose(+card.dataset.card); event.stopPropagation(); } });
  card.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(+card.dataset.card); });
}
drawing.addEventListener("click", () => { if (!moved) nothing(); });
document.getElementById("whole").addEventListener("click", () => { document.getElementById("find").value = ""; nothing();
  seen = { x: 0, y: 0, width: size.width, height: size.height }; look(); });
document.getElementById("find").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  if (!wanted) { nothing(); return; }
  const texts = data.cards.map((card) => JSON.stringify(card).toLowerCase());
  const hits = texts.flatMap((text, number) => text.includes(wanted) ? [number] : []);
  light(hits);
  about.replaceChildren(element("p", hits.length ? hits.length === 1 ? "one box" : `${hits.length} boxes` : "nothing has that"));
  if (hits.length) centre(cards.find((card) => +card.dataset.card === hits[0]).querySelector("rect"));
});
readable();
