"""The same net in the runtimes that have a wheel for aarch64, on emulated cores: instructions and estimated cycles.

    edgemobile export v3-large --res 224 --classes 1000 --weights random --seed 0 --int8
    pip download ncnn MNN --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_aarch64 \\
        --platform manylinux2014_aarch64 --dest wheels
    python benchmarks/rival_runtimes.py v3-large --wheels wheels --tools venv/bin/python --images images/

All files are made of the ONNX and TFLite files in the folder of an export, so all have the same weights. `--tools` is a
Python with `pnnx` and `MNN`; the converters are called directly, because MNN's programs mnnconvert and mnnquant call
pip to install a package that reports their use. MNN's int8 file is made by its own quantizer, from the images. ncnn's
quantizer is not part of its wheels, and ExecuTorch's wheel needs torch on the board, so both have no int8 row here.
pnnx stores weights as float16, and ncnn computes in float16 if the core can.

It needs the emulated cores with every other runtime: `edgemobile devices setup emulated:cortex-a72 --runtime NAME`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from emulated_worker import NCNN, SESSION, Counted, count_inference

from edgemobile.errors import EdgemobileError
from edgemobile.latency.estimates import on_boards

CORES = ("cortex-a72", "cortex-a76")

_MNN = """
import sys
import numpy as np
import _mnncengine as mnn
net = mnn.Interpreter(sys.argv[1])
session = net.createSession({"numThread": 1, "backend": "CPU", "precision": sys.argv[3]})
given, made = net.getSessionInput(session), net.getSessionOutput(session)
px = int(sys.argv[2])
image = np.random.default_rng(0).standard_normal((1, 3, px, px)).astype(np.float32)
source = mnn.Tensor((1, 3, px, px), mnn.Halide_Type_Float, image, mnn.Tensor_DimensionType_Caffe)
def infer():
    given.copyFrom(source)
    net.runSession(session)
    return made.getNumpyData()
"""
_QUANTIZE = "import sys, _tools; _tools.mnnquant(['mnnquant', *sys.argv[1:]])"
_CONVERT = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"


@dataclass(frozen=True)
class Sources:
    """The folder of an export, and what the rows make of it in `keep`."""

    export: Path
    keep: Path
    wheels: Path
    tools: Path
    images: Path
    input_px: int

    def file(self, ending: str) -> Path:
        """The exported file with this ending, such as "-int8.tflite"."""
        found = sorted(self.export.glob(f"*{ending}"))
        if len(found) != 1:
            raise EdgemobileError(f"{self.export}: {len(found)} files *{ending}; the export of one model has one")
        return found[0]

    def site(self, package: str) -> Path:
        """The unpacked wheel of a package for aarch64."""
        (wheel,) = self.wheels.glob(f"{package}-*aarch64.whl")
        if not (site := self.keep / package).is_dir():
            zipfile.ZipFile(wheel).extractall(site)
        return site

    def version(self, package: str) -> str:
        (wheel,) = self.wheels.glob(f"{package}-*aarch64.whl")
        return wheel.name.split("-")[1]

    def ncnn(self) -> Path:
        """pnnx's net.ncnn, beside net.ncnn.param and net.ncnn.bin."""
        made = self.keep / "net.ncnn"
        if not made.with_suffix(".ncnn.bin").is_file():
            source = self.keep / "net.onnx"
            source.write_bytes(self.file("-float32.onnx").read_bytes())
            where = "import importlib.util as u, os; print(os.path.dirname(u.find_spec('pnnx').origin))"
            folder = subprocess.run([self.tools, "-c", where], check=True, capture_output=True, text=True)
            pnnx = Path(folder.stdout.strip(), "pnnx").resolve()
            shape = f"inputshape=[1,3,{self.input_px},{self.input_px}]"
            subprocess.run([pnnx, source.name, shape], check=True, capture_output=True, cwd=self.keep)
        return made.resolve()

    def mnn(self) -> Path:
        made = self.keep / "net.mnn"
        if not made.is_file():
            words = ["-f", "ONNX", "--modelFile", self.file("-float32.onnx"), "--MNNModel", made, "--bizCode", "net"]
            subprocess.run([self.tools, "-c", _CONVERT, *words], check=True, capture_output=True)
        return made.resolve()

    def mnn_int8(self) -> Path:
        """The file of MNN's quantizer, with its default methods and ImageNet's preprocessing."""
        made = self.keep / "net-int8.mnn"
        if not made.is_file():
            settings = {
                "format": "RGB",
                "mean": [123.675, 116.28, 103.53],
                "normal": [0.01712475, 0.017507, 0.01742919],
                "width": self.input_px,
                "height": self.input_px,
                "path": f"{self.images.resolve()}/",
                "used_image_num": 16,
                "feature_quantize_method": "KL",
                "weight_quantize_method": "MAX_ABS",
            }
            (self.keep / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
            words = [self.mnn(), made, self.keep / "settings.json"]
            subprocess.run([self.tools, "-c", _QUANTIZE, *words], check=True, capture_output=True)
        return made.resolve()


@dataclass(frozen=True)
class Row:
    """A runtime with a file; `counted` returns its version and the count on a core."""

    runtime: str
    file: str
    counted: Callable[[Sources, str], tuple[str, Counted]]


def _ours(runtime: str, ending: str) -> Row:
    """A runtime that edgemobile runs, with a file of the export."""

    def counted(sources: Sources, cpu: str) -> tuple[str, Counted]:
        found = count_inference(cpu, SESSION, [str(sources.file(ending).resolve()), runtime], runtime=runtime)
        return found.printed, found

    return Row(runtime, f"edgemobile {ending.strip('-').replace('.', ' ')}", counted)


def _ncnn() -> Row:
    def counted(sources: Sources, cpu: str) -> tuple[str, Counted]:
        made = sources.ncnn()
        arguments = [str(made.with_suffix(".ncnn.param")), str(sources.input_px), str(made.with_suffix(".ncnn.bin"))]
        return sources.version("ncnn"), count_inference(cpu, NCNN, arguments, sources.site("ncnn"))

    return Row("ncnn", "pnnx float", counted)


def _mnn(file: str, make: Callable[[Sources], Path], precision: str) -> Row:
    def counted(sources: Sources, cpu: str) -> tuple[str, Counted]:
        arguments = [str(make(sources)), str(sources.input_px), precision]
        return sources.version("mnn"), count_inference(cpu, _MNN, arguments, sources.site("mnn"))

    return Row("MNN", file, counted)


ROWS = (
    _ours("litert", "-float32.tflite"),
    _ours("litert", "-int8.tflite"),
    _ours("tflite_runtime", "-float32.tflite"),
    _ours("tflite_runtime", "-int8.tflite"),
    _ours("onnxruntime", "-float32.onnx"),
    _ours("onnxruntime", "-int8.onnx"),
    _ncnn(),
    _mnn("mnnconvert float", Sources.mnn, "high"),
    _mnn("mnnconvert float, precision low", Sources.mnn, "low"),
    _mnn("mnnquant int8", Sources.mnn_int8, "high"),
    _mnn("mnnquant int8, precision low", Sources.mnn_int8, "low"),
)


def table(sources: Sources) -> Iterator[str]:
    """The rows as Markdown, one at a time; a runtime that fails has its reason in its row."""
    yield "| runtime | file | core | M instructions | compute + memory, M cycles | estimated |"
    yield "|---|---|---|---:|---:|---:|"
    for row in ROWS:
        for cpu in CORES:
            yield f"| {' | '.join(_cells(row, sources, cpu))} |"


def _cells(row: Row, sources: Sources, cpu: str) -> tuple[str, ...]:
    try:
        version, counted = row.counted(sources, cpu)
    except (EdgemobileError, subprocess.CalledProcessError) as error:
        return row.runtime, row.file, cpu, "-", "-", " ".join(str(error).split())[-200:]
    one = on_boards(counted.estimate)[-1]
    parts = f"{one.compute_cycles / 1e6:.1f} + {one.memory_cycles / 1e6:.1f}"
    return (
        f"{row.runtime} {version}",
        row.file,
        cpu,
        f"{counted.execution.instructions / 1e6:.1f}",
        parts,
        f"{one.ms:.2f} ms",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="folder of an export with --int8, random weights at 224 px")
    parser.add_argument("--wheels", type=Path, required=True, help="folder with the wheels for aarch64")
    parser.add_argument("--tools", type=Path, required=True, help="a Python with pnnx and MNN")
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG images for MNN's quantizer")
    parser.add_argument("--res", type=int, default=224, help="input resolution of the export in pixels")
    parser.add_argument("--keep", type=Path, default=Path("rival-files"), help="folder for the converted files")
    given = parser.parse_args()
    given.keep.mkdir(exist_ok=True)
    keep, tools = given.keep.resolve(), given.tools.absolute()
    sources = Sources(given.export, keep, given.wheels, tools, given.images, given.res)
    for line in table(sources):
        print(line, flush=True)


if __name__ == "__main__":
    main()
