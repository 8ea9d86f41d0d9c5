"""Train SSDLite on CIFAR-10 images pasted on coloured noise: a detector for tests, in minutes on a CPU.

    python examples/train_detector.py v3-large-ssdlite --data cifar10.zip --out detector.safetensors --coco pasted
    edgemobile export v3-large-ssdlite --weights detector.safetensors --int8 --calib pasted/train --out detector
    edgemobile eval detector/ --data pasted/test --annotations pasted/test.json

Writes weights with a json of labels and preprocessing beside them, and the images with their boxes in COCO's json. The
backbone up to C4's expansion is the package's classifier, trained on the same images; it stays as it is, so that its
features are computed once. The rest is trained on them with SSD's loss (arXiv:1512.02325, section 2.2.1).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from edgemobile.boxes import iou
from edgemobile.images.dataset import Dataset, open_dataset
from edgemobile.loading.checkpoint import load_weights
from edgemobile.models.arch import Arch, get_arch, scaled
from edgemobile.models.layers import layers
from edgemobile.models.nets import build_net
from edgemobile.models.ssdlite import postprocess
from edgemobile.preprocess import CIFAR10

PX = CIFAR10.input_px
SMALLEST, LARGEST = 32, 64  # pixels of an object's side
TAKEN = 0.5  # the overlap from which an anchor stands for an object
NEGATIVES = 3  # anchors of background in the loss for each that stands for an object

Boxes = list[tuple[int, tuple[int, int, int, int]]]  # (class, left, top, right, bottom in pixels)


def main() -> None:
    args = parse()
    torch.manual_seed(args.seed)
    data = open_dataset(args.data)
    pictures = {
        name: pasted(data.in_split(name), count, np.random.default_rng([args.seed, count]))
        for name, count in (("train", args.images), ("test", args.test_images))
    }
    for name, (images, boxes) in pictures.items():
        write_coco(args.coco, name, images, boxes, data.classes)
    arch = scaled(get_arch(args.arch), input_px=PX, classes=len(data.classes) + 1)
    net = build_net(arch)
    start_from_classifier(net, arch)
    train(net, arch, *pictures["train"], epochs=args.epochs, batch=args.batch, lr=args.lr)
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, args.out)
    preprocess = replace(CIFAR10, input_px=PX)
    known = {"labels": ["background", *data.classes], "preprocess": preprocess.to_json()}
    args.out.with_suffix(".json").write_text(json.dumps(known, indent=1) + "\n")
    print(f"wrote {args.out} and {args.coco}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("arch", choices=["v2-ssdlite", "v3-large-ssdlite"])
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as an ImageFolder with train/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="weights to write, .safetensors")
    parser.add_argument("--coco", type=Path, required=True, help="folder to write images and annotations to")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--test-images", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


# ---- images ---------------------------------------------------------------------------------------------------------


def pasted(data: Dataset, count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[Boxes]]:
    """u8[count,PX,PX,3] of one to three objects on noise, none over another, and their boxes."""
    assert data.labels is not None
    images, boxes = np.empty((count, PX, PX, 3), np.uint8), []
    for image in images:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        image[:] = np.asarray(coarse.resize((PX, PX), Image.Resampling.BICUBIC))
        found: Boxes = []
        for _ in range(rng.integers(1, 4)):
            side = int(rng.integers(SMALLEST, LARGEST + 1))
            left, top = (int(place) for place in rng.integers(0, PX - side + 1, 2))
            place = (left, top, left + side, top + side)
            if any(iou(np.array(place), np.array(other)) > 0 for _, other in found):
                continue
            index = int(rng.integers(len(data)))
            image[top : top + side, left : left + side] = np.asarray(
                data.load(index).convert("RGB").resize((side, side))
            )
            found.append((int(data.labels[index]), place))
        boxes.append(found)
    return images, boxes


def write_coco(folder: Path, name: str, images: np.ndarray, boxes: list[Boxes], classes: tuple[str, ...]) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / name / f"{index:05}.png")
    annotations = [
        {"id": 0, "image_id": index, "category_id": label + 1, "bbox": [left, top, right - left, bottom - top]}
        for index, found in enumerate(boxes)
        for label, (left, top, right, bottom) in found
    ]
    record = {
        "images": [{"id": index, "file_name": f"{index:05}.png"} for index in range(len(images))],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(classes)],
        "annotations": [{**one, "id": number} for number, one in enumerate(annotations, start=1)],
    }
    (folder / f"{name}.json").write_text(json.dumps(record))


# ---- the net --------------------------------------------------------------------------------------------------------


def start_from_classifier(net: torch.nn.Module, arch: Arch) -> None:
    """The package's weights in every layer up to C4's expansion."""
    base = get_arch(arch.name.removesuffix("-ssdlite"))
    state, own = load_weights("bundled", base).state_dict, net.state_dict()
    for theirs, ours in zip(layers(base), layers(arch), strict=False):
        if not ours.name.startswith("backbone.features.0."):
            break
        for leaf in ("weight", "bias") if not ours.norm else ("weight",):
            if (key := f"{ours.name}.{leaf}") in own:
                own[key] = state[f"{theirs.name}.{leaf}"].float()
        if ours.norm:
            norm = {
                leaf: state[f"{theirs.norm}.{leaf}"].float()
                for leaf in ("weight", "bias", "running_mean", "running_var")
            }
            # The same function under SSDLite's eps.
            norm["weight"] *= ((norm["running_var"] + arch.bn_eps) / (norm["running_var"] + base.bn_eps)).sqrt()
            own |= {f"{ours.norm}.{leaf}": value for leaf, value in norm.items()}
    net.load_state_dict(own)


def train(
    net: torch.nn.Module, arch: Arch, images: np.ndarray, boxes: list[Boxes], *, epochs: int, batch: int, lr: float
) -> None:
    """Train all behind C4's expansion."""
    started = time.time()
    first, second = net.backbone.features
    features = frozen_features(first.eval(), images, batch)
    print(f"features of {len(images)} images: {time.time() - started:.0f} s", flush=True)
    anchors = postprocess(arch).anchors
    targets = [matched(anchors, found, postprocess(arch).scales) for found in boxes]
    classes = torch.from_numpy(np.stack([one for one, _ in targets]))
    offsets = torch.from_numpy(np.stack([one for _, one in targets]))
    net.train()
    first.eval()
    trained = [*second.parameters(), *net.backbone.extra.parameters(), *net.head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.02)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for epoch in range(epochs):
        losses = []
        for chosen in torch.randperm(len(images))[: len(images) // batch * batch].split(batch):
            levels = [features[chosen].float()]
            for part in (second, *net.backbone.extra):
                levels.append(part(levels[-1]))
            loss = ssd_loss(net.head(levels), classes[chosen], offsets[chosen])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 5)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, {time.time() - started:.0f} s", flush=True)
    net.eval()


@torch.inference_mode()
def frozen_features(part: torch.nn.Module, images: np.ndarray, batch: int) -> torch.Tensor:
    """f16[N,C,h,w] of the part that is not trained."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (CIFAR10.mean, CIFAR10.std))
    made = []
    for start in range(0, len(images), batch):
        pixels = torch.from_numpy(images[start : start + batch]).permute(0, 3, 1, 2).float() / 255
        made.append(part((pixels - mean) / std).half())
    return torch.cat(made).clone()


def matched(anchors: np.ndarray, boxes: Boxes, scales: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(i64[anchors], 0 for background; f32[anchors,4], the offsets to the box of each).

    An anchor stands for the box that it overlaps most, by half or more; the best anchor of a box always does.
    """
    corners = np.concatenate([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], axis=1)
    places = np.array([place for _, place in boxes], np.float32) / PX
    overlaps = iou(corners[:, None], places[None])
    overlaps[overlaps.argmax(axis=0), np.arange(len(boxes))] = 2
    best = overlaps.argmax(axis=1)
    labels = np.array([label + 1 for label, _ in boxes])[best]
    classes = np.where(overlaps.max(axis=1) >= TAKEN, labels, 0)
    centre, size = (places[:, :2] + places[:, 2:]) / 2, places[:, 2:] - places[:, :2]
    moved = (centre[best] - anchors[:, :2]) / anchors[:, 2:]
    stretched = np.log(size[best] / anchors[:, 2:])
    return classes, (np.concatenate([moved, stretched], axis=1) * np.array(scales)).astype(np.float32)


def ssd_loss(made: dict[str, torch.Tensor], classes: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Smooth L1 of the offsets of objects, and cross-entropy of them and of the background most mistaken."""
    objects = classes > 0
    count = objects.sum().clamp(min=1)
    moves = F.smooth_l1_loss(made["bbox_regression"][objects], offsets[objects], reduction="sum")
    each = F.cross_entropy(made["cls_logits"].flatten(0, 1), classes.flatten(), reduction="none").view(classes.shape)
    background = each.detach().masked_fill(objects, -1)
    rank = background.argsort(dim=1, descending=True).argsort(dim=1)
    hardest = rank < NEGATIVES * objects.sum(dim=1, keepdim=True)
    return (moves + each[objects | hardest].sum()) / count


if __name__ == "__main__":
    main()
