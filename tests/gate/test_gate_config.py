"""The keys and values of the gate in edgemobile.toml; any other is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.gate.config import GateConfig
from edgemobile.gate.load import load_gate
from edgemobile.gate.selectors import PRECISIONS, selects
from edgemobile.util.config_file import read_config


def _load(folder: Path, text: str) -> GateConfig:
    path = folder / "edgemobile.toml"
    path.write_text(text)
    return load_gate(read_config(path))


def test_everything_there_is(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        """
[gate]
images = 4
layers = false
seed = 3
cache = "kept"
[tolerances.int8]
sqnr = 20
[devices."emulated:cortex-a72"]
formats = ["tflite"]
precisions = ["int8"]
runs = 2
threads = 1
baseline = "counts.json"
max_regress = "1.5 %"
required = false
[models.big]
model = "v3-large"
weights = "my.pth"
width = 0.5
res = 64
classes = 10
calib = "photos.zip"
calib_images = 64
formats = ["tflite"]
precisions = ["float32", "int8"]
recipe = "mine.json"
target = "microcontroller"
devices = ["emulated:cortex-a72"]
size = { float32 = 1_000, "int8.tflite" = "4.5 MiB", tflite = "2 kB" }
instructions."emulated:cortex-a72" = { int8 = "9.5M" }
tolerances.int8 = { top1_agree = 0.9 }
accuracy = { data = "photos.zip", max_drop = 1, split = "test", limit = 100 }
""".replace('recipe = "mine.json"', 'recipe = "minmax"'),
    )
    (model,), (device,) = config.models, config.devices
    assert config.settings.cache == tmp_path / "kept"
    assert config.tolerances == {"int8": {"sqnr_db": 20.0}}
    assert (device.baseline, device.max_regress, device.required) == (tmp_path / "counts.json", 0.015, False)
    assert (model.model, model.weights, model.calib) == ("v3-large", str(tmp_path / "my.pth"), tmp_path / "photos.zip")
    assert model.size == {"float32": 1000, "int8.tflite": round(4.5 * 2**20), "tflite": 2000}
    assert model.instructions == {"emulated:cortex-a72": {"int8": 9_500_000}}
    assert model.accuracy is not None
    assert model.accuracy.max_drop == 1.0


def test_the_projects_own(repo_root: Path) -> None:
    config = load_gate(read_config(repo_root / "edgemobile.toml"))
    assert {entry.model for entry in config.models} >= {"v1", "v2", "v3-small", "v3-large"}


def test_names_are_those_of_the_library() -> None:
    from edgemobile.pipeline import backends

    assert backends.PRECISIONS == PRECISIONS


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[gates]", 1, r"unknown table. Allowed: \[gate\], \[tolerances\]"),
        ("[gate]\nimages = 0", 2, "must be a whole number of at least 1; found 0"),
        ("[gate]\nimages = true", 2, "must be a whole number"),
        ("[gate]\n\nimage = 3", 3, "unknown key. Allowed: images, layers, seed, cache"),
        ("gate = 3", 1, r"must be a table, \[gate\]; found 3"),
        ("[tolerances]\nint4 = {}", 2, "Allowed: float32, float16, weight-only, int8"),
        ("[tolerances.int8]\npsnr = 3", 2, "unknown metric. Allowed: sqnr_db"),
        ("[tolerances.int8]\nsqnr_db = nan", 2, "must be a number"),
        ("[devices.pi5]\nmax_regress = '1%'\n[models.v2]", 1, "baseline and max_regress need each other"),
        ("[devices.pi5]\nmax_regress = 0.01\nbaseline = 'a.json'", 2, "must be a percentage in quotes"),
        ("[devices.pi5]\nformats = ['tf']", 2, "must be one of onnx, tflite"),
        ("[devices.pi5]\nformats = ['onnx', 'onnx']", 2, "contains an item twice"),
        ("[gate]\n", 1, "there are no models to check"),
        ("[models.v9]\nres = 32", 1, "'v9' is not a model. Allowed"),
        ("[models.a]\nres = 32\nmodel = 'v9'", 3, "'v9' is not a model"),
        ("[models.a]\nmodel = 'a.onnx'", 2, "is not a model"),
        ("[models.v2]\nweight = 'x'", 2, "unknown key. Allowed: model, weights"),
        ("[models.v2]\nsize = '3 MiB'", 2, "must be a table"),
        ("[models.v2]\nsize = { int8 = '3 MiBs' }", 2, r"models.v2.size.int8: must be a number, or text like"),
        ("[models.v2.size]\nint8 = 1\n'int8.onx' = 1", 3, "does not match any file. Allowed: a precision"),
        ("[models.v2]\nprecisions = ['int8']\nsize.float32 = 1", 3, "float32 does not match any file"),
        ("[models.v2]\ndevices = ['pi5']", 2, "there is no .devices.'pi5'.. Existing devices: none"),
        ("[models.v2]\ninstructions.pi5 = { int8 = 1 }", 2, "there is no"),
        ("[models.v2]\nrecipe = 'fastest'", 2, "models.v2.recipe: .*fastest"),
        ("[models.v2]\naccuracy = { data = 'x' }", 2, "needs max_drop"),
        ("[models.v2]\nprecisions = ['int8']\naccuracy = { data = 'x', max_drop = 1 }", 3, "add float32"),
        ("[models.v2]\naccuracy = { data = 'x', max_drop = 101 }", 2, "must be a number from 0 to 100"),
        ("[models.v2]\ntarget = 'gpu'", 2, "must be one of cpu, arm, x86-vnni, microcontroller"),
        ("[models.v2]\nweights = ''", 2, "must be text in quotes"),
        ("[models.v2]\nformats = 'onnx'", 2, "must be a list"),
        ("[models.'../../v2']\nmodel = 'v2'", 1, "this is also a folder name: do not use / "),
        ("[models.'a/b']\nmodel = 'v2'", 1, "this is also a folder name"),
        ("[models.'a\\b']\nmodel = 'v2'", 1, "this is also a folder name"),
        ("[models.'.v2']\nmodel = 'v2'", 1, "this is also a folder name"),
        ("[models.'v*']\nmodel = 'v2'", 1, "this is also a folder name"),
        ("[models.'']\nmodel = 'v2'", 1, "this is also a folder name"),
        ("[models.v2]\nfiles = ['a.onnx']\nres = 96", 3, "models.v2.res: has no effect with files"),
        ("[models.v2]\nformats = ['onnx']\nfiles = ['a.onnx']", 2, "models.v2.formats: has no effect with files"),
        ("[models.v2]\nfiles = ['a.onnx']\nprecisions = ['int8']", 3, "models.v2.precisions: has no effect"),
        ("[models.v2]\nfiles = ['a.onnx']\nrecipe = 'minmax'", 3, "models.v2.recipe: has no effect"),
        ("[models.v2]\nfiles = ['a.onnx']\ntarget = 'arm'", 3, "models.v2.target: has no effect"),
        (
            "[models.v2]\nprecisions = ['float32']\nrecipe = 'plain'",
            3,
            "recipe: has no effect with precisions without",
        ),
        ("[models.v2]\nprecisions = ['float32']\ntarget = 'arm'", 3, "target: has no effect with precisions without"),
        ("[models.v2]\nprecisions = ['float32']\ntolerances.int8.sqnr = 9", 3, "none of the model's files is int8"),
        ("[models.v2]\nfiles = ['a.onnx']\ncalib_images = 9", 3, "models.v2.calib_images: has no effect"),
        ("[models.a]\nmodel = 'a.onnx'\nfiles = ['a.onnx']\nwidth = 1", 4, "with a model that is a file"),
        (
            "[devices.pi5]\n[models.v2]\ndevices = []\ninstructions.pi5.int8 = 1",
            4,
            "the model's devices do not include it .there are none., so this budget would never be checked",
        ),
        (
            "[devices.pi5]\nformats = ['onnx']\n[models.v2]\ninstructions.pi5 = { int8 = 1, tflite = 1 }",
            4,
            "models.v2.instructions.pi5.tflite: no file of tflite runs on pi5, .*'pi5'. takes only onnx",
        ),
        (
            "[devices.pi5]\nprecisions = ['float32']\n[models.v2]\nfiles = ['a.onnx']\ninstructions.pi5.int8 = 1",
            5,
            "no file of int8 runs on pi5, .* takes only float32",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(EdgemobileError, match=said) as raised:
        _load(tmp_path, text)
    assert str(raised.value).startswith(f"{tmp_path / 'edgemobile.toml'}:{line}: ")


@pytest.mark.parametrize(
    ("selector", "file", "meant"),
    [
        ("int8", ("onnx", "int8"), True),
        ("onnx", ("onnx", "int8"), True),
        ("int8.onnx", ("onnx", "int8"), True),
        ("int8.tflite", ("onnx", "int8"), False),
        ("float32", ("onnx", "int8"), False),
    ],
)
def test_selectors(selector: str, file: tuple[str, str], meant: bool) -> None:
    assert selects(selector, *file) is meant


@pytest.mark.parametrize("name", ["bundled", "random", "imagenet", "imagenet-v1", "imagenet-v2"])
def test_weights_that_have_a_name_are_no_files(tmp_path: Path, name: str) -> None:
    (model,) = _load(tmp_path, f'[models.v2]\nweights = "{name}"').models
    assert model.weights == name
