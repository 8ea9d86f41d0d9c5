#!/usr/bin/env python
"""Makes the images in edgemobile/bundled, on which int8 files of the bundled models are calibrated and compared.

    python examples/bundled_images.py --out edgemobile/bundled/check_images.zip
    python examples/bundled_images.py --out edgemobile/bundled/calibration_images.zip --seed 1

Images made anew on each machine differ: an optimiser turns the last bit of a sum into another picture, and the number
of answers that int8 changes with it. These are made once, for all nets of the package together, from what their batch
norms remember (edgemobile.quant.synthesize), at CIFAR-10's own 32 px. Kept are those that every net is sure of, as it
is of most photos; an image on the border between two classes says nothing of a file.

Beside the zip goes a JSON file that says which weights the images were made from (edgemobile.loading.stored_images).
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edgemobile.graph.embed import to_pixels
from edgemobile.loading.checkpoint import build, bundled, load_weights
from edgemobile.loading.stored_images import ImageRecord
from edgemobile.models.arch import get_arch
from edgemobile.preprocess import CIFAR10, at_resolution
from edgemobile.quant.synthesize import synthesize
from edgemobile.util.hashing import sha256_hex
from edgemobile.util.strict_json import to_json_text

_SOURCE_PX = 32
# Five bits per channel: half the bytes in a PNG, and no answer changes.
_LEVEL = 8
# More than calibration needs, or images lie between classes.
_CLASS_WEIGHT = 2.0
# Probability of the least certain net; they learned from teachers, whose answers are soft.
_SURE = 0.7
# The same minute for every image: the same bytes from every run.
_DATE = (2026, 1, 1, 0, 0, 0)


class Committee(torch.nn.Module):
    """The mean logits of nets for images f32[N,3,32,32], enlarged as their preprocessing does."""

    def __init__(self, nets: list[torch.nn.Module]) -> None:
        super().__init__()
        self.nets = torch.nn.ModuleList(nets)

    def each(self, images: torch.Tensor) -> torch.Tensor:
        """The logits of every net, f32[nets,N,classes]."""
        px = (CIFAR10.input_px, CIFAR10.input_px)
        enlarged = torch.nn.functional.interpolate(images, size=px, mode="bilinear", align_corners=False)
        return torch.stack([net(enlarged) for net in self.nets])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.each(images).mean(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the zip to write")
    parser.add_argument("--made", type=int, default=96, help="images to make")
    parser.add_argument("--kept", type=int, default=96, help="maximum number to keep")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise that the images start from")
    parser.add_argument("--steps", type=int, default=36, help="steps of the optimiser")
    options = parser.parse_args()
    checkpoints = {name: load_weights("bundled", get_arch(name)) for name in bundled()}
    labels = checkpoints["v2"].labels
    assert labels is not None
    committee = Committee([build(get_arch(name), weights)[1] for name, weights in checkpoints.items()])
    preprocess = at_resolution(CIFAR10, _SOURCE_PX)

    def told(step: int, total: int | None = None) -> None:
        print(f"step {step} of {options.steps}", flush=True)

    asked = {"images": options.made, "seed": options.seed, "steps": options.steps, "class_weight": _CLASS_WEIGHT}
    made = synthesize(committee, preprocess, **asked, progress=told)
    pixels = (to_pixels(made, preprocess).astype(int) // _LEVEL * _LEVEL + _LEVEL // 2).astype(np.uint8)
    shown = torch.from_numpy(np.stack([preprocess(image) for image in pixels]).transpose(0, 3, 1, 2))
    with torch.no_grad():
        shares = committee.each(shown).softmax(-1).numpy()
    classes = shares.mean(0).argmax(-1)
    sure = shares[:, np.arange(len(classes)), classes].min(0)
    kept = [index for index in range(len(classes)) if sure[index] >= _SURE][: options.kept]
    with zipfile.ZipFile(options.out, "w") as archive:
        for index in kept:
            name = f"{labels[classes[index]]}/{index:03}.png"
            data = io.BytesIO()
            Image.fromarray(pixels[index]).save(data, "png", optimize=True)
            archive.writestr(zipfile.ZipInfo(name, _DATE), data.getvalue())
    made_from = {name: weights.sha256 for name, weights in checkpoints.items()}
    record = ImageRecord(made_from, CIFAR10, sha256_hex(options.out.read_bytes()))
    options.out.with_suffix(".json").write_text(to_json_text(record.to_json()), encoding="utf-8")
    counted = ", ".join(f"{label} {sum(classes[kept] == index)}" for index, label in enumerate(labels))
    print(f"{options.out}: {len(kept)} of {options.made}, {options.out.stat().st_size} bytes; {counted}")


if __name__ == "__main__":
    main()
