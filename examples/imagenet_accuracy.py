"""The accuracy of int8 on ImageNet beside published figures, in one command.

    python examples/imagenet_accuracy.py --data imagenet/ --out accuracy/
    python examples/imagenet_accuracy.py --data imagenet/val --nets v2=my.pth --limit 5000 --out accuracy/

--data is a folder or zip of ImageNet's validation images, one folder per class, or a folder with `train` and `val`.
int8 is calibrated on images of `train`, or else on some of the validation images, which are not counted then. A net is
a reference model with torchvision's public weights, which are downloaded, or with those of a FILE: --nets v2=FILE.

Every row is a file in its own runtime, on the same images. Intervals are at 95 %: Wilson's for top-1, and for the loss
to float the interval of the paired difference, image by image.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import edgemobile
from edgemobile.accuracy.evaluate import evaluate
from edgemobile.accuracy.evaluation import EvalRequest, FileResult
from edgemobile.accuracy.statistics import mcnemar, wilson
from edgemobile.errors import EdgemobileError
from edgemobile.images.dataset import CHECK_SPLITS, open_dataset
from edgemobile.loading.public import SPECS
from edgemobile.printing.terminal import print_error, progress
from edgemobile.util.progress import Progress

_Z95 = 1.96
_HEADER = ("net", "int8 by", "images", "top-1", "95 %", "loss to float", "95 %")


@dataclass(frozen=True)
class Published:
    """Top-1 in percent of int8 made by others; `float_top1` is that of the float net it was made from."""

    net: str
    source: str
    float_top1: float
    int8_top1: float


PUBLISHED = (
    Published("v2", "torchvision, trained for int8", 71.88, 71.66),
    Published("v2", "MNN, post-training", 71.88, 71.15),
    Published("v3-small", "NNCF, post-training", 67.66, 66.81),
    Published("v3-large", "torchvision, trained for int8", 74.04, 73.00),
    Published("v3-large", "MNN, post-training, first layers in float", 74.04, 73.03),
    Published("v3-large", "TF-slim, trained for int8, TensorFlow's weights", 75.2, 73.9),
)


@dataclass(frozen=True)
class Counted:
    """A file on the images that int8 was not calibrated on: `right` bool[N], whether each answer is right."""

    name: str
    right: np.ndarray


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    print(_line(_HEADER), _line(["---"] * len(_HEADER)), sep="\n", flush=True)
    try:
        for net, _, weights in (each.partition("=") for each in options.nets.split(",")):
            with progress() as shown:
                files = counted(net, weights or "imagenet-v1", options, shown)
            for row in (*rows(net, files), *published_rows(net)):
                print(_line(row), flush=True)
    except EdgemobileError as error:
        print_error(str(error))
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="ImageNet's validation images, a folder or zip")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files, one folder per net")
    parser.add_argument("--nets", default="v2,v3-small,v3-large", help="comma-separated, NET or NET=FILE")
    parser.add_argument("--calib-images", type=int, default=512, help="images to calibrate int8 on [default: 512]")
    parser.add_argument("--recipe", help="a recipe by name or from a JSON file [default: as edgemobile export]")
    parser.add_argument("--limit", type=int, help="images to evaluate, drawn at random [default: all]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes that evaluate [default: as edgemobile eval]")
    return parser.parse_args(arguments)


def counted(net: str, weights: str, options: argparse.Namespace, shown: Progress) -> list[Counted]:
    """float, int8 ONNX and int8 TFLite of a net, exported and evaluated."""
    exported = edgemobile.export(
        net,
        weights=weights,
        int8=True,
        calib=options.data,
        calib_images=options.calib_images,
        recipe=options.recipe,
        seed=options.seed,
        out=options.out / _folder(net, weights),
        overwrite=True,
        progress=shown,
    )
    wanted = ("-float32.tflite", "-int8.onnx", "-int8.tflite")
    files = tuple(str(path) for ending in wanted for path in exported.paths if path.name.endswith(ending))
    request = EvalRequest(files, options.data, limit=options.limit, seed=options.seed, workers=options.workers)
    evaluation = evaluate(request, shown)
    calibrated_on = calibration_images(options)
    unseen = np.array([name not in calibrated_on for name in evaluation.images], bool)
    if not unseen.any():
        raise EdgemobileError(
            f"int8 of {net} was calibrated on all {len(unseen)} images that were evaluated. Lower --calib-images"
        )
    return [Counted(_title(file), (file.rank == 0)[unseen]) for file in evaluation.files]


def _folder(net: str, weights: str) -> str:
    return net if weights in SPECS else f"{net}-{Path(weights).stem}"


def _title(file: FileResult) -> str:
    name = Path(file.classifier.file).name
    return "float" if "float32" in name else f"edgemobile, {'ONNX' if name.endswith('.onnx') else 'TFLite'}"


def calibration_images(options: argparse.Namespace) -> set[str]:
    """The names of the images that the export calibrated on, if they may be among those evaluated."""
    data = open_dataset(options.data)
    if "train" in data.splits and any(split in data.splits for split in CHECK_SPLITS):
        return set()
    data = data.in_split(data.splits[0]) if data.splits else data
    return {data.name(index) for index in data.sample(options.calib_images, options.seed)}


# ---- the table ------------------------------------------------------------------------------------------------------


def rows(net: str, files: Sequence[Counted]) -> Iterator[list[str]]:
    """One row per file; the first file is float."""
    baseline = files[0].right
    for file in files:
        correct, count = int(file.right.sum()), len(file.right)
        low, high = wilson(correct, count)
        loss = ["", ""] if file is files[0] else _loss(baseline, file.right)
        yield [net, file.name, f"{count:,}", f"{correct / count:.2%}", f"{low:.2%} to {high:.2%}", *loss]


def _loss(baseline: np.ndarray, right: np.ndarray) -> list[str]:
    """Points of top-1 lost, and their interval: each image contributes -1, 0 or 1."""
    pair = mcnemar(baseline, right)
    mean = pair.drop_points / 100
    deviation = math.sqrt(max(0.0, (pair.only_baseline + pair.only_other) / pair.count - mean**2))
    half = 100 * _Z95 * deviation / math.sqrt(pair.count)
    return [f"{pair.drop_points:.2f}", f"{pair.drop_points - half:.2f} to {pair.drop_points + half:.2f}"]


def published_rows(net: str) -> Iterator[list[str]]:
    """What others published for this net, on all 50,000 images."""
    for row in PUBLISHED:
        if row.net == net:
            loss = row.float_top1 - row.int8_top1
            yield [net, f"{row.source} (published)", "50,000", f"{row.int8_top1:.2f}%", "", f"{loss:.2f}", ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
