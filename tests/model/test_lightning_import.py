"""Published checkpoints are converted to the same function, and nothing that a file asks for ever runs."""

import json
import os
import pickle
import random
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from dao_flows.model.checkpoint.format import CheckpointError, load
from dao_flows.model.checkpoint.lightning_import import STANDARDISED, import_checkpoint
from dao_flows.model.crystals import Crystal, Crystals

DATA = Path(__file__).parent / "data"
GOLDEN = np.load(DATA / "crysformer_reference.npz")
PUBLISHED = json.loads((DATA / "published_state_dict_keys.json").read_text())


def golden_weights() -> dict[str, torch.Tensor]:
    return OrderedDict((k.removeprefix("state/"), torch.tensor(GOLDEN[k])) for k in GOLDEN.files if k[:6] == "state/")


def small_weights() -> dict[str, torch.Tensor]:
    """Every published key, at hidden 8, one block, two frequencies and time width 4."""
    small = {384: 8, 640: 12, 768: 16, 777: 21, 1152: 24, 1536: 32}
    generator = torch.Generator().manual_seed(0)
    return OrderedDict(
        (key, torch.randn([small.get(n, n) for n in shape], generator=generator)) for key, shape in PUBLISHED.items()
    )


def forgotten(name: str, **state):
    """An object of a class that exists only while it is saved."""
    module = types.ModuleType("forgotten_package")
    cls = type(name, (dict,), {"__module__": module.__name__})
    setattr(module, name, cls)
    sys.modules[module.__name__] = module
    thing = cls(entry=1)
    thing.__dict__.update(state)
    return thing


def lightning(weights, **more) -> dict:
    """What Lightning writes around the weights."""
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in list(weights.items())[:3]}
    optimiser = {0: {"step": 3, "exp_avg": torch.zeros(4)}, "groups": [{"betas": (0.9, 0.999), "params": [0, 1]}]}
    return {
        "epoch": 3,
        "global_step": 10**6,
        "pytorch-lightning_version": "1.3.8",
        "state_dict": weights,
        "callbacks": {OrderedDict: {"best_model_score": torch.tensor(0.5), "dirpath": Path("/somewhere")}},
        "optimizer_states": [optimiser, parameters],
        "lr_schedulers": [{"best": float("inf"), "bytes": b"\x00\xff", "sets": {1, 2}, "size": torch.Size([2, 3])}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"config": forgotten("Config", content={"lr": 1e-3}), "kinds": [int, torch.float32]},
        **more,
    }


def save_ckpt(path: Path, content: object) -> Path:
    try:
        torch.save(content, path)
    finally:
        sys.modules.pop("forgotten_package", None)
    return path


def rewrite(source: Path, target: Path, **members: bytes) -> Path:
    """The archive again, with some members' bytes replaced (by the last part of their names)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.namelist():
            name = member.split("/", 1)[1].replace(".", "_")
            new.writestr(member, members.get(name, old.read(member)))
    return target


def pickle_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(m for m in archive.namelist() if m.endswith("/data.pkl")))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return save_ckpt(tmp_path_factory.mktemp("published") / "small.ckpt", lightning(small_weights()))


def golden_outputs(model):
    counts = GOLDEN["out/num_atoms"]
    ends = np.cumsum(counts)
    crystals = [
        Crystal(GOLDEN["out/atomic_numbers"][end - n : end], GOLDEN["out/frac_coords"][end - n : end], lattice)
        for n, end, lattice in zip(counts, ends, GOLDEN["out/lattice"], strict=True)
    ]
    network = model.network.double()
    batch = Crystals.collate(crystals, torch.float64)
    output = network(batch, torch.tensor(GOLDEN["out/t"]))
    return network.energy(output), output.score[batch.mask], output.eps


def test_imports_the_same_function(tmp_path):
    file = save_ckpt(tmp_path / "golden.ckpt", lightning(golden_weights()))
    card = import_checkpoint(file, tmp_path / "golden", "golden", "dao-p", heads=4)
    model, loaded = load(tmp_path / "golden")
    energy, score, eps = golden_outputs(model)
    for found, name in ((energy[:, None], "energy"), (score, "coord_score"), (eps, "lattice_eps")):
        expected = GOLDEN[f"out/{name}"]
        assert np.abs(found.numpy() - expected).max() < 1e-5 * np.abs(expected).max(), name
    assert loaded == card
    assert card.kind == "dao-p"
    assert card.max_atoms == 30
    assert card.elements == list(range(1, 101))
    assert card.training["epoch"] == 3
    assert card.training["dropped"] == sorted(
        key for key in golden_weights() if key.startswith(("decoder.node_embedding", "decoder.type_out"))
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_published_key_in_every_precision(tmp_path, dtype):
    weights = OrderedDict((key, tensor.to(dtype)) for key, tensor in small_weights().items())
    file = save_ckpt(tmp_path / "published.ckpt", lightning(weights))
    import_checkpoint(file, tmp_path / "out", "published", "dao-g", heads=2)
    model, card = load(tmp_path / "out")
    assert card.architecture["network"] == {
        **{"hidden": 8, "layers": 1, "heads": 2, "frequencies": 2, "time_width": 4, "feed_forward": 4}
    }
    state = model.network.state_dict()
    assert torch.equal(state["blocks.0.attention.edges_to_kv.weight"], weights[BLOCK + "edges_to_kv.weight"].float())
    assert torch.equal(state["element_properties"], weights["decoder.embedding_in.0.weight"].float())


BLOCK = "decoder.block_0.attention.fn."


def test_views_of_a_shared_storage_and_big_endian_files(tmp_path):
    weights = small_weights()
    both = torch.stack([weights["decoder.block_0.ffn.fn.net.0.weight"].T.contiguous()] * 2)
    both[0] += 1
    weights["decoder.block_0.ffn.fn.net.0.weight"] = both[1].T  # strided, with an offset
    file = save_ckpt(tmp_path / "views.ckpt", lightning(weights))
    with zipfile.ZipFile(file) as archive:
        swapped = {
            name.split("/", 1)[1]: np.frombuffer(archive.read(name), "u4").byteswap().tobytes()
            for name in archive.namelist()
            if "/data/" in name
        }
    big = rewrite(file, tmp_path / "big.ckpt", byteorder=b"big", **swapped)
    states = []
    for source in (file, big):
        import_checkpoint(source, tmp_path / source.stem, "views", "dao-g")
        states.append(load(tmp_path / source.stem)[0].network.state_dict())
        assert torch.equal(states[-1]["blocks.0.ffn.0.weight"], weights["decoder.block_0.ffn.fn.net.0.weight"])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    "more",
    [
        {"state_dict": {"scaler.means": torch.tensor(0.25), "scaler.stds": torch.tensor([0.5])}},
        {"scaler": {"mean": 0.25, "std": 0.5}},
        {"hyper_parameters": ("prop_scaler", {"means": torch.tensor([0.25]), "stds": torch.tensor([0.5])})},
    ],
)
def test_energy_scaler_makes_a_predictor(tmp_path, more):
    content = lightning(OrderedDict(small_weights(), **more.get("state_dict", {})))
    content |= {key: value for key, value in more.items() if key == "scaler"}
    if "hyper_parameters" in more:
        key, state = more["hyper_parameters"]
        content["hyper_parameters"] = {"data": {key: forgotten("Scaler", **state)}}
    card = import_checkpoint(save_ckpt(tmp_path / "a.ckpt", content), tmp_path / "out", "a")
    assert card.kind == "dao-p"
    assert (card.architecture["energy_mean"], card.architecture["energy_std"]) == (0.25, 0.5)


def test_an_energy_scale_can_be_told_and_its_lack_is_said(tmp_path, small):
    without = import_checkpoint(small, tmp_path / "a", "a", "dao-p")
    assert without.training["energy_scaler"] == STANDARDISED
    told = import_checkpoint(small, tmp_path / "b", "b", "dao-p", energy_scale=(0.2, 0.3))
    assert (told.architecture["energy_mean"], told.architecture["energy_std"]) == (0.2, 0.3)
    assert told.training["energy_scaler"] == "(0.2, 0.3), told at import"
    for scale in ((0.2, 0.0), (float("nan"), 1.0)):
        with pytest.raises(CheckpointError, match="must be finite"):
            import_checkpoint(small, tmp_path / "c", "c", "dao-p", energy_scale=scale)
    file = lightning(OrderedDict(small_weights(), **{"scaler.means": torch.tensor(0.25), "scaler.stds": torch.ones(1)}))
    own = import_checkpoint(save_ckpt(tmp_path / "d.ckpt", file), tmp_path / "d", "d", energy_scale=(0.2, 0.3))
    assert own.architecture["energy_mean"] == 0.25  # what the file says goes first


def test_kind(tmp_path, small):
    with pytest.raises(CheckpointError, match="--kind dao-g or dao-p"):
        import_checkpoint(small, tmp_path / "a", "a")
    with pytest.raises(CheckpointError, match="is not a kind"):
        import_checkpoint(small, tmp_path / "a", "a", "dao-x")
    content = lightning(small_weights(), hyper_parameters={"model": {"_target_": "dao.models.DAO_G"}})
    assert import_checkpoint(save_ckpt(tmp_path / "g.ckpt", content), tmp_path / "g", "g").kind == "dao-g"
    assert not (tmp_path / "a").exists()


def test_does_not_overwrite(tmp_path, small):
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="already"):
        import_checkpoint(small, tmp_path / "out", "out", "dao-g")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("decoder.coord_out.weight"), "missing.*score_out"),
        (lambda w: w.pop("decoder.atom_latent_emb.weight"), "missing"),
        (lambda w: w.update({"decoder.surprise": torch.zeros(2)}), "does not know.*surprise"),
        (lambda w: w.update({"encoder.weight": torch.zeros(2)}), "encoder.weight"),
        (lambda w: w.update({"decoder.coord_out.weight": torch.zeros(4, 8)}), "shape.*coord_out"),
        (lambda w: w.update({"decoder.coord_out.weight": "text"}), "no tensor"),
        (lambda w: w.update({"decoder.coord_out.weight": torch.full((3, 8), torch.nan)}), "undefined.*coord_out"),
        (lambda w: w.update({"decoder.coord_out.weight": torch.zeros(1).expand(3, 8)}), "beyond its storage"),
        (lambda w: w.update({"decoder.block_7.ffn.norm.bias": torch.zeros(8)}), "missing"),
        (lambda w: w.update({BLOCK + "edge_norm.weight": torch.zeros(22)}), "fit no Crysformer"),
        (lambda w: w.update({"decoder.energy_out.2.bias": torch.zeros(1)}), "twice"),
        (lambda w: w.clear(), "missing"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, said):
    weights = small_weights()
    change(weights)
    file = save_ckpt(tmp_path / "a.ckpt", lightning(weights))
    with pytest.raises(CheckpointError, match=said) as caught:
        import_checkpoint(file, tmp_path / "out", "a", "dao-g")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


# --- hostile files ---


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def touch(path: Path) -> str:
    return f"touch {path}"


def code(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


HOSTILE = {
    "os.system": lambda p: pickle.dumps(Calls(os.system, touch(p)), 2),
    "builtins.eval": lambda p: pickle.dumps(Calls(eval, code(p)), 2),
    "builtins.exec": lambda p: pickle.dumps(Calls(exec, code(p)), 4),
    "builtins.getattr": lambda p: b"cbuiltins\ngetattr\n(cforgotten\nos\n" + text("system") + b"tR.",
    "__builtin__.eval": lambda p: b"\x80\x02c__builtin__\neval\n(" + text(code(p)) + b"tR.",
    "python 2 commands": lambda p: b"ccommands\ngetoutput\n(" + text(touch(p)) + b"tR.",
    "subprocess.Popen": lambda p: pickle.dumps(Calls(subprocess.Popen, ["touch", str(p)]), 2),
    "torch.load": lambda p: pickle.dumps(Calls(torch.load, str(p)), 2),
    "torch.hub": lambda p: b"ctorch.hub\nload\n(" + text("x") + b"tR.",
    "pickle.loads": lambda p: pickle.dumps(Calls(pickle.loads, pickle.dumps(Calls(os.system, touch(p)))), 4),
    "operator.attrgetter": lambda p: b"coperator\nattrgetter\n(" + text("system") + b"tR(cforgotten\nos\ntR.",
    "functools.partial": lambda p: b"cfunctools\npartial\n(cforgotten\nx\n" + text(touch(p)) + b"tR.",
    "cloudpickle": lambda p: b"ccloudpickle.cloudpickle\n_make_function\n)R.",
    "importlib": lambda p: b"cimportlib\nimport_module\n(" + text("os") + b"tR.",
    "INST": lambda p: b"(" + text(touch(p)) + b"ios\nsystem\n.",
    "OBJ": lambda p: b"(cos\nsystem\n" + text(touch(p)) + b"o.",
    "NEWOBJ": lambda p: b"\x80\x02cos\nsystem\n(" + text(touch(p)) + b"t\x81.",
    "NEWOBJ_EX": lambda p: b"\x80\x04cos\nsystem\n(" + text(touch(p)) + b"t}\x92.",
    "STACK_GLOBAL": lambda p: b"\x80\x04" + text("os") + text("system") + b"\x93(" + text(touch(p)) + b"tR.",
    "dotted name": lambda p: b"\x80\x04" + text("forgotten") + text("os system") + b"\x93.",
    "BUILD": lambda p: b"cforgotten\nThing\n)\x81}(" + text("__setstate__") + b"cos\nsystem\nub.",
    "BUILD slots": lambda p: b"cforgotten\nThing\n)\x81N}(" + text("x") + b"cposix\nsystem\nu\x86b.",
    "argument of a foreign call": lambda p: b"cforgotten\nmap\n(cos\nsystem\n](" + text(touch(p)) + b"etR.",
    "never called": lambda p: b"cnt\nsystem\n.",
    "extension registry": lambda p: b"\x82\x01.",
    "text persistent id": lambda p: b"Pstorage\n.",
    "persistent id": lambda p: b"(" + text("storage") + b"cos\nsystem\n" + text("0") + text("cpu") + b"K\x01tQ.",
}


OTHER_REASONS = {"extension registry": "opcode EXT1", "text persistent id": "opcode PERSID"}


@pytest.mark.parametrize("nested", [False, True], ids=["alone", "in hyper_parameters"])
@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_pickles_are_refused_and_do_nothing(tmp_path, small, attack, nested):
    mark = tmp_path / "it-ran"
    program = HOSTILE[attack](mark)
    if nested:  # the honest program, then hyper_parameters = the hostile one's object
        honest = pickle_of(small)
        body = program.removesuffix(b".")
        program = honest.removesuffix(b".") + text("hyper_parameters") + body.removeprefix(b"\x80" + body[1:2]) + b"s."
    file = rewrite(small, tmp_path / "hostile.ckpt", data_pkl=program)
    with pytest.raises(CheckpointError, match=OTHER_REASONS.get(attack, "it refers to '")) as caught:
        import_checkpoint(file, tmp_path / "out", "out", "dao-g")
    assert not mark.exists()
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


MANY = 100_000
BOMBS = {
    "a key whose hash overflows the stack": b"}" + b")" + b"\x85" * 3 * MANY + b"K\x01s.",
    "a set member whose hash never ends": b"\x80\x04\x8f)q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"(h\x00\x90.",
    "nested lists": b"]" * MANY + b"a" * (MANY - 1) + b".",
    "nested foreign objects": b"cforgotten\nx\nq\x00" + b"h\x00" * 30_000 + b")" + b"R\x85" * 30_000 + b".",
    "nested states": b"cforgotten\nx\n)\x81q\x00" + b"h\x00b" * MANY + b".",
    "a memo index of two billion": b"Nr\xff\xff\xff\x7f.",
    "a length of 2**62": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",
    "an endless name": b"\x80\x04" + text("a" * 10**6) + b"q\x00" + b"h\x00h\x00\x93" * 1000 + b".",
    "marks": b"(" * MANY + b".",
    "nothing": b"",
    "no stop": b"N",
    "an empty stack": b".",
    "a list of itself": b"}" + text("state_dict") + b"}s" + text("hyper_parameters") + b"]q\x00h\x00as.",
    "too long": b"N0" * 2**22 + b"N.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_at_once(tmp_path, small, bomb):
    file = rewrite(small, tmp_path / "bomb.ckpt", data_pkl=BOMBS[bomb])
    with pytest.raises(CheckpointError):
        import_checkpoint(file, tmp_path / "out", "out", "dao-g")


@pytest.mark.parametrize(
    ("storage_size", "layout"),
    [
        (16, (0, (4, 5), (5, 1))),
        (16, (8, (4, 4), (4, 1))),
        (16, (-1, (4, 4), (4, 1))),
        (16, (0, (4, 4), (-4, 1))),
        (16, (0, (4, 4), (0, 0, 1))),
        (16, (0, (4, 4), (8, 1))),
        (16, (0, (2,) * 20, (0,) * 20)),
        (16, (0, (10**9, 10**9), (0, 0))),
        (16, (10**3000, (4, 4), (4, 1))),
        (16, (0.0, (4, 4), (4, 1))),
        (16, (0, (True, 4), (4, 1))),
        (16, (0, "44", "41")),
        (10**12, (0, (10**6, 10**6), (10**6, 1))),
        (17, (0, (4, 4), (4, 1))),
        (-16, (0, (4, 4), (4, 1))),
        ("16", (0, (4, 4), (4, 1))),
    ],
)
def test_tensors_stay_within_their_data(tmp_path, small, storage_size, layout):
    # a state_dict with one tensor, which would be read as the energy scaler's mean
    def frag(value: object) -> bytes:
        return pickle.dumps(value, 2).removeprefix(b"\x80\x02").removesuffix(b".")

    reference = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + frag(storage_size) + b"tQ"
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + b"".join(frag(part) for part in layout) + b"tR"
    honest = pickle_of(small).removesuffix(b".")
    scaler = b"}" + text("mean") + tensor + b"s" + text("std") + b"K\x01s"
    file = rewrite(small, tmp_path / "a.ckpt", data_pkl=honest + text("scaler") + scaler + b"s.", data_0=bytes(64))
    with pytest.raises(CheckpointError):
        import_checkpoint(file, tmp_path / "out", "out", "dao-p")


def test_files_that_are_no_checkpoints(tmp_path, small):
    honest = small.read_bytes()
    legacy = tmp_path / "legacy"
    torch.save({"state_dict": {}}, legacy, _use_new_zipfile_serialization=False)
    files = {
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "truncated": honest[: len(honest) // 2],
        "legacy pickle": legacy.read_bytes(),
        "plain pickle": pickle.dumps({"state_dict": {}}),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match="not a whole zip archive") as caught:
            import_checkpoint(tmp_path / name, tmp_path / "out", "out", "dao-g")
        assert "\n" not in str(caught.value)
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(CheckpointError, match="no such file"):
            import_checkpoint(path, tmp_path / "out", "out", "dao-g")


def test_archives_that_torch_does_not_write(tmp_path, small):
    with zipfile.ZipFile(small) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weight = next(name for name in members if name.endswith("/data/5"))
    cases = {
        "compressed": (members, zipfile.ZIP_DEFLATED),
        "hold one data.pkl": (members | {"other/data.pkl": b"N."}, zipfile.ZIP_STORED),
        "size that the pickle says": (members | {weight: members[weight] + b"\0"}, zipfile.ZIP_STORED),
        "no item named": ({name: data for name, data in members.items() if name != weight}, zipfile.ZIP_STORED),
        "no state_dict": ({name: b"]." if name.endswith(".pkl") else b"" for name in members}, zipfile.ZIP_STORED),
    }
    for said, (content, method) in cases.items():
        with zipfile.ZipFile(tmp_path / "a.ckpt", "w", method) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        with pytest.raises(CheckpointError, match=said):
            import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out", "out", "dao-g")


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four changes: a byte, an opcode, a piece left out, or a piece doubled."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(out))
        match chance.randrange(4):
            case 0:
                out[at] ^= 1 << chance.randrange(8)
            case 1:
                out[at] = chance.choice(b"().0NRQabcdeghijloqrstu}]\x81\x85\x86\x87\x90\x92\x93\x94")
            case 2:
                del out[at : at + chance.randint(1, 20)]
            case 3:
                out[at:at] = out[at : at + chance.randint(1, 20)]
    return bytes(out)


EVENTS: list[str] = []


@pytest.fixture(scope="module")
def watch():
    """Everything that an audit hook sees of running foreign code; hooks cannot be removed, so it is switched off.

    Code of a file (a codec of the standard library, loaded when first needed) is not meant, code of a string is.
    """
    on = [True]
    names = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "exec", "compile", "pickle.find_class"}

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if on[0] and event in names and getattr(arguments[0], "co_filename", "<string>") == "<string>":
            EVENTS.append(f"{event} {arguments!a:.300}")

    sys.addaudithook(hook)
    yield EVENTS
    on[0] = False


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of a mutated STRING opcode
def test_mutated_files_import_or_are_refused(tmp_path, watch):
    chance = random.Random(0)
    mark = tmp_path / "it-ran"
    content = {"state_dict": small_weights(), "hyper_parameters": {"command": Calls(os.system, touch(mark))}}
    hostile = save_ckpt(tmp_path / "hostile.ckpt", content)
    content["hyper_parameters"] = {"config": forgotten("Config", content=[1, 2, {"a": (3, b"x")}])}
    honest = save_ckpt(tmp_path / "honest.ckpt", content)
    import_checkpoint(honest, tmp_path / "honest", "honest", "dao-g")  # what is loaded late is loaded now
    watch.clear()
    target, outcomes = tmp_path / "mutated.ckpt", {"imported": 0, "refused": 0}
    for round_ in range(1200):
        if round_ % 3 == 0:  # the zip archive itself
            target.write_bytes(mutated(honest.read_bytes(), chance))
        else:
            source = (honest, hostile)[round_ % 2]
            rewrite(source, target, data_pkl=mutated(pickle_of(source), chance))
        out = tmp_path / str(round_)
        try:
            import_checkpoint(target, out, "out", "dao-g")
            outcomes["imported"] += 1
            load(out)
        except CheckpointError as error:
            assert not out.exists()
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert not mark.exists()
    assert watch == []
    assert min(outcomes.values()) > 10, outcomes
