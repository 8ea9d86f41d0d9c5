"""The description of an export: manifest.json next to the files, and metadata in each of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

from edgemobile import __version__
from edgemobile.graph.embed import outside
from edgemobile.images.samples import Samples
from edgemobile.loading.model import Model
from edgemobile.model_file.metadata import (
    LABELS,
    MODEL,
    POSTPROCESS,
    PRECISION,
    PREPROCESS,
    REMOVED_CHANNELS,
    SOURCE_PREPROCESS,
    VERSION,
    WEIGHTS_SHA256,
    embedded_entry,
)
from edgemobile.pipeline.artifact import MANIFEST_VERSION
from edgemobile.pipeline.folder import Recorded
from edgemobile.pipeline.request import Checked, ExportRequest, ExportResult
from edgemobile.quant.targets import target_for

__all__ = ["file_metadata", "manifest"]

_TOOLS = ("torch", "onnx", "onnxruntime", "onnxsim", "ai-edge-litert", "tensorflow-cpu", "tensorflow", "numpy")


def file_metadata(
    model: Model, precision: str, *, embed_preprocess: bool = False, removed_channels: int = 0
) -> Mapping[str, str]:
    """The metadata in every file, so that it can be used without its folder (edgemobile/model_file/metadata.py)."""
    preprocess = outside(model.preprocess) if embed_preprocess else model.preprocess
    entries = {
        VERSION: __version__,
        MODEL: model.name,
        PRECISION: precision,
        WEIGHTS_SHA256: model.sha256,
        PREPROCESS: json.dumps(preprocess.to_json()),
    }
    if model.source_preprocess is not None:
        entries[SOURCE_PREPROCESS] = json.dumps(model.source_preprocess.to_json())
    if embed_preprocess:
        entries |= embedded_entry(model.preprocess)
    if removed_channels:
        entries[REMOVED_CHANNELS] = str(removed_channels)
    if model.postprocess is not None:
        entries[POSTPROCESS] = json.dumps(model.postprocess.to_json())
    if model.labels is not None:
        entries[LABELS] = json.dumps(list(model.labels))
    return entries


def manifest(
    request: ExportRequest,
    model: Model,
    samples: Samples,
    result: ExportResult,
    others: Sequence[Recorded],
    removed_channels: Mapping[str, int],
) -> dict[str, Any]:
    """manifest.json: the origin of the model and its data, and every number that the export measured, unrounded.

    `others` are the files of the folder that are not models. `removed_channels`: layer -> how many dead channels it
    lost.
    """
    int8 = "int8" in request.precisions
    return {
        "version": MANIFEST_VERSION,
        "edgemobile": __version__,
        "command": shlex.join(("edgemobile", *request.command)) if request.command else None,
        "backend": request.backend,
        "model": {
            "name": model.name,
            **model.facts,
            "classes": model.classes,
            "outputs": [{"name": output.name, "shape": list(output.shape)} for output in model.outputs],
            "input_px": model.preprocess.input_px,
            "batch": model.batch,
            "labels": list(model.labels) if model.labels is not None else None,
            "preprocess": model.preprocess.to_json(),
            "preprocess_embedded": request.embed_preprocess,
            "postprocess": model.postprocess.to_json() if model.postprocess is not None else None,
            "removed_channels": dict(removed_channels),
        },
        "weights": {"source": model.source, "sha256": model.sha256},
        "calibration": samples.facts if int8 else None,
        "recipe": result.recipe.to_json() if result.recipe else None,
        "target": asdict(target_for(request.target)) if result.recipe else None,
        "checked_on": {"images": samples.described, "float_top1": result.float_accuracy},
        "files": [_file_facts(file) for file in result.files],
        "other_files": [{"file": one.file, "bytes": one.bytes, "sha256": one.sha256} for one in others],
        "notes": list(result.notes),
        "tools": {name: version for name in _TOOLS if (version := _version(name))},
    }


def _file_facts(file: Checked) -> dict[str, Any]:
    return asdict(file.entry) | {
        "runtime": file.runtime,
        "metrics": dict(file.verdict.metrics),
        "metrics_of_outputs": {name: dict(metrics) for name, metrics in file.verdict.outputs.items()},
        "top1": file.accuracy,
        "max_lsb_to_reference": file.max_lsb,
        "config": dict(file.config),
        "metrics_here": None if file.metrics_here is None else dict(file.metrics_here),
        "missed": list(file.verdict.missed),
        "latency_ns": list(file.latency.values_ns),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
