"""Execution targets that run files on a device. Images are prepared and outputs are compared on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgemobile.comparison.observing import ExecutionTarget, local_targets
from edgemobile.devices.host.profiles import Device, open_device
from edgemobile.devices.host.records import probed
from edgemobile.devices.host.remote_inference import InferenceStats, remote_inference
from edgemobile.devices.host.setup import probe
from edgemobile.devices.host.transport import DeviceUnreachable, Transport
from edgemobile.errors import Unsupported
from edgemobile.exporters.model_files import model_file
from edgemobile.model_file.contents import Contents
from edgemobile.model_file.model_file import ModelFile

__all__ = ["opened_targets"]

# Images per request: the next ones are sent while the device computes these.
_PART = 8


@contextmanager
def opened_targets(
    devices: Sequence[str], runtimes: tuple[str, ...] = (), threads: int = 1
) -> Iterator[list[ExecutionTarget]]:
    """Each of `runtimes` on each device, such as "litert on pi5"; () is the default one of each format.

    Every device is probed before anything is computed. The targets of one that does not answer raise DeviceUnreachable
    when they are used. Raises DeviceUnreachable if none answers.
    """
    with ExitStack() as stack:
        places: list[ExecutionTarget] = []
        away: list[DeviceUnreachable] = []
        for name in dict.fromkeys(devices):
            device, transport = open_device(name)
            stack.enter_context(closing(transport))
            try:
                facts, _ = probed(probe(device, transport))
            except DeviceUnreachable as error:
                away.append(error)
                places += _absent(device, error, local_targets(runtimes, threads))
                continue
            for here in local_targets(runtimes, threads):
                there = _Runtime(device, transport, here.name, threads)
                place = f"{here.name} on {device.name}"
                isa, words = facts.machine, f"{facts.machine}, {facts.int8_isa}"
                places.append(
                    ExecutionTarget(place, here.formats, isa, there.infer, there.layers, machine=words, here=here)
                )
        if len(away) == len(dict.fromkeys(devices)):
            raise away[0]
        yield places


def _absent(device: Device, error: DeviceUnreachable, runtimes: Sequence[ExecutionTarget]) -> Iterator[ExecutionTarget]:
    def infer(file: ModelFile, images: np.ndarray) -> np.ndarray:
        raise error

    for here in runtimes:
        yield ExecutionTarget(f"{here.name} on {device.name}", here.formats, "", infer)


@dataclass(frozen=True)
class _Runtime:
    """One runtime of one device: the functions of an ExecutionTarget."""

    device: Device
    transport: Transport
    runtime: str
    threads: int

    def infer(self, file: ModelFile, images: np.ndarray) -> np.ndarray:
        return self._answered(file, images)

    def layers(self, data: bytes, images: np.ndarray) -> list[np.ndarray]:
        file = model_file(Path("the file with its inner tensors as outputs"), data)
        rows = _rows(file.contents)
        widths = [math.prod(shape) for shape, _ in rows]
        flat = self._answered(file, images, layers_width=sum(widths))
        parts = np.split(flat, np.cumsum(widths)[:-1], axis=1)
        return [part.reshape(-1, *shape).astype(dtype) for part, (shape, dtype) in zip(parts, rows, strict=True)]

    def _answered(self, file: ModelFile, images: np.ndarray, layers_width: int | None = None) -> np.ndarray:
        # The layers of one image have megabytes.
        step = _PART if layers_width is None else 1
        parts = (images[start : start + step] for start in range(0, len(images), step))
        answered = partial(remote_inference, self.device, self.transport, file, parts, self.runtime, self.threads)
        return np.concatenate(list(answered(InferenceStats(self.runtime), layers_width=layers_width)))


def _rows(contents: Contents) -> list[tuple[tuple[int, ...], str]]:
    """(shape for one image, dtype) of each output. Float32 holds them all exactly: their integers have 8 bits."""
    found = [contents.values.get(name) for name in contents.outputs]
    if not all(value is not None and min((1, *value.shape[1:])) > 0 for value in found):
        raise Unsupported("a device cannot return inner tensors without fixed shapes")
    return [(value.shape[1:], value.dtype) for value in found if value is not None]
