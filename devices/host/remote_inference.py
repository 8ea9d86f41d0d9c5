"""Runs a model file on a device for images read on the host: shared by `eval --on` and `parity --on`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgemobile.devices.host.profiles import Device
from edgemobile.devices.host.runner import infer
from edgemobile.devices.host.setup import ready
from edgemobile.devices.host.transport import Transport
from edgemobile.model_file.model_file import ModelFile

__all__ = ["InferenceStats", "remote_inference"]


@dataclass
class InferenceStats:
    """Statistics from a device: `runtime` ("litert 2.3.0"), and the time of the inferences of each part by its name."""

    runtime: str
    part_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def inference_s(self) -> float:
        """0 under emulation."""
        return sum(self.part_seconds.values())

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "opened":
            self.runtime = f"{event.get('runtime')} {event.get('version')}"
        elif event["event"] == "chunk" and isinstance(event.get("ns"), int):
            # By name: results from before an interruption are reported again.
            self.part_seconds[str(event.get("name"))] = event["ns"] / 1e9


def remote_inference(
    device: Device,
    transport: Transport,
    file: ModelFile,
    images: Iterable[np.ndarray],
    runtime: str,
    threads: int,
    stats: InferenceStats,
    layers_width: int | None = None,
) -> Iterator[np.ndarray]:
    """Preprocessed images f32[n,px,px,3], part by part -> f32[n,outputs], in order.

    `stats` is filled in as events arrive. With `layers_width` the file has its intermediate tensors as outputs, and a
    row contains all of them, flattened: f32[n,layers_width].

    Raises NotSetUp, DeviceUnreachable, Unsupported as ready and infer do.
    """
    prepared = ready(device, transport, runtime)
    yield from infer(device, transport, prepared, file, images, runtime, threads, stats, layers_width=layers_width)
