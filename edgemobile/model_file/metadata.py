"""The metadata entries of edgemobile's files: text or JSON by key, the same in ONNX and TFLite.

Any file may have such an entry, damaged or with another meaning. It is read only here, the same way for every caller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgemobile.errors import EdgemobileError
from edgemobile.postprocess import Postprocess
from edgemobile.preprocess import Preprocess

__all__ = [
    "CHECKSUMS",
    "EMBEDDED",
    "LABELS",
    "MODEL",
    "ORIGINS",
    "POSTPROCESS",
    "PRECISION",
    "PREPROCESS",
    "REMOVED_CHANNELS",
    "SOURCE_PREPROCESS",
    "TARGET",
    "VERSION",
    "WEIGHTS_SHA256",
    "embedded_entry",
    "labels_in",
    "names_of",
    "postprocess_in",
    "preprocess_in",
    "whole",
]

VERSION = "edgemobile.version"
MODEL = "edgemobile.model"
PRECISION = "edgemobile.precision"
WEIGHTS_SHA256 = "edgemobile.weights_sha256"
TARGET = "edgemobile.target"  # for ONNX files with int8 weights, which some CPUs compute differently: quant/targets.py
PREPROCESS = "edgemobile.preprocess"  # preprocessing that the user of the file must do
SOURCE_PREPROCESS = "edgemobile.source_preprocess"  # that of the file it was exported from, which scales its pixels
EMBEDDED = "edgemobile.embedded"  # normalization that the file does itself
POSTPROCESS = "edgemobile.postprocess"  # how a detector's outputs become boxes
LABELS = "edgemobile.labels"
ORIGINS = "edgemobile.origins"  # graph/origins_entry.py
CHECKSUMS = "edgemobile.checksums"  # graph/checksums.py
REMOVED_CHANNELS = "edgemobile.removed_channels"  # how many dead channels the model has and the file has not


def labels_in(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """The names of the classes; None if the file has none, or an entry that is not a list of text."""
    try:
        return names_of(json.loads(metadata.get(LABELS, "")))
    except ValueError:
        return None


def names_of(value: Any) -> tuple[str, ...] | None:
    """A list of text as a tuple; None for anything else."""
    fits = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return tuple(value) if fits else None


def preprocess_in(metadata: Mapping[str, str], entry: str = PREPROCESS) -> Preprocess | None:
    """Preprocessing before the file's input, or before that of the file it was exported from; None if not stated.

    Raises EdgemobileError for a damaged entry.
    """
    return Preprocess.from_json(metadata[entry]) if entry in metadata else None


def postprocess_in(metadata: Mapping[str, str]) -> Postprocess | None:
    """How the file's outputs become boxes; None if it is no detector. Raises EdgemobileError for a damaged entry."""
    return Postprocess.from_json(metadata[POSTPROCESS]) if POSTPROCESS in metadata else None


def embedded_entry(preprocess: Preprocess) -> dict[str, str]:
    """The entry for a file that does the normalization of `preprocess` itself."""
    return {EMBEDDED: json.dumps({"mean": preprocess.mean, "std": preprocess.std})}


def whole(left: Preprocess, metadata: Mapping[str, str]) -> Preprocess:
    """`left`, the preprocessing before a file, plus the normalization in the file: the inverse of graph.embed.outside.

    Raises EdgemobileError if the entry is not what embedded_entry writes.
    """
    if EMBEDDED not in metadata:
        return left
    try:
        record = json.loads(metadata[EMBEDDED])
        return replace(left, mean=record["mean"], std=record["std"])
    except (ValueError, TypeError, KeyError) as error:
        raise EdgemobileError(f"{EMBEDDED} is not what edgemobile writes there: {error!r}") from error
