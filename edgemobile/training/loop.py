"""One training run: AdamW with a warm-up and a cosine schedule, averaged weights, and its progress on disk."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from edgemobile.errors import EdgemobileError
from edgemobile.quant.torch_graph import to_nchw
from edgemobile.util.progress import Report

__all__ = ["Answers", "Plan", "State", "answers", "train"]

# f32[N,3,H,W] -> logits f32[N,classes], without gradients.
Answers = Callable[[torch.Tensor], torch.Tensor]
State = dict[str, Any]

_SMOOTHING = 0.05
_WARMUP = 0.1
_AVERAGING = 0.995
_HEAT = 2.0
_EVALUATED_BATCH = 64


@dataclass(frozen=True)
class Plan:
    """A run of `epochs`, each of `steps` batches. `lr` is the peak of the schedule. `decay` is the weight decay of
    weights; biases and batch norms have none. `share` is the weight of the teacher's answers in the loss."""

    epochs: int
    steps: int
    lr: float
    decay: float
    share: float
    seed: int

    def lr_at(self, step: int) -> float:
        """The learning rate: linear from 0 in the first tenth of the steps, then half a cosine to 0."""
        total = self.epochs * self.steps
        warmup = max(1, round(_WARMUP * total))
        if step < warmup:
            return self.lr * (step + 1) / (warmup + 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def train(
    net: torch.nn.Module,
    batches: Callable[[int], Iterable[tuple[np.ndarray, np.ndarray]]],
    plan: Plan,
    *,
    teacher: Answers | None = None,
    state: State | None = None,
    save: Callable[[State], None] = lambda state: None,
    report: Report,
) -> torch.nn.Module:
    """Train `net` and return a copy with its averaged weights, in eval mode.

    `batches` gives (images f32[N,H,W,3], classes i64[N]) of an epoch. `save` is called with the state after each epoch.
    A run with this as its `state` continues from there, and ends with the same weights as one that was not interrupted.
    Raises EdgemobileError if the loss is no longer finite.
    """
    average = copy.deepcopy(net).eval()
    optimizer = torch.optim.AdamW(_groups(net, plan.decay), lr=plan.lr, eps=1e-12)
    first = 0
    if state is not None:
        first = state["epoch"]
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
    for epoch in range(first, plan.epochs):
        torch.manual_seed(plan.seed + epoch)
        net.train()
        for number, (images, classes) in enumerate(batches(epoch)):
            step = epoch * plan.steps + number
            for group in optimizer.param_groups:
                group["lr"] = plan.lr_at(step)
            optimizer.zero_grad(set_to_none=True)
            loss = _loss(net, to_nchw(images), torch.from_numpy(classes), teacher, plan.share)
            if not loss.isfinite():
                raise EdgemobileError(f"the training diverged at step {step + 1}: its loss is not finite. Lower --lr")
            loss.backward()
            optimizer.step()
            _average(average, net, step)
            report(step + 1)
        save(
            {
                "epoch": epoch + 1,
                "net": net.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
        )
    return average


@torch.no_grad()
def answers(net: Answers, images: np.ndarray) -> np.ndarray:
    """Logits f32[N,classes] for images f32[N,H,W,3]."""
    parts = [images[start : start + _EVALUATED_BATCH] for start in range(0, len(images), _EVALUATED_BATCH)]
    return np.concatenate([net(to_nchw(part)).numpy() for part in parts])


def _loss(
    net: torch.nn.Module, images: torch.Tensor, classes: torch.Tensor, teacher: Answers | None, share: float
) -> torch.Tensor:
    """Cross-entropy with smoothed labels and, for `share` of it, with the teacher's softened answers (Hinton et al.,
    arXiv:1503.02531)."""
    logits = net(images)
    loss = F.cross_entropy(logits, classes, label_smoothing=_SMOOTHING)
    if teacher is None:
        return loss
    with torch.no_grad():
        wanted = F.softmax(teacher(images) / _HEAT, dim=1)
    return torch.lerp(loss, _HEAT**2 * F.cross_entropy(logits / _HEAT, wanted), share)


def _groups(net: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in net.parameters() if p.dim() > 1]
    vectors = [p for p in net.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


@torch.no_grad()
def _average(average: torch.nn.Module, net: torch.nn.Module, step: int) -> None:
    """Exponential moving average. The first steps count more, so that a short run does not stay near its start."""
    share = 1 - min(_AVERAGING, (1 + step) / (10 + step))
    for held, new in _pairs(average, net):
        if held.is_floating_point():
            held.lerp_(new, share)
        else:
            held.copy_(new)


def _pairs(average: torch.nn.Module, net: torch.nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(average.state_dict().values(), net.state_dict().values(), strict=True)
