"""`edgemobile ci` as a pipeline meets it: every kind of problem turns it red, with its exit code, and nothing unchanged
runs again."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from made_runs import make_case, make_counted, make_run

from edgemobile.devices.host.records import Run, save_run
from edgemobile.errors import EdgemobileError
from edgemobile.gate.cache import Cache
from edgemobile.gate.load import load_gate
from edgemobile.gate.run import run_gate
from edgemobile.util.config_file import read_config
from edgemobile.util.progress import Report, Silent

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

_NARROW = 'model = "v3-small"\nweights = "random"\nwidth = 0.35\nres = 32\nclasses = 10\nformats = ["onnx"]\n'


@pytest.fixture
def gate(edgemobile, colour_model, colour_photos: Path, tmp_path: Path) -> Callable[..., Any]:
    """Runs the gate over `right.onnx` and what `text` says besides, in a folder with `swapped.onnx` and the photos."""
    (tmp_path / "right.onnx").write_bytes(colour_model("bgr"))
    (tmp_path / "swapped.onnx").write_bytes(colour_model("brg"))
    (tmp_path / "photos").symlink_to(colour_photos)

    def run(text: str = "", *args: object, files: str = "right.onnx", settings: str = "layers = false") -> Any:
        names = ", ".join(f'"{name}"' for name in files.split())
        Path("edgemobile.toml").write_text(
            f'[gate]\nimages = 4\n{settings}\n[models.colours]\nmodel = "right.onnx"\nfiles = [{names}]\n{text}\n'
        )
        return edgemobile("ci", *args)

    return run


def _checks(ran: Any) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(check["file"], check["what"], check["outcome"]): check for check in json.loads(ran.out)["checks"]}


# ---- a first edgemobile.toml ----------------------------------------------------------------------------------------


def test_init_writes_a_gate_that_is_green_and_tight(edgemobile, tmp_path: Path) -> None:
    """Its own bounds hold, and each is near what was measured."""
    pytest.importorskip("torch")
    ran = edgemobile("ci", "init", "v3-small", "-q")
    assert (ran.code, ran.err) == (0, "")
    assert "wrote edgemobile.toml" in ran.out
    checks = _checks(edgemobile("ci", "--json"))
    assert {outcome for _, _, outcome in checks} == {"passed"}
    (entry,) = load_gate(read_config(tmp_path / "edgemobile.toml")).models
    assert (entry.name, entry.model, entry.weights) == ("v3-small", "v3-small", None)
    assert len(entry.size) == 4
    for selector, most in entry.size.items():
        found = checks[f"v3-small-{selector}", "size", "passed"]["values"]["bytes"]
        assert found * 1.01 <= most <= found * 1.03
    least = min(checks[f"v3-small-int8.{end}", "outputs", "passed"]["values"]["sqnr_db"] for end in ("onnx", "tflite"))
    assert least - 3 < entry.tolerances["int8"]["sqnr_db"] <= least - 2
    assert entry.tolerances["int8"]["top1_agree"] == 0.95


def test_init_takes_a_checkpoint_and_says_which_model_it_is(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from safetensors.torch import save_file

    from edgemobile.gate.draft import draft_model
    from edgemobile.loading.checkpoint import load_weights
    from edgemobile.models.arch import get_arch

    state = load_weights("random", get_arch("v3-small"), width=0.35, classes=10).state_dict
    save_file(dict(state), tmp_path / "mine.safetensors")
    found = draft_model(str(tmp_path / "mine.safetensors"), calib=Path("photos"))
    wanted = {"model": "v3-small", "weights": str(tmp_path / "mine.safetensors"), "calib": "photos"}
    assert (found.name, found.keys) == ("mine", wanted)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("v3-smal",), "'v3-smal'"),
        (("v3-small", "v3-small"), "two models are called v3-small"),
        (("v3-small", "v2", "--weights", "random"), "--weights applies to one model"),
    ],
)
def test_init_refuses_before_it_works(edgemobile, words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    ran = edgemobile("ci", "init", *words)
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert not list(tmp_path.iterdir())


def test_init_replaces_nothing(edgemobile) -> None:
    Path("edgemobile.toml").write_text("[models.v2]\n")
    ran = edgemobile("ci", "init", "v3-small")
    assert (ran.code, "exists already" in ran.err) == (2, True), ran.err
    assert Path("edgemobile.toml").read_text() == "[models.v2]\n"


# ---- a dry run ------------------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing_and_judges_what_is_kept(gate, tmp_path: Path) -> None:
    ran = gate("", "--dry-run", "--json")
    assert ran.code == 0
    assert [(check["what"], check["outcome"]) for check in json.loads(ran.out)["checks"]] == [
        ("size", "passed"),
        ("parity", "would_run"),
    ]
    assert not (tmp_path / ".edgemobile").exists()
    assert gate().code == 0
    checks = json.loads(gate("size.onnx = 10", "--dry-run", "--json").out)["checks"]
    assert [(check["what"], check["outcome"]) for check in checks] == [("size", "failed"), ("outputs", "passed")]
    assert "over its budget (edgemobile.toml:7: models.colours.size.onnx)" in checks[0]["words"][0]


def test_a_missed_bound_is_named_with_its_line(gate) -> None:
    ran = gate("tolerances.float32 = { sqnr_db = 500 }", files="swapped.onnx")
    assert ran.code == 1
    assert "edgemobile.toml:7: models.colours.tolerances.float32.sqnr_db" in ran.out
    assert "top1_agree" not in ran.out.partition("bound is set in")[2]


def test_junit_has_the_time_of_each_check(gate) -> None:
    assert gate("", "--junit", "gate.xml").code == 0
    suite = ElementTree.parse("gate.xml").getroot()[0]
    times = [float(case.get("time", "0")) for case in suite.iter("testcase")]
    assert max(times) > 0.001
    assert float(suite.get("time", "0")) == pytest.approx(sum(times), abs=0.01)


# ---- green, and not run again ---------------------------------------------------------------------------------------


def test_green(gate, tmp_path: Path) -> None:
    ran = gate('size.onnx = "10 KiB"\naccuracy = { data = "photos", max_drop = 0 }', "--junit", "gate.xml")
    assert (ran.code, ran.err) == (0, "")
    assert "3 checks of 1 model: 3 pass" in ran.out
    suites = ElementTree.parse("gate.xml").getroot()
    assert (suites.get("tests"), suites.get("failures"), suites.get("errors")) == ("3", "0", "0")
    assert [case.get("name") for case in suites.iter("testcase")] == [
        "size on here",
        "outputs on onnxruntime",
        "top-1 on here",
    ]


def test_an_export_runs_once(edgemobile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First all, then nothing; a budget costs no run; what is damaged or was changed by hand is made again."""
    pytest.importorskip("torch")
    config = tmp_path / "edgemobile.toml"
    config.write_text(f"[gate]\nimages = 2\n[models.narrow]\n{_NARROW}")
    ran = edgemobile("ci", "--json")
    assert ran.code == 0, ran.out
    found = _checks(ran)
    names = {"v3-small-float32.onnx", "v3-small-int8.onnx"}
    assert {file for file, _, _ in found} == names
    assert {what for _, what, _ in found} == {"size", "outputs", "layers"}
    assert not any(check["kept"] for check in found.values())

    def refuse(*args: object) -> None:
        raise AssertionError("nothing has changed, and it ran")

    with monkeypatch.context() as patch:
        patch.setattr("edgemobile.pipeline.export.export", refuse)
        patch.setattr("edgemobile.comparison.run.parity", refuse)
        ran = edgemobile("ci", "--json")
        assert ran.code == 0
        assert all(check["kept"] for check in _checks(ran).values())
        config.write_text(config.read_text() + "size.int8 = 1000\n")
        ran = edgemobile("ci", "--json")
        assert ran.code == 1
        assert ("v3-small-int8.onnx", "size", "failed") in _checks(ran)

    (entry,) = tmp_path.glob(".edgemobile/results/parity-*.json")
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-100])
    kept = {what: check["kept"] for (_, what, _), check in _checks(edgemobile("ci", "--json")).items()}
    assert kept == {"size": True, "outputs": False, "layers": False}
    assert entry.read_bytes() == whole

    (file,) = tmp_path.glob(".edgemobile/files/*/v3-small-int8.onnx")
    exported = file.read_bytes()
    file.write_bytes(exported[:-1] + b"?")
    kept = {what: check["kept"] for (_, what, _), check in _checks(edgemobile("ci", "--json")).items()}
    assert kept == {"size": False, "outputs": True, "layers": True}
    assert file.read_bytes() == exported

    monkeypatch.setattr("edgemobile.pipeline.export.export", refuse)
    ran = edgemobile("ci", "--force")
    assert (ran.code, "AssertionError: nothing has changed, and it ran" in ran.out) == (1, True)


def test_a_run_waits_for_another_on_its_cache(gate, tmp_path: Path) -> None:
    """Both would export into one folder, and the second would find it taken."""
    assert gate().code == 0
    waited: list[str] = []

    class Waiting(Silent):
        def step(self, title: str, total: int | None = None) -> AbstractContextManager[Report]:
            waited.append(title)
            holder.release.set()
            return super().step(title, total)

    holder = _Holder(tmp_path / ".edgemobile")
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(holder)
        holder.holds.wait(20)
        report = run_gate(load_gate(read_config(tmp_path / "edgemobile.toml")), progress=Waiting())
        held.result()
    assert waited[0] == "wait for another run on .edgemobile"
    assert report.passed


class _Holder:
    """Another run: it holds the cache until it is told to release it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.holds, self.release = folder, Event(), Event()

    def __call__(self) -> None:
        with Cache(self.folder).held(Silent()):
            self.holds.set()
            assert self.release.wait(20)


def test_a_cache_that_cannot_be_written_is_one_line(gate, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    ran = gate(settings='layers = false\ncache = "taken"')
    assert (ran.code, "cannot write the cache taken" in ran.err) == (2, True), ran.err


def test_a_folder_that_lost_or_gained_a_file_is_made_again(edgemobile, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    models = (f'[models.{name}]\n{_NARROW}precisions = ["float32"]\n' for name in ("narrow", "twin"))
    (tmp_path / "edgemobile.toml").write_text("[gate]\nimages = 2\nlayers = false\n" + "".join(models))
    assert edgemobile("ci").code == 0
    (folder,) = tmp_path.glob(".edgemobile/files/narrow-*")
    whole = sorted(path.name for path in folder.iterdir())
    for options in ((), ("--force",)):
        (folder / "notes.txt").write_text("mine")
        assert edgemobile("ci", *options).code == 0
        assert sorted(path.name for path in folder.iterdir()) == whole
        (folder / "manifest.json").unlink()
        assert edgemobile("ci", *options).code == 0
        assert sorted(path.name for path in folder.iterdir()) == whole
    assert "4 checks of 2 models: 4 pass; 4 of them not changed" in edgemobile("ci").out


def test_what_is_said_beside_a_checkpoint_counts(edgemobile, tmp_path: Path) -> None:
    """A file beside the weights that comes, or goes, is no longer the same model."""
    pytest.importorskip("torch")
    from safetensors.torch import save_file

    from edgemobile.loading.checkpoint import load_weights
    from edgemobile.models.arch import get_arch

    state = load_weights("random", get_arch("v3-small"), width=0.35, classes=10).state_dict
    save_file(dict(state), tmp_path / "mine.safetensors")
    (tmp_path / "edgemobile.toml").write_text(
        "[gate]\nimages = 2\nlayers = false\n"
        + f"[models.narrow]\n{_NARROW}".replace('"random"', '"mine.safetensors"')
        + 'precisions = ["float32"]\n'
    )
    assert edgemobile("ci").code == 0
    for name, facts, said in (
        ("mine.json", {"sha256": "00"}, "describes another file"),
        ("mine.safetensors.json", {"labels": ["a", "b"]}, "the labels next to it have 2"),
        ("config.json", {"pretrained_cfg": {}}, "a pretrained_cfg that cannot be used"),
    ):
        (tmp_path / name).write_text(json.dumps(facts))
        ran = edgemobile("ci")
        assert (ran.code, said in ran.out) == (2, True), ran.out
        (tmp_path / name).unlink()
        assert "not changed" in edgemobile("ci").out


@pytest.mark.parametrize("name", ["labels.txt", "my-labels.txt"])
def test_labels_beside_a_file_count(gate, name: str, tmp_path: Path) -> None:
    def top1(text: str | None) -> tuple[str, bool]:
        (tmp_path / name).unlink(missing_ok=True)
        if text is not None:
            (tmp_path / name).write_text(text)
        ran = gate('accuracy = { data = "photos", max_drop = 0 }', "--json")
        check = next(check for (_, what, _), check in _checks(ran).items() if what == "top-1")
        return check["found"], check["kept"]

    assert top1(None) == ("100.00%", False)
    assert top1("red\ngreen\nblue\n") == ("33.33%", False)
    assert top1("blue\ngreen\nred\n") == ("100.00%", False)
    assert top1(None) == ("100.00%", True)


def test_another_seed_is_another_measurement(gate) -> None:
    def kept(settings: str) -> bool:
        checks = _checks(gate("", "--json", settings=f"layers = false\n{settings}"))
        return next(check["kept"] for (_, what, _), check in checks.items() if what == "outputs")

    assert [kept(f"seed = {seed}") for seed in (0, 1, 0, 1)] == [False, False, True, True]


# ---- red ------------------------------------------------------------------------------------------------------------


def test_a_file_that_says_something_else(gate) -> None:
    ran = gate(files="right.onnx swapped.onnx")
    assert ran.code == 1
    assert "FAIL colours swapped.onnx outputs on onnxruntime: sqnr_db" in ran.out
    again = gate(files="right.onnx swapped.onnx")
    assert again.code == 1
    assert "4 of them not changed" in again.out


def test_a_flipped_bit_is_named_by_its_layer(edgemobile, tmp_path: Path) -> None:
    """The first road in again: an export in the gate, and one weight of a copy of it damaged."""
    pytest.importorskip("torch")
    import onnx

    (tmp_path / "edgemobile.toml").write_text(
        f'[gate]\nimages = 2\nlayers = false\n[models.narrow]\n{_NARROW}precisions = ["float32"]\n'
    )
    assert edgemobile("ci").code == 0
    (file,) = tmp_path.glob(".edgemobile/files/*/*.onnx")
    model = onnx.load(file)
    weight = next(one for one in model.graph.initializer if one.name == "features.4.block.1.0.weight")
    data = np.frombuffer(weight.raw_data, np.uint32).copy()
    data[7] ^= 1 << 27
    weight.raw_data = data.tobytes()
    (tmp_path / "flipped.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "edgemobile.toml").write_text(
        f'[gate]\nimages = 2\n[models.narrow]\nmodel = "{file.relative_to(tmp_path)}"\nfiles = ["flipped.onnx"]\n'
    )
    ran = edgemobile("ci", "--junit", "gate.xml", "--github-summary")
    assert ran.code == 1
    assert "FAIL narrow flipped.onnx layers on onnxruntime: layer features.4.block.1.1 (conv2d) diverges" in ran.out
    assert "bit 27 of features.4.block.1.0.weight[0, 1, 2, 0] is flipped" in ran.out
    assert "layer features.4.block.1.1" in Path("gate.xml").read_text()
    assert "### edgemobile ci: FAILED" in ran.out


@pytest.mark.parametrize(
    ("text", "options", "code", "said"),
    [
        ("size.onnx = 100", {}, 1, "bytes, "),
        # Every budget that means a file is held, not the widest alone.
        ('size.onnx = "10 KiB"\nsize.float32 = 100', {}, 1, "over its budget"),
        ("size.tflite = 100", {}, 2, "the budget of tflite does not match any of the files: right.onnx"),
        ("tolerances.float32.max_abs = -1", {}, 1, "max_abs 0 misses the tolerance of -1"),
        ('accuracy = { data = "photos", max_drop = 1 }', {"files": "right.onnx swapped.onnx"}, 1, "lost 66.67 points"),
        ('accuracy = { data = "none.zip", max_drop = 1 }', {}, 2, "none.zip"),
        ("", {"files": "none.onnx"}, 2, "cannot read none.onnx"),
        ("", {"files": "right.onnx x/right.onnx"}, 2, "two files are called right.onnx"),
        ('[devices."ssh://127.0.0.1:1"]', {}, 4, "is not reachable"),
        ('[devices."emulated:cortex-a72"]', {}, 3, "missing colours device on emulated:cortex-a72"),
        ("[devices.pi9]", {}, 2, "there is no device 'pi9'"),
        ('[devices."emulated:cortex-a72"]\nrequired = false', {}, 0, "skipped colours device on emulated:cortex-a72"),
        ('[devices.local]\nformats = ["tflite"]', {}, 0, "skipped colours device on local: none of its files"),
        # All problems are told, and the code is that of the most serious.
        (
            'size.onnx = 100\n[devices."ssh://127.0.0.1:1"]\n[devices."emulated:cortex-a72"]',
            {},
            1,
            "1 FAIL, 1 missing, 1 no device",
        ),
    ],
)
def test_red(
    gate, text: str, options: dict[str, str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEMOBILE_DEVICES", str(tmp_path / "devices.toml"))
    ran = gate(text, **options)
    assert ran.code == code, ran.out + ran.err
    assert said in ran.out


def test_a_file_that_is_not_finite_loses_nothing_and_fails(gate, colour_model, tmp_path: Path) -> None:
    (tmp_path / "nan.onnx").write_bytes(colour_model("bgr", gain=np.nan))
    ran = gate('accuracy = { data = "photos", max_drop = 1 }', files="nan.onnx")
    assert ran.code == 1
    assert "FAIL colours nan.onnx top-1 on here: its outputs are not finite for 18 of 18 images" in ran.out


def test_a_dependency_that_is_missing(gate, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgemobile.errors import MissingExtra

    def missing(*args: object) -> None:
        raise MissingExtra("onnxruntime is not installed")

    monkeypatch.setattr("edgemobile.comparison.run.parity", missing)
    ran = gate("", "--junit", "gate.xml")
    assert ran.code == 3
    (error,) = ElementTree.parse("gate.xml").getroot().iter("error")
    assert error.get("message") == "onnxruntime is not installed"


def test_a_crash_is_a_failed_check_and_stops_no_other(gate, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgemobile.comparison.run import parity

    def loose(request: Any, progress: Any) -> Any:
        if request.others == ("right.onnx",):
            raise ValueError("a loose\nend")
        return parity(request, progress)

    monkeypatch.setattr("edgemobile.comparison.run.parity", loose)
    ran = gate('[models.other]\nmodel = "right.onnx"\nfiles = ["swapped.onnx"]', "--junit", "gate.xml")
    assert ran.code == 1
    assert "FAIL colours parity on here: ValueError: a loose end (at test_ci.py:" in ran.out
    assert "FAIL other swapped.onnx outputs on onnxruntime" in ran.out
    suites = ElementTree.parse("gate.xml").getroot()
    assert [suite.get("failures") for suite in suites] == ["1", "1"]


# ---- devices --------------------------------------------------------------------------------------------------------


def _run(name: str, ms: float = 1.0, spread: float = 0.001, count: int | None = None, **changes: Any) -> Run:
    """What a board, or an emulated core, would measure of one file."""
    known = {"precision": "float32", "runtime": "onnxruntime"}
    case = (
        make_counted(name, [count], **known)
        if count
        else make_case(name, ms, spread, rounds_per_process=(2,) * 5, **known)
    )
    return make_run(case, **{"device": "local", **changes})


@pytest.mark.parametrize(
    ("measured", "baseline", "text", "code", "said"),
    [
        ({"ms": 2.0}, None, "", 0, "2.00 ms"),
        (
            {"ms": 2.0, "spread": 0.2},
            None,
            "",
            5,
            "unstable colours right.onnx latency on local: the interquartile range",
        ),
        ({"ms": 2.0}, {"ms": 2.0}, "", 0, "+0.00%"),
        ({"ms": 2.0}, {"ms": 1.8}, "", 1, "FAIL colours right.onnx baseline on local: +11.11% of time"),
        ({"ms": 2.0}, {"ms": 1.8, "device": "pi5"}, "", 2, "device pi5 against local"),
        ({"ms": 2.0}, {"ms": 1.8, "name": "other.onnx"}, "", 2, "has no right.onnx"),
        ({"ms": 2.0}, {"count": 10**6}, "", 2, "they cannot be compared"),
        ({"count": 10**6}, None, 'instructions.local = { onnx = "1M" }', 0, "1.000 M of 1.000 M"),
        ({"count": 10**6 + 1}, None, 'instructions.local = { onnx = "1M" }', 1, "0.00% over its budget"),
        ({"count": 1_100_000}, {"count": 10**6}, "", 1, "+10.00% of instructions"),
        ({"ms": 2.0}, None, 'instructions.local = { onnx = "1M" }', 2, "local is not emulated"),
    ],
)
def test_on_a_device(
    gate,
    measured: dict[str, Any],
    baseline: dict[str, Any] | None,
    text: str,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def bench(request: Any, progress: Any) -> Run:
        calls.append(request)
        return _run(str(request.files[0].path), **measured)

    monkeypatch.setattr("edgemobile.latency.boards.bench", bench)
    device = "[devices.local]\n"
    if baseline is not None:
        save_run(_run(**{"name": "right.onnx", **baseline}), Path("base.json"))
        device += 'baseline = "base.json"\nmax_regress = "5%"\n'
    ran = gate(f"{text}\n{device}")
    assert ran.code == code, ran.out + ran.err
    assert said in ran.out
    gate(f"{text}\n{device}")
    # What is stable is kept; what is not is measured again.
    assert len(calls) == (2 if "unstable" in said else 1)


def test_other_runs_or_threads_are_measured_anew(gate, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int | None, tuple[int, ...]]] = []

    def bench(request: Any, progress: Any) -> Run:
        asked.append((request.settings.runs, request.settings.threads))
        return _run(str(request.files[0].path), ms=2.0)

    monkeypatch.setattr("edgemobile.latency.boards.bench", bench)
    for text in ("runs = 30", "runs = 30\nthreads = 2", "runs = 40", "runs = 30\nthreads = 2", "runs = 30"):
        assert gate(f"[devices.local]\n{text}").code == 0
    assert asked == [(30, (1,)), (30, (2,)), (40, (1,))]


def test_a_budget_nobody_looks_at_is_an_error(gate) -> None:
    """Which precision a file is of shows once it is read."""
    ran = gate('instructions.local.int8 = 1\n[devices.local]\nprecisions = ["int8"]')
    assert ran.code == 2
    assert "the budget of int8 does not match any of the files: none runs on local" in ran.out


# ---- usage ----------------------------------------------------------------------------------------------------------


def test_usage(gate, edgemobile, tmp_path: Path) -> None:
    ran = edgemobile("ci")
    assert ran.code == 2
    assert "edgemobile.toml does not exist" in ran.err
    ran = gate("size = 3")
    assert ran.code == 2
    assert "edgemobile.toml:7: models.colours.size: must be a table" in ran.err
    ran = gate("", "--only", "shapes")
    assert (ran.code, "Models: colours" in ran.err) == (2, True)
    ran = gate("", "--junit", "none/gate.xml")
    assert (ran.code, "the folder none does not exist" in ran.err) == (2, True)
    ran = gate("", "--junit", ".")
    assert (ran.code, "--junit .: this is a folder" in ran.err) == (2, True)
    (tmp_path / "edgemobile.toml").rename(tmp_path / "other.toml")
    assert edgemobile("--config", "other.toml", "ci").code == 0
    assert edgemobile("ci", "--config", "other.toml").code == 0


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("size = 3", (), "models.colours.size: must be a table"),
        ("]", (), "edgemobile.toml"),
        ("[default.export]", (), "default: unknown table"),
        ("", ("--only", "shapes"), "has no [models.shapes]"),
        ("", ("--config", "none.toml"), "none.toml does not exist"),
    ],
)
def test_an_error_leaves_nothing_green(gate, text: str, options: tuple[str, ...], said: str) -> None:
    assert gate("", "--junit", "gate.xml").code == 0
    ran = gate(text, "--junit", "gate.xml", "--json", *options)
    assert ran.code == 2
    told = json.loads(ran.out)
    assert told["exit_code"] == 2
    assert said in told["error"]
    suites = ElementTree.parse("gate.xml").getroot()
    assert (suites.get("tests"), suites.get("errors")) == ("1", "1")
    (error,) = suites.iter("error")
    assert said in str(error.get("message"))


def test_an_interruption_leaves_nothing_green(gate, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gate("", "--junit", "gate.xml").code == 0

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgemobile.comparison.run.parity", interrupted)
    assert gate("", "--force", "--junit", "gate.xml").code == 130
    (error,) = ElementTree.parse("gate.xml").getroot().iter("error")
    assert error.get("message") == "KeyboardInterrupt"


def test_the_summary_of_a_pull_request(gate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert gate("size.onnx = 1", "--github-summary").code == 1
    text = summary.read_text()
    assert text.startswith("before\n### edgemobile ci: FAILED")
    assert "❌ **colours** right.onnx size on here" in text


def test_outcomes_and_codes_agree() -> None:
    from edgemobile.gate.checks import Check, GateReport, Outcome

    def code(*outcomes: Outcome) -> int:
        checks = tuple(Check("m", "f", "size", "here", outcome) for outcome in outcomes)
        return GateReport("edgemobile.toml", checks, 0.0, 0.0).exit_code

    order = [Outcome.PASSED, Outcome.UNSTABLE, Outcome.UNREACHABLE, Outcome.MISSING, Outcome.FAILED, Outcome.WRONG]
    assert [code(outcome) for outcome in order] == [0, 5, 4, 3, 1, 2]
    assert [code(*order[: index + 1]) for index in range(6)] == [0, 5, 4, 3, 1, 2]
    assert code() == 0
    for error in (EdgemobileError, *EdgemobileError.__subclasses__()):
        assert Outcome.of_code(error.exit_code).exit_code == error.exit_code


def test_every_outcome_is_what_junit_calls_it() -> None:
    from edgemobile.gate.checks import Check, GateReport, Outcome
    from edgemobile.gate.output import gate_junit

    checks = tuple(Check("m", outcome.name, "latency", "pi5", outcome, words=("why",)) for outcome in Outcome)
    suites = ElementTree.fromstring(gate_junit(GateReport("edgemobile.toml", checks, 0.0, 0.0)))
    kinds = {"failure", "error", "skipped"}
    found = [[child.tag for child in case if child.tag in kinds] for case in suites.iter("testcase")]
    expected = {Outcome.PASSED: [], Outcome.SKIPPED: ["skipped"], Outcome.WOULD_RUN: ["skipped"]}
    expected |= {outcome: ["failure"] for outcome in (Outcome.FAILED, Outcome.UNSTABLE)}
    assert found == [expected.get(outcome, ["error"]) for outcome in Outcome]
