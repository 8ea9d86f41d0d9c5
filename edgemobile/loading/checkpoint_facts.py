"""What is known about a checkpoint besides its weights: labels and preprocessing.

    in the checkpoint   labels, class_names, classes or class_to_idx, and preprocess, next to the weights
    FILE.json           the same, as written by examples/train_cifar10.py and in a manifest
    config.json         timm's, next to a model.safetensors of the Hugging Face Hub

Each gives {"labels": [...], "preprocess": {...}} with the values it contains.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemobile.errors import EdgemobileError
from edgemobile.loading.files import described, error_line
from edgemobile.model_file.metadata import names_of
from edgemobile.preprocess import Preprocess

__all__ = ["beside", "inside", "places_beside"]

_TIMM_CONFIG = "config.json"


def inside(checkpoint: Any) -> dict[str, Any]:
    """The facts that a training checkpoint contains besides its weights."""
    if not isinstance(checkpoint, Mapping):
        return {}
    names = (_names(checkpoint.get(key)) for key in ("labels", "class_names", "classes", "class_to_idx"))
    labels = next(filter(None, names), None)
    preprocess = checkpoint.get("preprocess")
    return {
        **({"labels": labels} if labels else {}),
        **({"preprocess": preprocess} if isinstance(preprocess, dict) else {}),
    }


def places_beside(path: Path) -> tuple[Path, ...]:
    """Where `beside` looks for facts about the checkpoint at `path`, best first, whether or not the files exist."""
    return path.with_suffix(".json"), path.with_name(f"{path.name}.json"), path.with_name(_TIMM_CONFIG)


def beside(path: Path, sha256: str) -> dict[str, Any]:
    """The facts in FILE.json, or in timm's config.json; {} if neither exists.

    Raises EdgemobileError if a file is damaged, or if FILE.json describes another file.
    """
    *own, config = places_beside(path)
    if found := next((place for place in own if place.is_file()), None):
        facts = _object(found, path)
        if facts.get("sha256", sha256) != sha256:
            raise EdgemobileError(
                f"{found} describes another file than {path.name}: their sha256 differ. Fix or remove it"
            )
        return facts
    return _of_timm(_object(config, path), config) if config.is_file() else {}


def _names(value: Any) -> list[str] | None:
    """Class names in the order of the outputs, from a list or from ImageFolder's class_to_idx."""
    if isinstance(value, Mapping) and sorted(map(str, value.values())) == sorted(map(str, range(len(value)))):
        value = sorted(value, key=lambda name: int(value[name]))
    names = names_of(value)
    return None if names is None else list(names)


def _object(found: Path, path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(found.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EdgemobileError(f"cannot read {found}, which describes {path.name}: {error_line(error)}") from error
    if not isinstance(facts, dict):
        raise EdgemobileError(f"{found}, which describes {path.name}, must be an object, found {described(facts)}")
    return facts


def _of_timm(config: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """timm's evaluation transform: resize to input / crop_pct, rounded down, then crop; "squash" resizes directly."""
    trained = config.get("pretrained_cfg")
    if not isinstance(trained, dict):
        return {}
    try:
        px = trained["input_size"][-1]
        squashed = trained.get("crop_mode") == "squash"
        preprocess = Preprocess(
            px,
            resize="exact" if squashed else "shorter",
            shorter_px=None if squashed else math.floor(px / trained["crop_pct"]),
            interpolation=trained["interpolation"],
            mean=trained["mean"],
            std=trained["std"],
        )
    except (KeyError, TypeError, ZeroDivisionError, EdgemobileError) as error:
        raise EdgemobileError(
            f"{source} has a pretrained_cfg that cannot be used: {error_line(error)}. Fix it, or move it away"
        ) from error
    labels = _names(config.get("label_names"))
    return {"preprocess": preprocess.to_json(), **({"labels": labels} if labels else {})}
