"""edgemobile from Python: docs/api.md runs as it stands, records print, show and plot, and the import stays light."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

import edgemobile
from edgemobile.comparison.report import ParityReport
from edgemobile.errors import EdgemobileError, MissingExtra

torch = pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")

_PLOTTED = ("exported", "compared", "benched", "evaluated", "quantized", "explained", "tuned")


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> dict[str, Any]:
    """What the blocks of docs/api.md leave, run one after the other in an empty folder with six photos."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("api")
    for name in ("airplane", "cat", "truck"):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(2):
            noise = np.random.default_rng(index).integers(0, 255, (4, 4, 3), np.uint8)
            Image.fromarray(noise).resize((40, 32)).save(folder / "photos" / name / f"{index}.png")
    blocks = re.findall(r"^```python\n(.*?)^```", (repo_root / "docs" / "api.md").read_text(), re.M | re.S)
    assert len(blocks) == 9
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks:
            exec(compile(block, "docs/api.md", "exec"), names)
        assert (folder / "layers.svg").read_text().count("<path") > 10
    return {**names, "folder": folder}


def test_the_documentation_runs(documented: dict[str, Any]) -> None:
    compared = documented["compared"]
    assert [len(file.layers) for file in compared.files] == [122, 114]
    assert ParityReport.from_json(documented["text"]).files == compared.files
    assert documented["quantized"].recipe.name == "minmax"
    assert {file.entry.precision for file in documented["quantized"].files} == {"int8"}
    assert documented["evaluated"].files[0].count == 6


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("exported", ("v3-large-int8.tflite", "same answer", "latency")),
        ("compared", ("parity with v3-large", "sqnr_db", "122 of 122")),
        ("benched", ("95 % interval", "v3-large-float32.tflite")),
        ("explained", ("Where: int8 has", "held-out", "Left:")),
        ("evaluated", ("6 images", "McNemar p", "top-1")),
        ("tuned", ("same answer as float", "1 images (a random 10% of photos", "next: edgemobile export")),
    ],
)
def test_records_print_and_show_as_their_commands(
    documented: dict[str, Any], name: str, words: tuple[str, ...]
) -> None:
    record = documented[name]
    assert all(word in str(record) for word in words)
    page = record._repr_html_()
    assert page.startswith("<pre")
    assert all(word.split()[0] in page for word in words)


def test_float_files_alone(tmp_path: Path) -> None:
    """The defaults of int8's options are no options given."""
    small = {"weights": "random", "width": 0.35, "res": 32, "check_images": 2}
    exported = edgemobile.export("v3-small", to="tflite", out=tmp_path / "net", **small)
    assert [path.name for path in exported.paths] == ["v3-small-float32.tflite"]
    benched = edgemobile.bench(tmp_path / "net", runs=2, processes=1)
    assert [Path(case.file).name for case in benched.run.cases] == ["v3-small-float32.tflite"]
    with pytest.raises(EdgemobileError, match="has no file in onnx"):
        edgemobile.bench(tmp_path / "net", runtime="onnxruntime")
    with pytest.raises(EdgemobileError, match="'nonesuch'"):
        edgemobile.bench(tmp_path / "net", runtime="nonesuch")


@pytest.mark.parametrize("name", _PLOTTED)
def test_records_plot(documented: dict[str, Any], name: str, tmp_path: Path) -> None:
    figure = documented[name].plot()
    figure.savefig(tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").convert("L").getextrema()[0] < 100
    assert figure._repr_svg_().count("<svg") == 1


def test_a_plot_without_matplotlib(documented: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgemobile\[report\]'"):
        documented["exported"].plot()


# What Python says otherwise than the command line: options that only print or choose the exit code, what is a function
# of its own (evaluate_detection, evaluate_segmentation), and names that are Python's.
_ONLY_COMMAND = {
    "json",
    "quiet",
    "verbose",
    "rank",
    "plot",
    "explain",
    "print-recipe",
    "junit",
    "github-summary",
    "results",
    "out",
    "help",
    "strict",
    "annotations",
    "masks",
}
_RENAMED = {
    "min": "minimums",
    "runtime": "runtimes",
    "sustained": "sustained_s",
    "cooldown": "cooldown_c",
    "clock": "clock_mhz",
    "shape": "shapes",
}


@pytest.mark.parametrize(
    ("function", "command"),
    [
        ("export", "export"),
        ("quantize", "quantize"),
        ("finetune", "finetune"),
        ("adapt", "adapt"),
        ("search", "search"),
        ("parity", "parity"),
        ("bench", "bench"),
        ("evaluate", "eval"),
    ],
)
def test_keywords_are_the_commands_options(function: str, command: str) -> None:
    from edgemobile.cli import cli

    keywords = inspect.signature(getattr(edgemobile, function)).parameters
    for parameter in cli.commands[command].params:
        if isinstance(parameter, click.Option):
            long = next(option[2:] for option in parameter.opts if option.startswith("--"))
            name = long.replace("-", "_")
            assert long in _ONLY_COMMAND or name in keywords or _RENAMED.get(long) in keywords, long


def test_wrong_use_is_one_line() -> None:
    for call in (
        lambda: edgemobile.bench("a.onnx", max_regress=0.1),
        lambda: edgemobile.bench("a.onnx", threads=0),
        lambda: edgemobile.cost_table("a.tflite", on="local"),
        lambda: edgemobile.evaluate("a.onnx", "photos", max_drop=1),
        lambda: edgemobile.parity("v3-large", ()),
        lambda: edgemobile.parity("v3-large", "a.onnx", minimums={"psnr": 1}),
        lambda: edgemobile.quantize("v3-large", recipe="best"),
        lambda: edgemobile.bench([]),
        lambda: edgemobile.finetune("a.onnx", "photos", "out"),
        lambda: edgemobile.adapt("v3-small", "photos", "out", budget=1.5),
        lambda: edgemobile.search("v3-small", "photos", "out", trials=0),
        lambda: edgemobile.bench("a.onnx", baseline="run.json", max_regress=-5),
        lambda: edgemobile.evaluate([], "photos", baseline="a.onnx", max_drop=1),
        lambda: edgemobile.export("v3-small", res=0),
        lambda: edgemobile.export(Path("none.pt2")),
        lambda: edgemobile.quantize("v3-small", recipe={"observers": []}),
    ):
        with pytest.raises(EdgemobileError) as raised:
            call()
        assert "\n" not in str(raised.value)
    with pytest.raises(AttributeError, match="no attribute 'exports'"):
        edgemobile.exports  # noqa: B018


class _Net(torch.nn.Module):
    """What people have in their hands."""


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: edgemobile.export(_Net()), r"model must be text or a path, found _Net\(\)\. .*package.module:factory"),
        (lambda: edgemobile.parity(_Net(), "a.onnx"), "ref must be text or a path, found .*package.module:factory"),
        (lambda: edgemobile.export("v3-small", res="32"), "res must be a whole number or None, found '32'"),
        (lambda: edgemobile.export("v3-small", batch=True), "batch must be a whole number, found True"),
        (lambda: edgemobile.export("v3-small", hswish="gelu"), "hswish must be 'auto', 'delegated', 'fused', 'relu'"),
        (lambda: edgemobile.export("v3-small", to=3), "to must be text or a list, each text or None, found 3"),
        (lambda: edgemobile.export("v3-small", seed=-1), "seed must be at least 0, found -1"),
        (lambda: edgemobile.quantize("v3-small", seed=-1), "seed must be at least 0, found -1"),
        (lambda: edgemobile.quantize("v3-small", calib=["photos"]), "calib must be text or a path or None, found"),
        (lambda: edgemobile.parity("v3-small", "a.onnx", seed=-1), "seed must be at least 0, found -1"),
        (lambda: edgemobile.parity("v3-small", "a.onnx", images="4"), "images must be a whole number, found '4'"),
        (lambda: edgemobile.parity("v3-small", None), "others must be text or a path or Exported or a list, each"),
        (lambda: edgemobile.parity("v3-small", "a.onnx", minimums={"sqnr": "a"}), "minimums must be a mapping, each"),
        (lambda: edgemobile.bench("a.onnx", threads="1"), "threads must be a whole number or a list, each"),
        (lambda: edgemobile.bench("a.onnx", max_regress="5%"), "max_regress must be a number or None, found '5%'"),
        (lambda: edgemobile.evaluate([1], "photos"), r"files must be .*, found \[1\]"),
        (lambda: edgemobile.evaluate("a.onnx", "photos", seed=-1), "seed must be at least 0, found -1"),
        (lambda: edgemobile.evaluate("a.onnx", "photos", preprocess=3), "preprocess must be .*, found 3"),
    ],
)
def test_an_argument_of_another_type_is_named(call: Callable[[], object], said: str) -> None:
    with pytest.raises(EdgemobileError, match=said):
        call()


def test_one_text_is_one_item_and_records_stand_for_their_files(
    documented: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the library is asked for, of every form in which it may be handed over."""
    monkeypatch.chdir(documented["folder"])
    asked: list[Any] = []

    def ask(request: Any, *args: object) -> None:
        asked.append(request)
        raise EdgemobileError("asked")

    for name in (
        "comparison.run.parity",
        "latency.run.bench",
        "accuracy.evaluate.evaluate",
        "training.run.finetune",
        "adaptation.run.adapt",
        "nas.run.search",
    ):
        monkeypatch.setattr(f"edgemobile.{name}", ask)
    monkeypatch.setattr("edgemobile.api._export", ask)
    exported = documented["exported"]
    files, normalised = tuple(map(str, exported.paths)), {"mean": [0, 0, 0], "std": [1, 1, 1]}
    for call in (
        lambda: edgemobile.export("v3-small", to="tflite", int8=True, keep_float="features.12.*", seed=np.int64(3)),
        lambda: edgemobile.quantize(
            "v3-small",
            recipe={"name": "mine", "refit": 0},
            target="microcontroller",
            labels="a.txt",
            preprocess=normalised,
        ),
        lambda: edgemobile.parity("v3-large", exported, runtimes="tf.lite", on="pi5", minimums=None),
        lambda: edgemobile.parity("v3-large", iter(files), minimums={"sqnr": 20}),
        lambda: edgemobile.bench(exported, threads=(1, 2), runtime="tf.lite"),
        lambda: edgemobile.evaluate(exported, "photos", preprocess=normalised),
        lambda: edgemobile.finetune("v3-small", "photos", "tuned", preprocess=normalised, int8=True),
        lambda: edgemobile.adapt("v3-small", "photos", "smaller", on="pi5", budget=0.5),
        lambda: edgemobile.search("v3-small", "photos", "found", res=64),
    ):
        with pytest.raises(EdgemobileError, match="asked"):
            call()
    one, mine, compared, several, measured, evaluated, tuned, adapted, searched = asked
    assert (one.formats, one.recipe.rules[-1].pattern, one.seed) == (("tflite",), "features.12.*", 3)
    assert (mine.recipe.name, mine.recipe.refit, mine.recipe.hswish) == ("mine", 0, "fused")
    assert (mine.labels, json.loads(mine.preprocess)) == (Path("a.txt"), normalised)
    assert (compared.runtimes, compared.on, compared.minimums) == (("tensorflow",), ("pi5",), {})
    assert (
        compared.others
        == several.others
        == evaluated.files
        == tuple(str(file.path) for file in measured.files)
        == files
    )
    assert several.minimums == {"sqnr_db": 20}
    assert (measured.settings.threads, measured.settings.runtime) == ((1, 2), "tensorflow")
    assert json.loads(evaluated.options.preprocess) == json.loads(tuned.preprocess) == normalised
    assert (tuned.int8, tuned.data, tuned.out) == (True, Path("photos"), Path("tuned"))
    assert (adapted.on, adapted.allowed.amount, adapted.allowed.unit) == (("pi5",), 0.5, None)
    assert (searched.res, searched.on) == ((64,), "emulated:cortex-a72")


@pytest.mark.parametrize(
    "first",
    ["import edgemobile", "import edgemobile.comparison.run, edgemobile.latency.run, edgemobile.accuracy.evaluate"],
)
def test_the_import_is_light_and_in_any_order(first: str) -> None:
    code = f"""
import sys
{first}
heavy = [name for name in ("torch", "onnx", "tensorflow", "matplotlib", "click") if name in sys.modules]
assert not heavy, heavy
assert {first!r} != "import edgemobile" or "numpy" not in sys.modules
assert {{"export", "parity"}} <= set(dir(edgemobile))
from edgemobile import bench, evaluate, parity
assert all(map(callable, (bench, evaluate, parity)))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
