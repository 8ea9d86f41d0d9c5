"""What the runtimes of this machine make of a file."""

from __future__ import annotations

from edgemobile.devices.runtimes.isolated import optimized_onnx
from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.model_file.contents import Contents

__all__ = ["partitions", "read_optimized"]


def read_optimized(data: bytes) -> Contents:
    """The graph onnxruntime makes of an ONNX file."""
    from edgemobile.exporters.onnx_contents import read_contents

    return read_contents(optimized_onnx(data), optimized=True)


def partitions(data: bytes) -> int:
    """Into how many XNNPACK cuts a TFLite file."""
    cut = open_session(data, runtime="litert").delegation()
    assert cut is not None
    return cut.partitions
