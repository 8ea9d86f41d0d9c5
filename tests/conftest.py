"""Fixtures any test may use.

EDGEMOBILE_DATA names a folder with data sets and weights; tests that need it skip where it is absent.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")

# One thread a process: tiny models gain nothing from more, and several test runs share a machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout."""
    return _ROOT


@pytest.fixture(scope="session")
def load_script(repo_root: Path) -> Callable[[str], ModuleType]:
    """Imports a script of the checkout that is in no package, by its path from the root."""

    def load(path: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(Path(path).stem, repo_root / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of goldens: numbers other libraries gave, each with how it was made."""
    return _ROOT / "tests" / "goldens"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and weights; skips where it is absent."""
    folder = Path(os.environ.get("EDGEMOBILE_DATA", _ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set EDGEMOBILE_DATA")
    return folder


COLOURS = {"blue": (20, 30, 220), "green": (30, 210, 40), "red": (230, 20, 30)}


@pytest.fixture(scope="session")
def colour_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose classes any model of colours can tell: 6 noisy images each of blue, green and red."""
    return _coloured(tmp_path_factory.mktemp("photos"), 6, (40, 56))


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As colour_photos, with 20 images of each colour, a tenth of which is held out; in a folder of its own."""
    return _coloured(tmp_path_factory.mktemp("data") / "colours", 20, (24, 30))


def _coloured(folder: Path, count: int, size: tuple[int, int]) -> Path:
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            noise = np.random.default_rng(index).integers(-15, 16, (*size, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes the [sweep] of an edgemobile.toml in the working folder; returns its path."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, settings: str = "images = 4") -> Path:
        path = tmp_path / "edgemobile.toml"
        path.write_text(f"[gate]\n{settings}\n[sweep]\n{text}\n")
        return path

    return write


@pytest.fixture(scope="session")
def sideways() -> Image.Image:
    """A photo whose camera was turned: 20 x 10 as stored, its left half white; upright it is 10 x 20, white on top."""
    image = Image.new("RGB", (20, 10), "black")
    image.paste("white", (0, 0, 10, 10))
    image.getexif()[0x0112] = 6
    return image


@pytest.fixture(scope="session")
def colour_model() -> Callable[..., bytes]:
    """Builds an ONNX classifier of colours: three logits, `gain` times the mean of each channel as the model sees it.

    `order` are the channels of the outputs ("bgr": blue first); "_" is an output that is never the largest.
    """
    onnx = pytest.importorskip("onnx")

    def build(
        order: str = "bgr",
        *,
        shape: tuple[object, ...] = (1, 3, 32, 32),
        dtype: str = "FLOAT",
        gain: float = 1.0,
        softmax: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        node, helper, tensor = onnx.helper.make_node, onnx.helper, onnx.TensorProto
        pick = np.zeros((3, len(order)), np.float32)
        for output, channel in enumerate(order):
            if channel in "rgb":
                pick["rgb".index(channel), output] = gain
        floor = np.array([-1e3 if channel == "_" else 0 for channel in order], np.float32)
        axes = [2, 3] if shape[1] == 3 else [1, 2]
        nodes = [
            node("Cast", ["image"], ["real"], to=tensor.FLOAT),
            node("ReduceMean", ["real", "axes"], ["means"], keepdims=0),
            node("MatMul", ["means", "pick"], ["picked"]),
            node("Add", ["picked", "floor"], ["sum"]),
            node("Softmax" if softmax else "Identity", ["sum"], ["scores"]),
        ]
        constants = {"axes": np.array(axes, np.int64), "pick": pick, "floor": floor}
        graph = helper.make_graph(
            nodes,
            "colours",
            [helper.make_tensor_value_info("image", getattr(tensor, dtype), shape)],
            [helper.make_tensor_value_info("scores", tensor.FLOAT, (shape[0], len(order)))],
            [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        helper.set_model_props(model, dict(metadata or {}))
        return model.SerializeToString()

    return build


# Between them: both resizings, both interpolations that models use, batches, and pixels as input.
_EXPORTS: dict[str, dict[str, object]] = {
    "normalised outside": {},
    "normalised inside": {
        "embed_preprocess": True,
        "batch": 2,
        "preprocess": {"resize": "shorter", "shorter_px": 110, "interpolation": "bicubic", "input_px": 96},
    },
}


@pytest.fixture(scope="session")
def bundled_export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes an export of the package's v3-small once, in float32 and int8 and both formats: "normalised outside" of the
    files, or "normalised inside"."""
    for package in ("torch", "ai_edge_litert", "onnxruntime"):
        pytest.importorskip(package)

    @functools.cache
    def make(kind: str) -> Path:
        import edgemobile
        from edgemobile.loading.checkpoint import CHECK_IMAGES

        out = tmp_path_factory.mktemp("exports") / kind
        images = {"calib": CHECK_IMAGES, "calib_images": 16, "check_images": 4, "unchecked_calib": True}
        edgemobile.export("v3-small", int8=True, recipe="plain", out=out, **images, **_EXPORTS[kind])
        return out

    return make


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """A file descriptor to write to, whose reader has gone, as after `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def saturating_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime of an x86 without VNNI: what a file with int8 weights gives is wrong, here of the other sign, unless
    exact sums are asked for. Such a file names its target, or has the entry "int8 weights"."""
    pytest.importorskip("onnxruntime")
    from in_process import open_here

    from edgemobile.devices.host import saturation
    from edgemobile.devices.runtimes import sessions
    from edgemobile.model_file.metadata import TARGET

    kind = sessions._Onnxruntime
    rows, run_all = kind.rows, kind.run_all

    def is_wrong(session: sessions.Session) -> bool:
        return not session.config and bool({TARGET, "int8 weights"} & set(session.metadata))

    def wrong_rows(self: sessions.Session, images: np.ndarray) -> np.ndarray:
        return -rows(self, images) if is_wrong(self) else rows(self, images)

    def wrong_run_all(self: sessions.Session, images: np.ndarray) -> list[np.ndarray]:
        outputs = run_all(self, images)
        return [np.flip(output) for output in outputs] if is_wrong(self) else outputs

    monkeypatch.setattr(saturation, "saturates_here", lambda: True)
    # What is made wrong here would be right in a process of its own.
    for module in ("comparison.observing", "accuracy.classifier"):
        monkeypatch.setattr(f"edgemobile.{module}.open_isolated", open_here)
    monkeypatch.setattr(kind, "rows", wrong_rows)
    monkeypatch.setattr(kind, "run_all", wrong_run_all)
