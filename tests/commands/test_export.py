"""`edgemobile export` as a user meets it: the folder, the table, the exit code, and what bad input gets."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgemobile.exporters import format_of
from edgemobile.loading.checkpoint import bundled
from edgemobile.metrics.tolerances import TABLE, bounded
from edgemobile.pipeline import backends
from edgemobile.preprocess import Preprocess

# Small enough for a test, whole enough to have every op.
_SMALL = ("v3-small", "--weights", "random", "--width", "0.35", "--res", "32", "--classes", "10")
_QUICK = ("--check-images", "8")
_QUICK_INT8 = ("--calib-images", "8", *_QUICK)
# A table that no file meets.
_IMPOSSIBLE = bounded(TABLE, {"float32": {"sqnr_db": 1000.0}})


def test_the_main_job(edgemobile, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "edgemobile.pipeline.export.synthesize", lambda *args, **kwargs: pytest.fail("it takes seconds")
    )
    ran = edgemobile("export", "v3-large", "--int8", "--calib-images", "32", "--check-images", "8")
    assert ran.code == 0, ran.err
    folder = tmp_path / "v3-large"
    names = [f"v3-large-{precision}{suffix}" for precision in ("float32", "int8") for suffix in (".onnx", ".tflite")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*names, "labels.txt", "manifest.json", "predict.py", "README.md", "sample.png"]
    )
    assert all(name in ran.out for name in names)
    assert (folder / "labels.txt").read_text().split()[:2] == ["airplane", "automobile"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["weights"]["source"].startswith("bundled")
    assert manifest["calibration"]["source"] == "the package's synthetic images"
    files = {file["file"]: file for file in manifest["files"]}
    for name in names:
        facts, data = files[name], (folder / name).read_bytes()
        assert facts["sha256"] == hashlib.sha256(data).hexdigest()
        assert facts["missed"] == []
        assert not {"TRANSPOSE", "Transpose"} & set(facts["ops"])
        metadata = format_of(Path(name).suffix).load().read_metadata(data)
        assert Preprocess.from_json(metadata["edgemobile.preprocess"]).input_px == 96
        assert json.loads(metadata["edgemobile.labels"])[0] == "airplane"
    for name in names[:2]:
        assert files[name]["metrics"]["sqnr_db"] >= 90
        assert files[name]["hswish"] == "21 fused"
    for name in names[2:]:
        assert files[name]["metrics"]["sqnr_db"] >= 25
        assert files[name]["hswish"] == "21 delegated"
        assert files[name]["max_lsb_to_reference"] <= 4


def test_all_precisions_of_a_small_model_with_real_images(edgemobile, photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    labels = ["airplane", "cat", "truck"]
    weights = tmp_path / "mine.safetensors"
    _save_checkpoint(weights, labels)
    ran = edgemobile(
        "export", "v3-small", "--weights", weights, "--int8", "--fp16", "--weight-only", "--calib", photos, *_QUICK_INT8
    )
    assert "skipped test/cat/broken.png" in ran.out or "8 images of photos.zip (test)" in ran.out
    manifest = json.loads((tmp_path / "v3-small" / "manifest.json").read_text())
    assert len(manifest["files"]) == 8
    assert manifest["model"]["labels"] == labels
    assert manifest["checked_on"]["float_top1"] is not None
    assert all(file["top1"] is not None for file in manifest["files"])
    float32, float16, dynamic = (manifest["files"][index]["bytes"] for index in (1, 3, 5))
    assert float32 > 1.7 * float16 > 1.7 * dynamic
    assert ran.code == (0 if not any(file["missed"] for file in manifest["files"]) else 1)


def _save_checkpoint(path: Path, labels: list[str]) -> None:
    from safetensors.torch import save_file

    from edgemobile.models.arch import get_arch, scaled
    from edgemobile.models.nets import build_net

    path.parent.mkdir(exist_ok=True)
    net = build_net(scaled(get_arch("v3-small"), width=0.35, classes=len(labels)))
    save_file(net.state_dict(), path)
    preprocess = Preprocess(input_px=32, antialias=False).to_json()
    path.with_suffix(".json").write_text(json.dumps({"labels": labels, "preprocess": preprocess}))


def test_a_checkpoint_says_which_model_it_is(edgemobile, tmp_path: Path) -> None:
    _save_checkpoint(tmp_path / "runs" / "mine.safetensors", ["airplane", "cat", "truck"])
    ran = edgemobile("export", "runs/mine.safetensors", "--to", "onnx", *_QUICK)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("v3-small at 32 px, runs/mine.safetensors weights")
    assert (tmp_path / "mine" / "v3-small-float32.onnx").is_file()
    ran = edgemobile("export", "runs/mine.safetensors", "--weights", "random", "--out", "b")
    assert (ran.code, "runs/mine.safetensors contains weights itself: omit --weights" in ran.err) == (2, True)
    ran = edgemobile("export", "none.pth")
    assert (ran.code, ran.err.count("\n"), "none.pth" in ran.err) == (2, 1, True)


@pytest.mark.parametrize(("backend", "suffix"), [("torch", ".onnx"), ("tensorflow", ".tflite")])
def test_the_libraries_exporters(edgemobile, tmp_path: Path, backend: str, suffix: str) -> None:
    pytest.importorskip("tensorflow" if backend == "tensorflow" else "onnxsim")
    ran = edgemobile("export", *_SMALL, "--backend", backend, *_QUICK)
    assert ran.code == 0, ran.err
    assert [path.suffix for path in (tmp_path / "v3-small").glob("*float32*")] == [suffix]
    (file,) = json.loads((tmp_path / "v3-small" / "manifest.json").read_text())["files"]
    assert file["metrics"]["sqnr_db"] >= 90
    assert file["hswish"] == "19 fused"


def test_a_model_of_ones_own_and_a_saved_program(edgemobile, tmp_path: Path) -> None:
    (tmp_path / "mynets.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    norm = torch.nn.BatchNorm2d(8)\n"
        "    norm.running_mean.fill_(0.1)\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), norm, torch.nn.Hardswish(),\n"
        "        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4))\n"
    )
    ran = edgemobile("export", "mynets:make", "--res", "40", "--to", "onnx", *_QUICK)
    assert ran.code == 0, ran.err
    assert (tmp_path / "mynets.make" / "make-float32.onnx").is_file()
    sys.path.insert(0, str(tmp_path))
    try:
        net = __import__("mynets").make().eval()
    finally:
        sys.path.remove(str(tmp_path))
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 40, 40),)), tmp_path / "net.pt2")
    ran = edgemobile("export", "net.pt2", "--to", "tflite", *_QUICK)
    assert ran.code == 0, ran.err
    assert "8 images of low-frequency noise" in ran.out
    ran = edgemobile("export", "net.pt2", "--int8", "--out", "int8", *_QUICK_INT8)
    # A saved program has no batch norm modules left to synthesize images from.
    assert ran.code == 2
    assert "--calib" in ran.err


_BY_HAND = """
import torch
from torch import nn
from torch.nn import functional as F

class Gate(nn.Module):
    def forward(self, x):
        return F.relu6(x + 3) / 6

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.alone, self.gate = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), Gate()
        self.fc1, self.fc2 = nn.Linear(16, 16), nn.Linear(64, 3)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x):
        x = F.silu(self.stem(x))
        x = F.relu(self.alone(x * self.gate(x)))
        x = x * self.gate(self.fc1(x.mean([2, 3])))[:, :, None, None]
        return self.fc2(F.adaptive_avg_pool2d(self.pool(x), 2).flatten(1))

def make():
    return Net()
"""


def test_a_net_written_by_hand_is_equal_in_every_layer_and_as_often_right(
    edgemobile, colour_photos: Path, tmp_path: Path
) -> None:
    """Its weights are drawn anew by every command, and nothing says its resolution: both must not show."""
    (tmp_path / "by_hand.py").write_text(_BY_HAND)
    made = ("--res", "32", "--int8", "--calib", colour_photos, "--preprocess", "inception", *_QUICK_INT8)
    ran = edgemobile("export", "by_hand:make", *made, "--out", "net")
    files = sorted((tmp_path / "net").glob("make-*"))
    assert len(files) == 4, ran.err
    manifest = json.loads((tmp_path / "net" / "manifest.json").read_text())
    assert all(file["hswish"].startswith("1 ") for file in manifest["files"])
    assert "note: labels are the names of the 3 folders, in order, of " in ran.out
    assert (tmp_path / "net" / "labels.txt").read_text() == "blue\ngreen\nred\n"
    assert format_of(files[0].suffix).load().read_metadata(files[0].read_bytes())["edgemobile.labels"] == (
        '["blue", "green", "red"]'
    )
    assert min(file["metrics"]["sqnr_db"] for file in manifest["files"]) > 25
    ran = edgemobile("parity", "by_hand:make", *files, "--layers", "--data", colour_photos, "--images", "4")
    assert ran.code == 0, ran.out
    ran = edgemobile("export", "by_hand:make", *made, "--embed-preprocess", "--to", "tflite", "--out", "raw")
    assert (tmp_path / "raw").is_dir(), ran.err
    float32 = [next((tmp_path / folder).glob("make-float32*")) for folder in ("net", "raw")]
    ran = edgemobile("eval", *float32, "--baseline", "by_hand:make", "--data", colour_photos)
    assert ran.out.count("+0.00 points") == 2, ran.out + ran.err
    assert "from the file next to it" in ran.out
    ran = edgemobile("eval", float32[1], "--baseline", "by_hand:make", "--data", colour_photos)
    assert ran.out.count("+0.00 points") == 1, ran.out + ran.err


def test_embedded_preprocessing_takes_pixels_and_says_what_is_left(edgemobile, photos: Path, tmp_path: Path) -> None:
    ran = edgemobile("export", *_SMALL, "--int8", "--embed-preprocess", "--calib", photos, *_QUICK_INT8)
    assert ran.code == 0, ran.err
    manifest = json.loads((tmp_path / "v3-small" / "manifest.json").read_text())
    assert manifest["model"]["preprocess_embedded"] is True
    assert all(file["max_lsb_to_reference"] <= 4 for file in manifest["files"] if file["precision"] == "int8")
    for path in (tmp_path / "v3-small").glob("v3-small-*"):
        metadata = format_of(path.suffix).load().read_metadata(path.read_bytes())
        left = Preprocess.from_json(metadata["edgemobile.preprocess"])
        assert (left.mean, left.std) == ((0, 0, 0), (1 / 255,) * 3)
        assert json.loads(metadata["edgemobile.embedded"])["mean"] == manifest["model"]["preprocess"]["mean"]
    ran = edgemobile("export", *_SMALL, "--embed-preprocess", "--backend", "torch", "--out", "other")
    assert ran.code == 2
    assert "--backend torch" in ran.err


def test_labels_and_preprocessing_asked_for_are_in_every_file(edgemobile, tmp_path: Path) -> None:
    names = [f"kind {index}" for index in range(10)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    ran = edgemobile("export", *_SMALL, "--labels", "names.txt", "--preprocess", "inception", *_QUICK)
    assert ran.code == 0, ran.err
    assert (tmp_path / "v3-small" / "labels.txt").read_text().splitlines() == names
    for path in (tmp_path / "v3-small").glob("v3-small-*"):
        metadata = format_of(path.suffix).load().read_metadata(path.read_bytes())
        assert json.loads(metadata["edgemobile.labels"]) == names
        assert Preprocess.from_json(metadata["edgemobile.preprocess"]).mean == (0.5, 0.5, 0.5)


def test_json_is_the_manifest_and_nothing_else(edgemobile) -> None:
    ran = edgemobile("export", *_SMALL, "--to", "tflite", "--json", *_QUICK)
    assert json.loads(ran.out)["model"]["name"] == "v3-small"


def test_two_exports_are_the_same_bytes(edgemobile, tmp_path: Path) -> None:
    for out in ("one", "two"):
        assert edgemobile("export", *_SMALL, "--int8", "--out", out, *_QUICK_INT8).code == 0
    for path in (tmp_path / "one").glob("v3-small-*"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (("v3-larg",), ["v3-larg", "Did you mean v3-large"]),
        (("v3-small", "--weights", "missing.pth"), ["missing.pth"]),
        (("v3-large", "--to", "coreml"), ["coreml", "onnx, tflite"]),
        (("v3-large", "--to", "onnx", "--backend", "tensorflow"), ["onnx", "tensorflow", "tflite"]),
        (("v3-large", "--batch", "0"), ["--batch", "at least 1"]),
        (("v3-large", "--res", "7"), ["7 px", "32 to 2048"]),
        (("v3-large", "--width", "0.5"), ["width 1", "0.5"]),
        (("v3-large", "--classes", "7"), ["10 classes", "7"]),
        (("v3-large", "--calib", "nowhere"), ["nowhere"]),
        (("nomodule:make",), ["nomodule"]),
        (("missing.pt2",), ["missing.pt2"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    edgemobile, tmp_path: Path, args: tuple[str, ...], names: list[str]
) -> None:
    ran = edgemobile("export", *args)
    assert ran.code == 2
    assert ran.err.count("\n") == 1, ran.err
    assert ran.err.startswith("error: ")
    for name in names:
        assert name in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--max-drop", "1"), "--max-drop: only for int8 files, and none is requested. Add --int8"),
        (("--recipe", "plain", "--target", "arm"), "--recipe, --target: only for int8 files"),
        (("--hswish", "fused", "--fp16"), "--hswish: only for int8 files"),
        (("--keep-float", "a.*", "--weight-only"), "--keep-float: only for int8 files"),
        (("--calib-images", "512"), "--calib-images: only for int8 files"),
        (("--unchecked-calib",), "--unchecked-calib: only for int8 files"),
        (
            ("--int8", "--backend", "torch", "--recipe", "plain"),
            "--recipe: only for int8 of the native backend. Omit --backend torch",
        ),
        (
            ("--int8", "--backend", "tensorflow", "--target", "arm"),
            "--target: only for int8 of the native backend. Omit --backend tensorflow",
        ),
        (("--int8", "--unchecked-calib"), "--unchecked-calib: only for images of --calib. Add --calib"),
    ],
)
def test_what_would_change_nothing_is_refused(edgemobile, args: tuple[str, ...], says: str) -> None:
    ran = edgemobile("export", "v3-small", *args)
    assert (ran.code, ran.err.startswith(f"error: {says}")) == (2, True), ran.err


def test_a_default_for_int8_does_not_stand_in_the_way_of_float(
    edgemobile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edgemobile.toml").write_text('[defaults.export]\nrecipe = "plain"\n')
    monkeypatch.setenv("EDGEMOBILE_EXPORT_TARGET", "arm")
    ran = edgemobile("export", *_SMALL, "--to", "tflite", *_QUICK)
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("command", ["export v2", "quantize v2", "models v2"])
def test_no_pixels_are_not_the_default(edgemobile, command: str) -> None:
    ran = edgemobile(*command.split(), "--res", "0")
    assert (ran.code, "'--res': 0 is not in the range x>=1" in ran.err) == (2, True)


def test_brackets_are_shown_as_they_are(edgemobile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgemobile.pipeline.check.TABLE", _IMPOSSIBLE)
    ran = edgemobile("export", *_SMALL, "--to", "tflite", *_QUICK, "--out", "runs[v2]/[red]")
    assert ran.code == 1
    assert "wrote runs[v2]/[red]/\n" in ran.out


@pytest.mark.parametrize(("variable", "coloured"), [("", True), ("1", False)])
def test_errors_have_the_colours_a_user_wants(
    edgemobile, monkeypatch: pytest.MonkeyPatch, variable: str, coloured: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", variable)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    ran = edgemobile("export", "v9[red]")
    assert (ran.code, "v9[red]" in ran.err) == (2, True)
    assert ("\x1b[31m" in ran.err) is coloured


def test_every_bundled_checkpoint_is_named_when_one_is_missing(edgemobile) -> None:
    ran = edgemobile("export", "v3-large-minimalistic")
    assert ran.code == 2
    assert all(name in ran.err for name in bundled())
    assert "--weights random" in ran.err


def test_an_empty_calibration_set(edgemobile, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = edgemobile("export", "v3-large", "--int8", "--calib", "empty")
    assert ran.code == 2
    assert "no images in empty" in ran.err


def test_noise_calibrates_only_when_asked_to(edgemobile, tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    for index in range(16):
        # 37 px is what the preprocessing crops 32 from, so that no resize smooths it.
        pixels = np.random.default_rng(index).integers(0, 255, (37, 37, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "noise" / f"{index}.png")
    args = ("export", *_SMALL, "--int8", "--to", "tflite", "--calib", "noise", *_QUICK_INT8)
    ran = edgemobile(*args)
    assert ran.code == 2
    assert "they are noise" in ran.err
    assert "--unchecked-calib" in ran.err
    assert "they are noise" in edgemobile(*args, "--unchecked-calib").out


def test_nothing_is_overwritten_without_being_asked(edgemobile, tmp_path: Path) -> None:
    args = ("export", *_SMALL, "--to", "tflite", *_QUICK)
    assert edgemobile(*args).code == 0
    before = (tmp_path / "v3-small" / "manifest.json").stat().st_mtime_ns
    ran = edgemobile(*args)
    assert ran.code == 2
    assert "--overwrite" in ran.err
    assert (tmp_path / "v3-small" / "manifest.json").stat().st_mtime_ns == before
    assert edgemobile(*args, "--overwrite").code == 0


def test_a_missing_extra_says_which(edgemobile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    ran = edgemobile("export", "v3-large")
    assert ran.code == 3
    assert "pip install 'edgemobile[export]'" in ran.err


@pytest.mark.parametrize(
    ("args", "absent", "code", "said"),
    [
        (("--out", "taken.txt/out"), None, 2, "cannot write to taken.txt: Not a directory. Choose another folder"),
        (("--out", "taken.txt/deeper/out"), None, 2, "cannot write to taken.txt/deeper: Not a directory"),
        (("--calib", "absent"), None, 2, "no data set at absent: it does not exist"),
        (("--calib", "*.jpg"), None, 2, "no data set at *.jpg: it does not exist"),
        ((), "onnxruntime", 3, "pip install 'edgemobile[onnxruntime]'"),
        ((), "ai_edge_litert.interpreter", 3, "pip install 'edgemobile[litert]'"),
        (("--backend", "torch"), "onnxsim", 3, "pip install 'edgemobile[export]'"),
        (("--backend", "tensorflow"), "tensorflow", 3, "pip install 'edgemobile[tensorflow]'"),
    ],
)
def test_what_would_end_it_late_is_refused_before_the_work(
    edgemobile, monkeypatch, tmp_path: Path, args: tuple[str, ...], absent: str | None, code: int, said: str
) -> None:
    (tmp_path / "taken.txt").write_text("")
    monkeypatch.setattr("edgemobile.pipeline.export.load_model", lambda *args, **kwargs: pytest.fail("it went to work"))
    if absent:
        monkeypatch.setitem(sys.modules, absent, None)
    ran = edgemobile("export", "v3-large", "--int8", *args)
    assert (ran.code, said in ran.err) == (code, True), ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.txt"]


def test_a_rule_that_matches_no_layer_is_refused_before_images_are_made(edgemobile, monkeypatch) -> None:
    made = "edgemobile.pipeline.export._samples"
    monkeypatch.setattr(made, lambda *args: pytest.fail("images were made"))
    ran = edgemobile("export", "v3-small", "--int8", "--keep-float", "features.99.*")
    assert ran.code == 2
    assert "'features.99.*', which matches no layer" in ran.err


def test_a_missed_tolerance_is_exit_1_and_the_folder_shows_why(edgemobile, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edgemobile.pipeline.check.TABLE", _IMPOSSIBLE)
    ran = edgemobile("export", *_SMALL, "--to", "tflite", *_QUICK)
    assert ran.code == 1
    assert "MISSED" in ran.out
    assert "tolerance of 1000" in ran.out
    (file,) = json.loads((tmp_path / "v3-small" / "manifest.json").read_text())["files"]
    assert file["missed"]


def test_an_interruption_leaves_nothing_and_says_so(edgemobile, monkeypatch, tmp_path: Path) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgemobile.pipeline.export.check", interrupted)
    ran = edgemobile("export", *_SMALL, "--to", "tflite", *_QUICK)
    assert ran.code == 130
    assert "interrupted" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_sigterm_leaves_nothing(edgemobile, monkeypatch, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("edgemobile.pipeline.export.check", lambda *args: signal.raise_signal(signal.SIGTERM))
    # Where nobody takes the signal it must not end the tests.
    signal.signal(signal.SIGTERM, lambda *args: None)
    try:
        ran = edgemobile("export", *_SMALL, "--to", "tflite", *_QUICK)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ran.code == 143
    assert "interrupted" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_quantize_does_not_replace_the_float_files_of_an_export(edgemobile, tmp_path: Path) -> None:
    assert edgemobile("export", *_SMALL, "--to", "onnx", *_QUICK).code == 0
    held = {path: path.read_bytes() for path in (tmp_path / "v3-small").iterdir()}
    ran = edgemobile("quantize", *_SMALL, "--to", "onnx", *_QUICK, "--overwrite")
    assert ran.code == 2
    assert "contains v3-small-float32.onnx of an export, which this command does not write again" in ran.err
    assert {path: path.read_bytes() for path in (tmp_path / "v3-small").iterdir()} == held
    for options in ((), ("--overwrite",)):
        assert edgemobile("quantize", *_SMALL, "--to", "onnx", *_QUICK, "--out", "int8", *options).code == 0
    assert edgemobile("export", *_SMALL, "--to", "onnx", *_QUICK, "--overwrite").code == 0


@pytest.mark.parametrize("command", ["export", "quantize"])
def test_a_seed_below_0_is_refused(edgemobile, command: str) -> None:
    ran = edgemobile(command, "v3-small", "--seed", "-1")
    assert (ran.code, "-1 is not in the range x>=0" in ran.err) == (2, True)


def test_an_op_without_a_lowering_is_refused_by_name(edgemobile, tmp_path: Path) -> None:
    (tmp_path / "softplusnet.py").write_text(
        "import torch\nmake = lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4),"
        " torch.nn.Softplus(),"
        " torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())\n"
    )
    ran = edgemobile("export", "softplusnet:make", "--res", "32", *_QUICK)
    assert ran.code == 2
    assert "aten.softplus" in ran.err
    assert "at 2" in ran.err
    assert "aten.conv2d" in ran.err


def test_backends_name_what_they_can_make() -> None:
    for name, row in backends.BACKENDS.items():
        assert backends.backend_for(name, None, ("float32",))[1] == row.formats
