"""`parity --on`: a device computes the same integers as this machine, or the op that differs is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

from edgemobile import cli
from edgemobile.comparison.observing import ExecutionTarget, local_targets
from edgemobile.comparison.remote import opened_targets
from edgemobile.comparison.report import FileParity
from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.devices.host.profiles import open_device
from edgemobile.devices.host.setup import ready
from edgemobile.devices.host.transport import DeviceUnreachable
from edgemobile.errors import EdgemobileError, MissingExtra
from edgemobile.exporters import FORMATS
from edgemobile.graph import Graph, Node, Tensor
from edgemobile.graph.embed import embed, outside
from edgemobile.preprocess import IMAGENET
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe

PX = 16
QUICK = Recipe(refit=0, bias_correction=False, equalize=0, split_gates="none")
PREPROCESS = replace(IMAGENET, input_px=PX, resize="exact", shorter_px=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions and a classifier: float32 and int8 files, and a float32 file that normalises its input."""
    rng, made = np.random.default_rng(0), tmp_path_factory.mktemp("devices")
    shapes = {"input": (1, PX, PX, 3), "stem": (1, 8, 8, 8), "conv": (1, 4, 4, 8), "pool": (1, 1, 1, 8)}
    shapes |= {"flat": (1, 8), "fc": (1, 5)}
    constants = {"stem.w": (8, 3, 3, 3), "stem.b": (8,), "conv.w": (8, 3, 3, 8), "conv.b": (8,)}
    constants |= {"fc.w": (5, 8), "fc.b": (5,)}
    conv = {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "activation": "relu"}
    nodes = (
        Node("conv2d", ("input", "stem.w", "stem.b"), "stem", conv),
        Node("conv2d", ("stem", "conv.w", "conv.b"), "conv", conv),
        Node("mean", ("conv",), "pool"),
        Node("reshape", ("pool",), "flat"),
        Node("linear", ("flat", "fc.w", "fc.b"), "fc", {"activation": ""}),
    )
    tensors = {name: Tensor(name, shape) for name, shape in shapes.items()}
    tensors |= {
        name: Tensor.constant(name, rng.standard_normal(shape).astype(np.float32) / 4)
        for name, shape in constants.items()
    }
    graph = Graph("small", ("input",), ("fc",), nodes, tensors)
    images = rng.standard_normal((16, PX, PX, 3)).astype(np.float32)
    forms = {"float32": graph, "int8": ptq(graph, [images], QUICK).graph, "embedded": embed(graph, PREPROCESS)}
    for name, form in forms.items():
        stated = outside(PREPROCESS) if name == "embedded" else PREPROCESS
        metadata = {"edgemobile.preprocess": json.dumps(stated.to_json())}
        for kind in FORMATS:
            (made / f"{name}.{kind}").write_bytes(FORMATS[kind].load().to_bytes(form, metadata=metadata))
    return made


def _checked(folder: Path, *names: str, **options: object) -> tuple[FileParity, ...]:
    others = tuple(str(folder / name) for name in names)
    asked = {"images": 3, "minimums": {"sqnr_db": -99, "top1_agree": 0}, **options}
    return parity(ParityRequest(str(folder / "float32.onnx"), others, **asked)).files  # type: ignore[arg-type]


INT8 = ("int8.tflite", "int8.onnx")


def test_this_machine_as_a_device_gives_the_same_integers(folder: Path) -> None:
    here = _checked(folder, *INT8, layers=True)
    there = _checked(folder, *INT8, layers=True, on=("local",))
    for file, same in zip(there, here, strict=True):
        assert file.passed
        assert file.lsb == 0
        assert same.lsb is None
        assert file.place.endswith(" on local")
        assert file.machine.startswith(file.isa)
        assert (file.metrics, file.layers) == (same.metrics, same.layers)


@pytest.mark.parametrize("core", ["cortex-a72", "cortex-a76"])
def test_an_emulated_core_gives_the_same_integers(folder: Path, core: str) -> None:
    name = f"emulated:{core}"
    try:
        device, transport = open_device(name)
        with closing(transport):
            ready(device, transport, "litert")
    except EdgemobileError as error:
        pytest.skip(f"{name} is not set up: {error}")
    (file,) = _checked(folder, "int8.tflite", on=(name,), runtimes=("litert",), layers=core == "cortex-a72", images=1)
    assert file.passed, file.missed
    assert file.lsb == 0
    assert file.isa == "aarch64"
    assert file.machine == ("aarch64, neon, no dotprod" if core == "cortex-a72" else "aarch64, dotprod")


def _other_arithmetic(
    place: ExecutionTarget, tensor: int, steps: int, shown: list[int], *, alone: bool
) -> ExecutionTarget:
    """`place` as a device on which the file's `tensor`-th output is wrong by `steps`; with `alone`, only if no other
    inner tensor is an output."""

    def infer(path: Path, images: np.ndarray) -> np.ndarray:
        output = place.infer(path, images).copy()
        output[-1] += 1.0
        return output

    def layers(data: bytes, images: np.ndarray) -> list[np.ndarray]:
        assert place.layers is not None
        arrays = place.layers(data, images)
        shown.append(len(arrays))
        if alone == (len(arrays) == 2):
            changed = slice(1, None) if alone and arrays[1].size <= tensor else slice(0, 0)
            # The output of the file, fc, is listed first, and differs because the ops before it do.
            for array in [arrays[0], *arrays[tensor:]] if not alone else arrays[changed]:
                array[...] = array + steps if array.dtype.kind in "iu" else array
        return arrays

    return replace(place, name="other", infer=infer, layers=layers, here=place)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("alone", [False, True])
def test_the_op_that_differs_is_named(folder: Path, steps: int, alone: bool) -> None:
    (litert,) = local_targets(("litert",))
    shown: list[int] = []
    # All outputs: fc, stem, conv, pool, flat. With `alone`: those not larger than conv's 4 x 4 x 8.
    place = _other_arithmetic(litert, 128 if alone else _index(folder, "conv"), steps, shown, alone=alone)
    (file,) = _checked(folder, "int8.tflite", places=(place,))
    assert file.lsb is not None
    assert file.lsb > 1
    said: Sequence[str] = file.missed if steps > 1 else file.notes
    assert f"the first op that differs: conv, by {steps} step" in said[-1]
    assert file.passed == (steps == 1)
    assert (2 in shown) == alone


def test_outputs_that_differ_where_no_op_does_are_a_miss(folder: Path) -> None:
    (litert,) = local_targets(("litert",))
    (file,) = _checked(folder, "int8.tflite", places=(_other_arithmetic(litert, 0, 0, [], alone=False),))
    assert not file.passed
    assert file.missed[-1].endswith("; no op that differs was found")


def _index(folder: Path, name: str) -> int:
    from edgemobile.exporters.intermediate_outputs import intermediate_names
    from edgemobile.exporters.model_files import read_model_file

    return intermediate_names(read_model_file(folder / "int8.tflite").contents).index(name)


def test_a_file_that_normalises_by_itself_has_the_same_layers(folder: Path) -> None:
    for file in _checked(folder, "embedded.tflite", "embedded.onnx", layers=True):
        assert file.passed, file.missed
        assert len(file.layers) == 1 + 5
        assert min(layer.arithmetic_sqnr_db for layer in file.layers if layer.arithmetic_sqnr_db is not None) > 90


def test_a_device_that_does_not_answer_is_exit_4_before_anything_is_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["edgemobile", "parity", str(folder / "float32.onnx"), str(folder / "int8.tflite")]
    monkeypatch.setattr("edgemobile.comparison.run.load_reference", lambda *words: pytest.fail("it was run"))
    monkeypatch.setattr(sys, "argv", [*words, "--on", "ssh://nobody@127.0.0.1:1"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 4
    assert "127.0.0.1" in capsys.readouterr().err


def test_a_runtime_no_device_has_is_refused() -> None:
    with (
        pytest.raises(EdgemobileError, match=r"there is no runtime 'tensorrt'\. Known: onnxruntime, litert"),
        opened_targets(("local",), ("tensorrt",)),
    ):
        pass


@pytest.mark.skipif(find_spec("tflite_runtime") is not None, reason="tflite_runtime is installed here")
@pytest.mark.parametrize("on", [(), ("local",)])
def test_a_runtime_that_lives_apart_says_where_to_put_it(folder: Path, on: tuple[str, ...]) -> None:
    with pytest.raises(
        MissingExtra, match=r"numpy < 2, so install it in a separate virtual environment: python3.11 -m venv"
    ):
        _checked(folder, "int8.tflite", runtimes=("tflite_runtime",), on=on)


def test_a_device_that_does_not_answer_is_a_row_and_the_others_are_compared(folder: Path) -> None:
    dead = "ssh://nobody@127.0.0.1:9"
    files = (str(folder / "float32.onnx"), str(folder / "int8.onnx"))
    report = parity(ParityRequest(files[0], files, images=2, on=(dead, "local"), runtimes=("onnxruntime",)))
    rows = {(file.place, Path(file.file).name): file for file in report.files}
    here, there = (rows[f"onnxruntime on {name}", "float32.onnx"] for name in ("local", dead))
    assert here.passed
    assert (there.unreachable, there.passed) == (True, False)
    assert "not reachable" in rows[f"onnxruntime on {dead}", "int8.onnx"].refused
    assert replace(report, files=(here, there)).exit_code == 4
    assert replace(report, files=(replace(here, missed=("x",)), there)).exit_code == 1
    assert replace(report, files=(replace(here, refused="x"), there)).exit_code == 2
    with pytest.raises(DeviceUnreachable, match="not reachable"):
        parity(ParityRequest(files[0], files, images=2, on=(dead,), runtimes=("onnxruntime",)))
