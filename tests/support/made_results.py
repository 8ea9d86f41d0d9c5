"""A result of a results store, as bench writes it."""

from edgemobile.results.record import Result

__all__ = ["RESULT"]

RESULT = Result(
    created="2026-01-31T12:00:00+00:00",
    file="a.tflite",
    sha256="0" * 64,
    precision="int8",
    device="pi5",
    board="Raspberry Pi 5",
    runtime="litert 2.3.0",
    threads=1,
    metric="latency_ms",
    value=4.25,
    low=4.2,
    high=4.3,
    count=100,
)
