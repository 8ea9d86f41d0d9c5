"""What is known about a checkpoint besides its weights: labels and preprocessing.

    in the checkpoint   labels, class_names, classes or class_to_idx, and preprocess, next to the weights
    FILE.json           the same, as written by examples/train_cifar10.py and in a manifest
    config.json         that of timm or transformers, next to a model.safetensors of the Hugging Face Hub

Each gives {"labels": [...], "preprocess": {...}} with the values it contains. transformers' also gives "padding" and
"bn_eps", and its preprocessing is in preprocessor_config.json.
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

_CONFIG = "config.json"
# What only a library's configuration says of the net itself.
_OF_THE_NET = ("padding", "bn_eps")
_PREPROCESSOR_CONFIG = "preprocessor_config.json"


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
    return path.with_suffix(".json"), path.with_name(f"{path.name}.json"), path.with_name(_CONFIG)


def beside(path: Path, sha256: str) -> dict[str, Any]:
    """The facts in FILE.json, or in the config.json of timm or transformers; {} if neither exists.

    Raises EdgemobileError if a file is damaged, or if FILE.json describes another file.
    """
    *own, config = places_beside(path)
    if found := next((place for place in own if place.is_file()), None):
        facts = _object(found, path)
        if facts.get("sha256", sha256) != sha256:
            raise EdgemobileError(
                f"{found} describes another file than {path.name}: their sha256 differ. Fix or remove it"
            )
        return {key: value for key, value in facts.items() if key not in _OF_THE_NET}
    if not config.is_file():
        return {}
    facts = _object(config, path)
    if str(facts.get("model_type")) in _OF_TRANSFORMERS:
        processor = config.with_name(_PREPROCESSOR_CONFIG)
        return _of_transformers(facts, config, _object(processor, path) if processor.is_file() else {}, processor)
    return _of_timm(facts, config)


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


# What transformers' configurations may set, and the only value that our nets have.
_OF_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "mobilenet_v1": {"hidden_act": "relu6", "num_channels": 3},
    "mobilenet_v2": {
        "hidden_act": "relu6",
        "num_channels": 3,
        "output_stride": 32,
        "expand_ratio": 6.0,
        "first_layer_is_expansion": True,
    },
}
_RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # PIL's numbers


def _of_transformers(
    config: Mapping[str, Any], source: Path, processor: Mapping[str, Any], processor_source: Path
) -> dict[str, Any]:
    """Raises EdgemobileError for a net that is another than ours."""
    for name, ours in _OF_TRANSFORMERS[config["model_type"]].items():
        if config.get(name, ours) != ours:
            raise EdgemobileError(
                f"{source}: {name} is {config[name]!r}, and checkpoints are read only with {ours!r}. Export the model "
                "as code instead: package.module:factory, a function that returns it"
            )
    eps = config.get("layer_norm_eps", 1e-3)
    if not isinstance(eps, float) or not 0 < eps < 1:
        raise EdgemobileError(f"{source}: layer_norm_eps must be between 0 and 1, found {eps!r}")
    facts: dict[str, Any] = {"padding": "same" if config.get("tf_padding", True) else "both", "bn_eps": eps}
    labels = config.get("id2label")
    numbers = range(len(labels)) if isinstance(labels, Mapping) else ()
    names = _names([labels.get(str(number)) for number in numbers]) if isinstance(labels, Mapping) else None
    # The names of a net for which nobody gave any.
    if names and names != [f"LABEL_{index}" for index in range(len(names))]:
        facts["labels"] = names
    if processor:
        facts["preprocess"] = _processed(processor, processor_source).to_json()
    return facts


def _processed(processor: Mapping[str, Any], source: Path) -> Preprocess:
    """The preprocessing of an image processor: the shorter side, then a crop; without a crop, both sides."""
    try:
        size, cropped = processor["size"], processor.get("do_center_crop", True)
        return Preprocess(
            processor["crop_size"]["height"] if cropped else size["height"],
            resize="shorter" if cropped else "exact",
            shorter_px=size["shortest_edge"] if cropped else None,
            interpolation=_RESAMPLING[processor.get("resample", 2)],  # type: ignore[arg-type]
            mean=processor["image_mean"],
            std=processor["image_std"],
        )
    except (KeyError, TypeError, EdgemobileError) as error:
        raise EdgemobileError(
            f"{source} cannot be used: {error_line(error)}. Fix it, or move it away and give --preprocess"
        ) from error
