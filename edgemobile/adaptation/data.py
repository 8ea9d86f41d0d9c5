"""The net to adapt and the images to adapt it on, checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from edgemobile.adaptation.pruning import Weights
from edgemobile.adaptation.request import AdaptRequest
from edgemobile.adaptation.search import Images
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.images.dataset import open_dataset
from edgemobile.loading.model import TorchModel
from edgemobile.models.arch import ARCHS
from edgemobile.models.table import FAMILIES, exact_arch
from edgemobile.training.images import TrainingImages, classes_of, split_apart

__all__ = ["Data", "full_net", "read_images"]

_LEAST_IMAGES = 16


@dataclass(frozen=True)
class Data:
    """`images` for the search; `check` f32[N,H,W,3] with `check_classes` i64[N] to report on, which nothing was chosen
    by: `held_out` says which they are. `labels` are the names of the classes."""

    images: Images
    check: np.ndarray
    check_classes: np.ndarray
    held_out: str
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def full_net(model: TorchModel) -> Weights:
    """The weights of `model` with exact channels and its family's eps. Raises Unsupported for a net of no such family,
    or with another padding than its family has."""
    arch = model.arch
    if arch is None or arch.name not in FAMILIES:
        raise Unsupported(f"{model.name} cannot be adapted. Supported: {', '.join(FAMILIES)}, or a checkpoint of one")
    family = ARCHS[arch.name]
    if arch.padding != family.padding:
        raise Unsupported(
            f"{model.source} of {model.name} pad as TensorFlow does ({arch.padding!r}), which an adapted checkpoint "
            f"cannot say. Supported: {family.padding!r}"
        )
    net = Weights.of(exact_arch(arch), model.net)
    # A batch norm divides by sqrt(running_var + eps).
    more = arch.bn_eps - family.bn_eps
    state = {key: value + more if key.endswith("running_var") and more else value for key, value in net.state.items()}
    return Weights(replace(net.arch, bn_eps=family.bn_eps), state)


def read_images(request: AdaptRequest, model: TorchModel) -> Data:
    """The images of `request`. Those to choose by and to repair on are of the training split, and different ones.

    Raises EdgemobileError for images of other classes than the model's, and for too few.
    """
    dataset = open_dataset(request.data)
    classes = classes_of(dataset, model.labels, model.classified())
    if classes.new_head:
        raise EdgemobileError(
            f"{request.data} has other classes than {model.name}: {classes.note}. Train the model on them first: "
            f"edgemobile finetune {request.model} --data {request.data} --out tuned"
        )
    train_on, held_out, described = split_apart(dataset, request.seed)
    chosen = TrainingImages(train_on, train_on, classes, model.preprocess)
    images, labels = chosen.check(2 * request.images, request.seed)
    if len(images) < _LEAST_IMAGES:
        raise EdgemobileError(
            f"{request.data} has {len(images)} training images, and at least {_LEAST_IMAGES} are needed"
        )
    reported = TrainingImages(train_on, held_out, classes, model.preprocess)
    check, check_classes = reported.check(request.check_images, request.seed)
    notes = [*filter(None, (*model.notes, model.assumption, classes.note))]
    if len(images) < 2 * request.images:
        notes.append(f"{len(images) // 2} images to choose by: {request.data} has {len(images)} training images")
    notes += _skipped({**chosen.skipped, **reported.skipped}.items())
    return Data(
        Images(images[::2], labels[::2], images[1::2], labels[1::2]),
        check,
        check_classes,
        f"{len(check)} images ({described})",
        classes.labels,
        tuple(notes),
    )


def _skipped(skipped: Iterable[tuple[str, str]]) -> list[str]:
    return [f"skipped {name}: {reason}" for name, reason in skipped]
