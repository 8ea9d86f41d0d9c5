"""`edgemobile bench` and `edgemobile compare`: what they print and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgemobile.cli import main
from edgemobile.devices.host.records import Run, load_run
from edgemobile.devices.runtimes.job import INSTRUCTION_CLASSES
from edgemobile.devices.runtimes.table import RUNTIMES
from edgemobile.errors import EdgemobileError
from edgemobile.printing.runs import grouped_instructions
from edgemobile.results.store import read

pytest.importorskip("onnxruntime")

Command = Callable[..., int]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The command line as a shell runs it; gives the exit code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["edgemobile", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run


@pytest.fixture
def model(tmp_path: Path, colour_model: Callable[..., bytes]) -> Path:
    path = tmp_path / "model[1].onnx"
    path.write_bytes(colour_model("bgr"))
    return path


def test_the_table_says_who_computed(
    call: Command, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run.json"
    # Others use this machine: the figures may be unstable, and then it says so.
    code = call("bench", model, "--runs", "30", "--memory", "--profile", "--out", out)
    shown = capsys.readouterr().out
    assert code == (5 if "unstable:" in shown else 0)
    for part in (
        "model[1].onnx",
        "float32",
        "onnxruntime 1.",
        "int8 with",
        "95 % interval",
        "p99",
        "MiB",
        "ReduceMean",
    ):
        assert part in shown
    assert len(load_run(out).cases[0].values_ns) == 30
    assert {file.name for file in tmp_path.iterdir()} == {"run.json", "model[1].onnx", "cache"}


def test_json_has_the_figures_and_the_run(call: Command, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("bench", model, "--runs", "30", "--json")
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    assert len(found["run"]["cases"][0]["rounds_ns"]) == 10
    assert found["cases"][0]["low_ns"] <= found["cases"][0]["median_ns"] <= found["cases"][0]["high_ns"]
    assert found["cases"][0]["count"] == 30


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_nothing_half_written(number: int, code: int, model: Path, tmp_path: Path) -> None:
    words = ["bench", str(model), "--sustained", "1m", "--out", str(tmp_path / "run.json")]
    # A shell starts what it runs in the background with interrupts ignored, and so perhaps these tests.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heed}; import sys; from edgemobile.cli import main; sys.argv[1:] = {words!r}; main()"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, env=environment) as process:
        jobs = tmp_path / "cache" / "edgemobile" / "local" / "jobs"
        while not list(jobs.glob("*/progress.jsonl")) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(20) == code
    (job,) = jobs.iterdir()
    until = time.monotonic() + 20
    while not (job / "run.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert json.loads((job / "run.json").read_text())["ended"] == "stopped"
    assert {file.name for file in tmp_path.iterdir()} == {"model[1].onnx", "cache"}


@pytest.fixture
def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`off` answers nobody, `here` is this machine under another name."""
    file = tmp_path / "devices.toml"
    file.write_text('[off]\naddress = "ssh://127.0.0.1:1"\n[here]\naddress = "local"\n')
    monkeypatch.setenv("EDGEMOBILE_DEVICES", str(file))


@pytest.mark.usefixtures("boards")
def test_boards_that_answer_are_measured(
    call: Command, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("bench", model, "--runs", "20", "--on", "local,off,here", "--out", tmp_path / "run-{device}.json")
    assert call(*words) == 4
    shown = capsys.readouterr()
    # Another measurement on this machine may be waited for first.
    assert "error: off is not reachable: " in shown.err
    assert shown.out.count("95 % interval") == 2
    assert {path.name for path in tmp_path.glob("run-*")} == {"run-local.json", "run-here.json"}
    assert call(*words, "--json") == 4
    first, error, last = json.loads(capsys.readouterr().out)["runs"]
    assert (first["device"], error["device"], last["device"]) == ("local", "off", "here")
    assert "Connection refused" in error["error"]
    assert call("bench", model, "--on", "off") == 4


@pytest.mark.usefixtures("boards")
def test_an_interruption_names_the_runs_before_it(
    call: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgemobile.latency import boards as module

    def measure(request: module.BenchRequest, *rest: object) -> Run:
        if request.device == "here":
            raise KeyboardInterrupt
        return real(request)

    real = module.bench
    monkeypatch.setattr(module, "bench", measure)
    out = tmp_path / "run-{device}.json"
    assert call("bench", model, "--runs", "20", "--on", "local,here", "--out", out) == 130
    assert f"interrupted; written before: {tmp_path / 'run-local.json'}" in capsys.readouterr().err
    assert call("bench", model, "--runs", "20", "--on", "here") == 130
    assert "interrupted; no partial file is left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"), [("folder", "this is a folder"), ("x" * 300, "no file can be created there")]
)
def test_where_no_run_can_be_saved_none_is_measured(
    call: Command,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    said: str,
) -> None:
    monkeypatch.setattr("edgemobile.latency.boards.bench", lambda *args: pytest.fail("measured"))
    (tmp_path / "folder").mkdir()
    assert call("bench", model, "--out", tmp_path / name) == 2
    assert said in capsys.readouterr().err


def test_a_run_that_cannot_be_saved_is_shown(
    call: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(run: Run, path: Path) -> None:
        raise EdgemobileError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("edgemobile.devices.host.records.save_run", fail)
    assert call("bench", model, "--runs", "20", "--out", tmp_path / "run.json") == 2
    shown = capsys.readouterr()
    assert "95 % interval" in shown.out
    assert "No space left" in shown.err


def test_few_values_are_unstable(call: Command, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("bench", model, "--runs", "3") == 5
    assert "unstable: model[1].onnx (1 thread): 3 values in 3 rounds; at least 20 in 5" in capsys.readouterr().out


@pytest.fixture
def saved(call: Command, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    """A saved run of made values: `ms` in every round."""
    call("bench", model, "--runs", "20", "--out", tmp_path / "real.json")
    capsys.readouterr()

    def save(name: str, ms: float, **changes: object) -> Path:
        run = json.loads((tmp_path / "real.json").read_text())
        untold = {"rounds_wall_ns": [], "rounds_cpu_ns": []}
        run["cases"][0].update({"rounds_ns": [[int(ms * 1e6)] * 4] * 5, **untold, **changes})
        run["cases"][0]["rounds_per_process"] = [len(run["cases"][0]["rounds_ns"]) // 5] * 5
        (tmp_path / name).write_text(json.dumps(run))
        return tmp_path / name

    return save


@pytest.mark.parametrize(("ms", "code"), [(1.04, 0), (1.06, 1), (0.5, 0)])
def test_the_gate(
    call: Command, saved: Callable[..., Path], ms: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("compare", saved("a.json", 1), saved("b.json", ms), "--max-regress", "5%") == code
    shown = capsys.readouterr().out
    assert f"{ms:.4f}" in shown
    assert ("regressed" in shown) is (code == 1)
    assert call("compare", saved("a.json", 1), saved("b.json", ms), "--max-regress", "5", "--json") == code
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["judgement"] == ("regressed" if code else "passed")


def test_a_median_beyond_the_limit_alone_leaves_it_open(
    call: Command, saved: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    slower = [[ns] * 4 for ns in (1_080_000, 1_000_000, 1_080_000, 1_000_000, 1_080_000) for _ in range(2)]
    assert call("compare", saved("a.json", 1), saved("b.json", 1, rounds_ns=slower), "--max-regress", "5%") == 5
    assert "measure more runs" in capsys.readouterr().out
    assert call("compare", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Exits 1 if the whole interval is slower than --max-regress allows. Exits 5 if only the median is" in said


def test_the_help_names_every_runtime(call: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("bench", "--help") == 0
    assert ", ".join(RUNTIMES) in " ".join(capsys.readouterr().out.split())


def test_unlike_runs(call: Command, saved: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    pair = saved("a.json", 1), saved("b.json", 2, version="9.9")
    assert call("compare", *pair) == 2
    assert "--allow-unlike" in capsys.readouterr().err
    assert call("compare", *pair, "--allow-unlike") == 0
    assert "different conditions: runtime onnxruntime" in capsys.readouterr().out


def test_an_unstable_run_cannot_pass(
    call: Command, saved: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    drifting = saved("b.json", 1)
    run = json.loads(drifting.read_text())
    run["cases"][0].update(rounds_ns=[[10**6 + 10**5 * index] * 4 for index in range(6)], rounds_per_process=[1] * 6)
    drifting.write_text(json.dumps(run))
    assert call("compare", saved("a.json", 2), drifting, "--max-regress", "5%") == 5
    assert "from the first rounds to the last" in capsys.readouterr().out


def test_bench_against_a_baseline(
    call: Command, saved: Callable[..., Path], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A baseline a million times faster than anything."""
    code = call("bench", model, "--runs", "30", "--baseline", saved("a.json", 1e-6), "--max-regress", "5%")
    shown = capsys.readouterr().out
    assert "regressed: model[1].onnx" in shown
    assert code == (5 if "unstable:" in shown else 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--threads", "0"), "different numbers of at least 1"),
        (("--threads", "1,1"), "different numbers of at least 1"),
        (("--cores", "3-1"), "every core once"),
        (("--seconds", "soon"), "not a duration"),
        (("--cooldown", "warm"), "not a temperature"),
        (("--max-regress", "5%"), "add --baseline RUN.json"),
        (("--max-regress", "much", "--baseline", "x"), "not a percentage"),
        (("--runs", "9", "--seconds", "9"), "set only one of runs, seconds and sustained"),
        (("--runtime", "tensorrt"), "Allowed: onnxruntime, litert, tflite_runtime"),
        (("--runtime", "litert"), "does not read"),
        (("--runtime", "tf.lite"), "runtime 'tensorflow' does not read"),
        (("--on", "nowhere"), "nowhere"),
        (("--on", "local,emulated:cortex-a72", "--out", "run.json"), "the name must contain {device}"),
        (("--out", "no/such/folder/run.json"), "does not exist"),
        (("--baseline", "none.json"), "cannot read none.json"),
    ],
)
def test_mistakes_are_one_line(
    call: Command, model: Path, options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("bench", model, *options) == 2
    error = capsys.readouterr().err
    assert said in error.replace("\n", " ")
    assert "Traceback" not in error


def test_what_is_no_file(call: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("not a model")
    assert call("bench", tmp_path / "notes.txt") == 2
    assert "neither TFLite" in capsys.readouterr().err


def test_classes_as_shown_sum_to_all() -> None:
    counts = dict.fromkeys(INSTRUCTION_CLASSES, 1) | {"total": len(INSTRUCTION_CLASSES) - 1}
    grouped = grouped_instructions(counts)
    assert grouped == {"dot": 2, "mla": 2, "loads": 2, "other": 7}


def test_a_file_that_is_refused_is_told_and_the_others_are_measured(
    call: Command, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(model.read_bytes()[:200])
    assert call("bench", model, torn, "--runs", "2", "--processes", "1") == 2
    shown = capsys.readouterr().out
    assert "95 % interval" in shown
    assert "refused: torn.onnx: onnxruntime cannot open" in shown


@pytest.mark.parametrize("shape", ["1x3", "image=", "image=1xN", "image=0x3", "=1x3", "image=1x-3"])
def test_a_shape_is_a_name_and_sizes(
    call: Command, model: Path, capsys: pytest.CaptureFixture[str], shape: str
) -> None:
    assert call("bench", model, "--shape", shape) == 2
    assert "NAME=SIZES, such as input=1x3x224x224" in capsys.readouterr().err


def test_files_of_one_name_are_told_apart(
    call: Command, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / folder / "model.onnx" for folder in ("old", "new")]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(model.read_bytes())
    call("bench", *files, "--runs", "20", "--processes", "1")
    said = capsys.readouterr().out
    assert "old/model.onnx" in said
    assert "new/model.onnx" in said
    assert "unstable: old/model.onnx (1 thread)" in said


def test_every_device_and_file_is_appended_to_the_results(call: Command, model: Path, tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"
    for _ in range(2):
        call("bench", model, "--runs", "5", "--processes", "1", "--results", store, "-q")
    found = read(store).results
    assert [(result.file, result.device, result.metric, result.trusted) for result in found] == [
        ("model[1].onnx", "local", "latency_ms", False)
    ] * 2
    assert call("bench", model, "--results", model, "-q") == 2
    assert call("bench", model, "--results", tmp_path / "absent" / "r.jsonl", "-q") == 2


def test_json_has_the_layers_of_an_emulated_core() -> None:
    from made_runs import make_counted, make_run

    from edgemobile.commands.bench import _json
    from edgemobile.devices.host.records import Prefix

    prefixes = (Prefix("", "", 0, "", (10,), None), Prefix("stem", "CONV_2D", 64, "int8", (110,), None))
    with_layers, without = make_run(make_counted(prefixes=prefixes)), make_run(make_counted())
    (_, stem) = _json(with_layers, (), None, None)["cases"][0]["layers"]
    assert (stem["layer"], stem["op"], stem["macs"], stem["instructions"]) == ("stem", "CONV_2D", 64, 100)
    assert stem["estimated_compute_cycles"] is None
    assert _json(without, (), None, None)["cases"][0]["layers"] is None
