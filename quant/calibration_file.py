"""A calibration as a file, .npz: the images, and as JSON beside them what they showed so far.

A process that reads it quantizes with the recipes it has statistics for without running the graph, and with others from
the images, without their data set.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgemobile.errors import EdgemobileError, first_line
from edgemobile.graph import Graph
from edgemobile.quant.calibration import Calibration
from edgemobile.quant.noise import Channels
from edgemobile.util.strict_json import versioned

__all__ = ["read_calibration", "write_calibration"]

_VERSION = 2


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write `calibration` to `path`. Raises EdgemobileError where that cannot be."""
    statistics = calibration.statistics
    about = {
        "version": _VERSION,
        "graph": _fingerprint(calibration.graph),
        "batches": [len(batch) for batch in calibration.batches],
        "notes": list(calibration.notes),
        "channels": [
            [key, signal, {name: _lists(each) for name, each in channels.items()}]
            for key, (channels, signal) in statistics.channels.items()
        ],
        "ranges": [[form, observers, ranges] for (form, observers), ranges in statistics.ranges.items()],
    }
    try:
        with path.open("wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), images=calibration.images)
    except OSError as error:
        raise EdgemobileError(f"cannot write the calibration {path}: {error.strerror or error}") from error


def read_calibration(path: Path, graph: Graph) -> Calibration:
    """What write_calibration wrote for this float `graph`.

    Raises EdgemobileError for a file that is no calibration, of another version or of another graph.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            about, images = versioned(str(held["about"]), _VERSION, "calibration"), held["images"]
        if about["graph"] == _fingerprint(graph):
            return _restored(about, images, graph)
    except OSError as error:
        raise EdgemobileError(f"cannot read the calibration {path}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise EdgemobileError(f"{path} is not a calibration: {first_line(error)}") from error
    raise EdgemobileError(
        f"{path} is a calibration of another graph than {graph.name}: other layers or other weights. Calibrate again"
    )


def _restored(about: dict[str, Any], images: np.ndarray, graph: Graph) -> Calibration:
    if images.dtype != np.float32 or images.ndim != 4 or sum(about["batches"]) != len(images):
        raise ValueError(f"{images.dtype}{list(images.shape)} is not f32[N,H,W,C] of batches {about['batches']}")
    batches = np.split(images, np.cumsum(about["batches"])[:-1])
    calibration = Calibration(graph, tuple(batches), tuple(about["notes"]))
    for key, signal, channels in about["channels"]:
        restored = {
            name: Channels(**{end: np.array(values) for end, values in of.items()}) for name, of in channels.items()
        }
        calibration.statistics.channels[tuple(key)] = restored, signal
    for form, observers, ranges in about["ranges"]:
        key = tuple(form), tuple(map(tuple, observers))
        calibration.statistics.ranges[key] = {name: (low, high) for name, (low, high) in ranges.items()}
    return calibration


def _lists(channels: Channels) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in asdict(channels).items()}


def _fingerprint(graph: Graph) -> str:
    """The sha256 of what the graph computes: its nodes and constants."""
    digest = hashlib.sha256(repr((graph.inputs, graph.outputs)).encode())
    for node in graph.nodes:
        digest.update(repr((node.op, node.inputs, node.output, sorted(node.attrs.items()))).encode())
    for name, tensor in sorted(graph.constants.items()):
        assert tensor.data is not None
        digest.update(repr((name, tensor.shape, tensor.dtype)).encode() + np.ascontiguousarray(tensor.data).tobytes())
    return digest.hexdigest()
