"""A calibration as an .npz file: the images, and the statistics computed so far as JSON.

    write_calibration(calibration, path); read_calibration(path, graph)
    write_statistics(calibration, path); with_statistics(calibration, path)        without the images

A process that reads the file need not run the graph for recipes whose statistics it has. For other recipes it runs the
stored images, so it does not need their data set.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgemobile.errors import EdgemobileError, first_line
from edgemobile.graph import Graph
from edgemobile.quant.calibration import Calibration, Prepared
from edgemobile.quant.hswish import integer_form
from edgemobile.quant.noise import Channels
from edgemobile.util.strict_json import versioned

__all__ = ["read_calibration", "with_statistics", "write_calibration", "write_statistics"]

_VERSION = 2
# The fields of a recipe at the start of a key of `prepared`; after them come the hard-swishes that stay whole.
_FORM_FIELDS = 5


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write `calibration` to `path`. Raises EdgemobileError if the file cannot be written."""
    channels = [
        [key, signal, {name: _lists(each) for name, each in channels.items()}]
        for key, (channels, signal) in calibration.statistics.channels.items()
    ]
    _write(path, {**_about(calibration), "channels": channels}, images=calibration.images)


def write_statistics(calibration: Calibration, path: Path) -> None:
    """Write the statistics of `calibration`, without its images, to `path`: those of the recipes used so far.

    Raises EdgemobileError if the file cannot be written.
    """
    _write(path, {**_about(calibration), "channels": []})


def read_calibration(path: Path, graph: Graph) -> Calibration:
    """Read what write_calibration wrote for this float `graph`.

    Raises EdgemobileError for a file that is not a calibration, or is of another version or another graph.
    """
    about, arrays = _read(path)
    try:
        if about["graph"] == _fingerprint(graph):
            images = arrays["images"]
            if images.dtype != np.float32 or images.ndim != 4 or sum(about["batches"]) != len(images):
                raise ValueError(
                    f"{images.dtype}{list(images.shape)} is not f32[N,H,W,C] of batches {about['batches']}"
                )
            batches = np.split(images, np.cumsum(about["batches"])[:-1])
            return _restored(about, Calibration(graph, tuple(batches), tuple(about["notes"])))
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(path, error) from error
    raise EdgemobileError(
        f"{path} is a calibration of a graph with other layers or weights than {graph.name}. Calibrate again"
    )


def with_statistics(calibration: Calibration, path: Path) -> Calibration:
    """`calibration` with the statistics that write_statistics wrote, if they are of the same graph and images.
    Otherwise `calibration` is returned unchanged.

    Raises EdgemobileError for a file without statistics, or of another version.
    """
    about, _ = _read(path)
    try:
        same = all(about[name] == wanted for name, wanted in _identity(calibration).items())
        return _restored(about, calibration) if same else calibration
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(path, error) from error


def _about(calibration: Calibration) -> dict[str, Any]:
    statistics = calibration.statistics
    return {
        "version": _VERSION,
        **_identity(calibration),
        "notes": list(calibration.notes),
        "prepared": [
            [key, prepared.gates, {name: factor.tolist() for name, factor in prepared.factors.items()}]
            for key, prepared in statistics.prepared.items()
        ],
        "ranges": [[form, observers, ranges] for (form, observers), ranges in statistics.ranges.items()],
    }


def _identity(calibration: Calibration) -> dict[str, Any]:
    """Identifies what the statistics belong to: the graph, the images and their batches."""
    return {
        "graph": _fingerprint(calibration.graph),
        "images": hashlib.sha256(np.ascontiguousarray(calibration.images).tobytes()).hexdigest(),
        "batches": [len(batch) for batch in calibration.batches],
    }


def _write(path: Path, about: Mapping[str, Any], **arrays: np.ndarray) -> None:
    try:
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
    except OSError as error:
        raise EdgemobileError(f"cannot write the calibration {path}: {error.strerror or error}") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as held:
            about = versioned(str(held["about"]), _VERSION, "calibration")
            return about, {name: held[name] for name in held if name != "about"}
    except OSError as error:
        raise EdgemobileError(f"cannot read the calibration {path}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _malformed(path, error) from error


def _malformed(path: Path, error: Exception) -> EdgemobileError:
    return EdgemobileError(f"{path} is not a calibration: {first_line(error)}")


def _restored(about: Mapping[str, Any], calibration: Calibration) -> Calibration:
    """`calibration` with the statistics that were read from a file."""
    statistics = calibration.statistics
    for key, signal, channels in about["channels"]:
        restored = {
            name: Channels(**{end: np.array(values) for end, values in of.items()}) for name, of in channels.items()
        }
        statistics.channels[tuple(key)] = restored, signal
    for key, gates, factors in about["prepared"]:
        whole = integer_form(calibration.graph, key[0], key[_FORM_FIELDS:])
        statistics.prepared[tuple(key)] = Prepared.of(
            whole, gates, {name: np.array(factor) for name, factor in factors.items()}
        )
    for form, observers, ranges in about["ranges"]:
        key = tuple(form), tuple(map(tuple, observers))
        statistics.ranges[key] = {name: (low, high) for name, (low, high) in ranges.items()}
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
