"""Replaces the last layer of a reference model by a new one for other classes."""

from __future__ import annotations

import torch

from edgemobile.errors import EdgemobileError
from edgemobile.models.arch import ARCHS, get_arch
from edgemobile.models.layers import layers

__all__ = ["with_new_head"]


def with_new_head(net: torch.nn.Module, model: str, classes: int, seed: int) -> None:
    """Replace the last layer of `net`, a reference model called `model`, by one with `classes` outputs and random
    weights drawn with `seed`.

    Raises EdgemobileError for any other model, because it is not known which layer is its last.
    """
    if model not in ARCHS:
        raise EdgemobileError(
            f"{model} has other classes than the images, and its last layer is not known. Make the factory return a "
            f"net with {classes} classes, or rename the folders to the model's classes"
        )
    path = list(layers(get_arch(model)))[-1].name
    old = net.get_submodule(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new: torch.nn.Module
        if isinstance(old, torch.nn.Linear):
            new = torch.nn.Linear(old.in_features, classes)
        else:
            assert isinstance(old, torch.nn.Conv2d)
            new = torch.nn.Conv2d(old.in_channels, classes, old.kernel_size, bias=old.bias is not None)  # type: ignore[arg-type]
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, new)
