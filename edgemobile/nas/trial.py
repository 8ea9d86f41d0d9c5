"""One net of a search: cut from the full net, trained for a short time, measured, and judged on images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

from edgemobile.adaptation.cost_table import int8_file, measured
from edgemobile.adaptation.pruning import Weights
from edgemobile.adaptation.repair import quality_of
from edgemobile.adaptation.saliency import Saliency, saliency_of
from edgemobile.errors import EdgemobileError
from edgemobile.images.dataset import open_dataset
from edgemobile.loading.model import TorchModel
from edgemobile.nas.request import SearchRequest
from edgemobile.nas.space import Choice, net_of
from edgemobile.preprocess import Preprocess, at_resolution
from edgemobile.training.images import TrainingImages, classes_of, split_apart, subset
from edgemobile.training.loop import Plan, train
from edgemobile.util.progress import Progress

__all__ = ["Trials", "trials_of"]

_CALIBRATED, _SALIENCY = 32, 256
_DECAY, _TEACHER_SHARE = 0.05, 0.7


@dataclass(frozen=True)
class Trials:
    """Tries nets cut from `full`. `train_on` and `choose_by` are different images of the training split, `held_out`
    others, `described` in words."""

    request: SearchRequest
    full: Weights
    saliency: Saliency
    preprocess: Preprocess
    train_on: TrainingImages
    choose_by: TrainingImages
    held_out: TrainingImages
    described: str
    unit: str

    def net(self, choice: Choice) -> Weights | None:
        return net_of(self.full, self.saliency, choice)

    def trained(self, net: Weights, progress: Progress, title: str) -> Weights:
        """`net` after its epochs, with the full net as the teacher."""
        request, images = self.request, self._at(self.train_on, net.arch.input_px)
        steps = images.steps(request.batch)
        plan = Plan(request.epochs, steps, request.lr, _DECAY, _TEACHER_SHARE, request.seed)
        with progress.step(title, request.epochs * steps) as report:
            batches = partial(images.epoch, batch=request.batch, seed=request.seed)
            module = train(net.module(), batches, plan, teacher=_teacher(self.full), report=report)
        return Weights.of(net.arch, module)

    def cost(self, net: Weights) -> float:
        """What its int8 file costs on the device."""
        images = self._at(self.choose_by, net.arch.input_px).check(_CALIBRATED, self.request.seed)[0]
        file = int8_file(net.arch.name, net.arch, net.module(), images)
        return measured(self.request.on, self.unit, [file])[0]

    def top1(self, net: Weights) -> float:
        """On the images to choose by."""
        return self._top1(net, self.choose_by, self.request.images)

    def held_out_top1(self, net: Weights) -> float:
        """On the images held out."""
        return self._top1(net, self.held_out, self.request.check_images)

    def preprocess_at(self, px: int) -> Preprocess:
        return at_resolution(self.preprocess, px)

    def _top1(self, net: Weights, images: TrainingImages, count: int) -> float:
        return quality_of(net.module(), *self._at(images, net.arch.input_px).check(count, self.request.seed)).top1

    def _at(self, images: TrainingImages, px: int) -> TrainingImages:
        return TrainingImages(images.train, images.held_out, images.classes, self.preprocess_at(px), images.skipped)


def trials_of(request: SearchRequest, model: TorchModel, full: Weights, unit: str) -> Trials:
    """The trials of a request. Raises EdgemobileError for images of other classes than the model's, and for too few."""
    dataset = open_dataset(request.data)
    classes = classes_of(dataset, model.labels, model.classified())
    if classes.new_head:
        raise EdgemobileError(
            f"{request.data} has other classes than {model.name}: {classes.note}. Train the model on them first: "
            f"edgemobile finetune {request.model} --data {request.data} --out tuned"
        )
    whole, held_out, described = split_apart(dataset, request.seed)
    needed = request.images + request.train_images
    if len(whole) < needed:
        raise EdgemobileError(
            f"{request.data} has {len(whole)} training images, fewer than --images {request.images} and --train-images "
            f"{request.train_images} together. Lower one of them"
        )
    order = np.random.default_rng(request.seed).permutation(len(whole))[:needed]
    choice, training = (subset(whole, np.sort(part)) for part in (order[: request.images], order[request.images :]))
    made: Callable[..., TrainingImages] = partial(
        TrainingImages, training, classes=classes, preprocess=model.preprocess
    )
    shown = TrainingImages(training, training, classes, model.preprocess).check(_SALIENCY, request.seed)
    return Trials(
        request,
        full,
        saliency_of(full, *shown),
        model.preprocess,
        made(held_out=training),
        made(held_out=choice),
        made(held_out=held_out),
        described,
        unit,
    )


def _teacher(full: Weights) -> Callable[[torch.Tensor], torch.Tensor]:
    """The answers of the full net at its own resolution."""
    module, px = full.module(), full.arch.input_px

    def answers(images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] != px:
            images = F.interpolate(images, size=(px, px), mode="bilinear", align_corners=False)
        return module(images)

    return answers
