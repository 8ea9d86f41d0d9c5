"""The code of `edgemobile snippet` is compiled, runs, and computes what edgemobile computes.

No package brings the headers of LiteRT or onnxruntime. For LiteRT the part in use is in tests/support/litert_c, and is
linked with the library in the wheel of ai-edge-litert; LITERT_INCLUDE takes the real ones. For onnxruntime
ONNXRUNTIME_INCLUDE names the folder of onnxruntime_c_api.h. Kotlin is not compiled.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemobile.accuracy.classifier import Classifier, ClassifierOptions, classify, open_classifier
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.model_file.contents import Contents, Op, Value
from edgemobile.snippets.arena import activation_bytes, resolver_calls
from edgemobile.snippets.model import snippet_model
from edgemobile.snippets.source import snippet

_KINDS = ("normalised outside", "normalised inside")
_FILES = ("int8.tflite", "int8.onnx", "float32.tflite", "float32.onnx")
_INCLUDES = (
    "common",
    "compiled_model",
    "environment",
    "model",
    "options",
    "tensor_buffer",
    "tensor_buffer_requirements",
)

# Its kernels round some ties of ADD, MUL and MEAN the other way, and later layers carry that on: on 16 of the package's
# images by at most 5 steps of the output, with --target microcontroller 6.
_MICRO_LSB = 8


def _code(path: Path, language: str) -> str:
    return snippet(snippet_model(path, ClassifierOptions()), language)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """As large as the input, so that nothing resizes it by half."""
    blots = np.random.default_rng(1).integers(0, 255, (5, 4, 3), np.uint8)
    return Image.fromarray(blots).resize((96, 96))


def _shares(model: Classifier, pixels: np.ndarray) -> list[tuple[str, float]]:
    """The best five classes of u8[px,px,3] that are not resized."""
    how = model.preprocess
    mean, std = (np.array(values, np.float32) for values in (how.mean, how.std))
    scores = model.scores(((pixels.astype(np.float32) / np.float32(255) - mean) / std)[None])[0]
    powers = np.exp(scores - scores.max())
    shares = powers / powers.sum()
    return [(model.label(i), float(shares[i])) for i in np.argsort(-shares, kind="stable")[:5]]


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("file", _FILES)
def test_python(
    bundled_export: Callable[[str], Path], image: Image.Image, tmp_path: Path, kind: str, file: str
) -> None:
    path = bundled_export(kind) / f"v3-small-{file}"
    large = image.resize((150, 201))
    large.save(tmp_path / "image.png")
    (tmp_path / "classify.py").write_text(_code(path, "python"))
    assert not re.search(r"^\s*(from|import) edgemobile", (tmp_path / "classify.py").read_text(), re.M)
    command = [sys.executable, tmp_path / "classify.py", tmp_path / "image.png"]
    ran = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    best = classify(open_classifier(str(path), ClassifierOptions()), large, 5)
    assert ran.stdout.splitlines()[1:] == [f"  {one.probability:6.1%}  {one.label}" for one in best]


@pytest.mark.parametrize("file", ["int8.tflite", "int8.onnx"])
def test_python_ends_quietly_when_the_reader_closes_the_pipe(
    bundled_export: Callable[[str], Path], tmp_path: Path, closed_pipe: int, file: str
) -> None:
    export = bundled_export("normalised outside")
    (tmp_path / "classify.py").write_text(_code(export / f"v3-small-{file}", "python"))
    ran = subprocess.run(
        [sys.executable, tmp_path / "classify.py", "sample.png"],
        cwd=export, stdout=closed_pipe, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == -signal.SIGPIPE
    assert "Traceback" not in ran.stderr


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("no C++ compiler here: apt-get install g++")
    return found


@pytest.fixture(scope="module")
def litert(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> list[str]:
    """The compiler's words for LiteRT."""
    spec = importlib.util.find_spec("ai_edge_litert")
    library = Path(spec.submodule_search_locations[0]) / "libLiteRt.so" if spec else Path("absent")
    if not library.is_file():
        pytest.skip("ai-edge-litert brings no libLiteRt.so here")
    include = os.environ.get("LITERT_INCLUDE")
    if include is None:
        folder = tmp_path_factory.mktemp("include")
        shutil.copytree(repo_root / "tests/support/litert_c", folder, dirs_exist_ok=True)
        for name in _INCLUDES[1:]:
            (folder / f"litert/c/litert_{name}.h").write_text('#include "litert_common.h"\n')
        include = str(folder)
    return ["-isystem", include, str(library), f"-Wl,-rpath,{library.parent}"]


@pytest.fixture(scope="module")
def onnxruntime(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The compiler's words for onnxruntime."""
    include = os.environ.get("ONNXRUNTIME_INCLUDE")
    if include is None:
        pytest.skip("no headers of onnxruntime: set ONNXRUNTIME_INCLUDE to the folder of onnxruntime_c_api.h")
    spec = importlib.util.find_spec("onnxruntime")
    found = sorted((Path(spec.submodule_search_locations[0]) / "capi").glob("libonnxruntime.so.*")) if spec else []
    if not found:
        pytest.skip("onnxruntime brings no libonnxruntime.so here")
    folder = tmp_path_factory.mktemp("lib")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(found[0])
    return ["-isystem", include, f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}"]


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("file", _FILES)
def test_cpp(
    request: pytest.FixtureRequest,
    bundled_export: Callable[[str], Path],
    compiler: str,
    image: Image.Image,
    tmp_path: Path,
    kind: str,
    file: str,
) -> None:
    words = request.getfixturevalue("litert" if file.endswith("tflite") else "onnxruntime")
    path = bundled_export(kind) / f"v3-small-{file}"
    (tmp_path / "classify.cpp").write_text(_code(path, "cpp"))
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-o", "classify", "classify.cpp", *words]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pixels = np.asarray(image)
    (tmp_path / "image.rgb").write_bytes(pixels.tobytes())
    program = [tmp_path / "classify", tmp_path / "image.rgb"]
    ran = subprocess.run(program, cwd=path.parent, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = [line.split("  ", 1) for line in ran.stdout.splitlines() if re.match(r"\d\.\d{6}  ", line)]
    expected = _shares(open_classifier(str(path), ClassifierOptions()), pixels)
    # LiteRT's C++ and Python interfaces may share the work among other kernels, which adds floats in another order.
    assert [float(share) for share, _ in found] == pytest.approx([share for _, share in expected], abs=1e-5)
    assert found[0][1] == expected[0][0]
    (tmp_path / "image.rgb").write_bytes(b"short")
    ran = subprocess.run(program, cwd=path.parent, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "has 5 bytes, not 27648" in ran.stderr


def test_c_array(bundled_export: Callable[[str], Path], compiler: str, tmp_path: Path) -> None:
    """Bytes, labels and alignment as a C++ program sees them, in C and in C++."""
    path = bundled_export("normalised outside") / "v3-small-int8.tflite"
    data = path.read_bytes()
    (tmp_path / "model.c").write_text(_code(path, "c-array"))
    (tmp_path / "main.cpp").write_text(
        """#include <cstdio>
#include <cstdint>
extern "C" {
extern const unsigned char v3_small_int8[];
extern const unsigned int v3_small_int8_len;
extern const char* const v3_small_int8_labels[];
}
int main() {
  if (reinterpret_cast<uintptr_t>(v3_small_int8) % 16) return 1;
  std::fputs(v3_small_int8_labels[9], stderr);
  return std::fwrite(v3_small_int8, 1, v3_small_int8_len, stdout) != v3_small_int8_len;
}
"""
    )
    for language in ("c", "c++"):
        command = [compiler, "-x", language, "-c", "model.c", "-o", "model.o"]
        subprocess.run(command, cwd=tmp_path, check=True)
        subprocess.run([compiler, "main.cpp", "model.o", "-o", "main"], cwd=tmp_path, check=True)
        ran = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
        assert ran.stdout == data
        assert ran.stderr == b"truck"


def test_tensorflow_lite_micro_takes_the_array(bundled_export: Callable[[str], Path]) -> None:
    """In an arena larger than the comment's bytes; with those bytes alone it cannot begin."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    from edgemobile.exporters.tflite_graph import read_graph
    from edgemobile.graph.interpreter import run
    from edgemobile.images.dataset import open_dataset
    from edgemobile.loading.checkpoint import CHECK_IMAGES

    path = bundled_export("normalised outside") / "v3-small-int8.tflite"
    model = open_classifier(str(path), ClassifierOptions())
    code, data = _code(path, "c-array"), path.read_bytes()
    least = int(re.search(r"needed at the same time take (\d+) bytes", code)[1])
    with pytest.raises(Exception, match=r"."):
        runtime.Interpreter.from_bytes(data, arena_size=least)
    interpreter, graph = runtime.Interpreter.from_bytes(data, arena_size=4 * least), read_graph(data)
    images, _ = open_dataset(CHECK_IMAGES).load_batch(range(0, 80, 10), model.preprocess)
    for image in images:
        given = model.session.prepare(image[None])
        interpreter.set_input(given, 0)
        interpreter.invoke()
        found = interpreter.get_output(0).astype(int)
        (expected,) = run(graph, given).values()
        assert np.abs(found - expected).max() <= _MICRO_LSB
        assert found.argmax() == expected.argmax()
        assert np.ptp(found) > 4 * _MICRO_LSB


def test_kotlin(bundled_export: Callable[[str], Path]) -> None:
    path = bundled_export("normalised outside") / "v3-small-int8.tflite"
    code = _code(path, "kotlin")
    port = open_classifier(str(path), ClassifierOptions()).session.input
    assert f"INPUT_SCALE = {port.scale!r}f" in code
    assert f"INPUT_ZERO_POINT = {port.zero_point}" in code
    assert "writeInt8" in code
    assert '    "airplane",' in code
    assert code.count("{") == code.count("}")
    assert "writeFloat" in _code(path.with_name("v3-small-float32.tflite"), "kotlin")
    with pytest.raises(Unsupported, match="has a uint8 input or output"):
        _code(bundled_export("normalised inside") / "v3-small-int8.tflite", "kotlin")


@pytest.mark.parametrize("language", ["kotlin", "c-array"])
def test_onnx_has_no_code_in(bundled_export: Callable[[str], Path], language: str) -> None:
    with pytest.raises(Unsupported, match=f"is onnx, and {language} code is for TFLite files. Supported for ONNX: py"):
        _code(bundled_export("normalised outside") / "v3-small-int8.onnx", language)


@pytest.mark.parametrize(
    ("layout", "softmax", "dtype"), [((1, 3, 32, 32), True, "FLOAT"), ((1, 32, 32, 3), False, "UINT8")]
)
def test_files_of_others(
    colour_model: Callable[..., bytes], tmp_path: Path, layout: tuple[int, ...], softmax: bool, dtype: str
) -> None:
    """What is assumed for them stands in the code; labels with quotes and dollars stay what they are."""
    path = tmp_path / "theirs.onnx"
    path.write_bytes(colour_model("bgr", shape=layout, softmax=softmax, dtype=dtype))
    (tmp_path / "labels.txt").write_text('a "b"\n$c\\d\ne\n')
    code = _code(path, "python")
    assert "assumed" in code
    assert ("return scores\n" in code) == softmax
    (tmp_path / "classify.py").write_text(code)
    Image.new("RGB", (40, 40), (10, 200, 10)).save(tmp_path / "green.png")
    command = [sys.executable, "classify.py", "green.png"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[1].endswith("$c\\d")


def test_a_file_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(EdgemobileError, match="cannot read"):
        _code(tmp_path / "absent.tflite", "python")


# ---- arena ----------------------------------------------------------------------------------------------------------


def test_activations_alive_at_once() -> None:
    """a (10) -> b (40) -> c (5); a is read again at the end: a + b, then a + b + c."""
    sizes = {"a": 10, "b": 40, "c": 5, "d": 10}
    values = {name: Value(name, (1, size), "int8") for name, size in sizes.items()}
    values["w"] = Value("w", (1000,), "int8", constant=True)
    ops = (Op("CONV_2D", ("a", "w"), ("b",)), Op("MEAN", ("b",), ("c",)), Op("ADD", ("c", "a"), ("d",)))
    contents = Contents("tflite", "", "", ("a",), ("d",), ops, values)
    assert activation_bytes(contents) == 10 + 40 + 5
    assert resolver_calls(contents) == ["AddAdd", "AddConv2D", "AddMean"]


def test_names_of_ops_as_the_resolver_has_them() -> None:
    kinds = ("DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "FULLY_CONNECTED", "HARD_SWISH", "LOGISTIC")
    ops = tuple(Op(kind, ("a",), (f"y{index}",)) for index, kind in enumerate(kinds))
    calls = resolver_calls(Contents("tflite", "", "", ("a",), ("y0",), ops, {}))
    assert calls == ["AddAveragePool2D", "AddDepthwiseConv2D", "AddFullyConnected", "AddHardSwish", "AddLogistic"]
