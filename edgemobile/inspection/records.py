"""Records of the facts of a model file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Inspection", "PortFacts", "WeightFacts"]


@dataclass(frozen=True)
class PortFacts:
    """An input or output. `layout` is "NCHW", "NHWC" or ""; -1 in `shape` is a dynamic dimension."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class WeightFacts:
    """The weight of one op. Scales are None for float weights.

    `dead_channels` is how many of `channels` contain only zeros. `bias_peak` is the largest |b / (s_in * s_w)|: the
    bias in an int32 accumulator, which must be below 2^31.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    channels: int
    scales: int = 0
    scale_min: float | None = None
    scale_max: float | None = None
    dead_channels: int = 0
    bias_peak: int | None = None

    @property
    def bias_share(self) -> float | None:
        """`bias_peak` over 2^31: at 1 or more the bias overflows."""
        return None if self.bias_peak is None else self.bias_peak / 2**31


@dataclass(frozen=True)
class Inspection:
    """All facts of one file. Facts that the installed runtimes could not provide are None, and `notes` gives the
    reason.

    `ops` and all other counts are of the main graph and its `subgraphs`: the branches of If, the body of Loop or WHILE.
    `precision` is the file's (model_file.precision) and `ops_by_precision` is precision of the arithmetic -> op ->
    count; `bytes_by_dtype` counts constants, "structure" is the rest of the file.
    `hswish` is form -> count. `islands` are the float ops between integers, one tuple per island; for an ONNX file only
    onnxruntime shows them. `runtime_ops` and `runtime_ops_by_precision` are the ops that onnxruntime runs for an ONNX
    file, `delegate_partitions` is the number of partitions that XNNPACK makes of a TFLite file.
    """

    file: str
    bytes: int
    format: str
    producer: str
    description: str
    inputs: tuple[PortFacts, ...]
    outputs: tuple[PortFacts, ...]
    ops: Mapping[str, int]
    precision: str
    ops_by_precision: Mapping[str, Mapping[str, int]]
    bytes_by_dtype: Mapping[str, int]
    hswish: Mapping[str, int]
    islands: tuple[tuple[str, ...], ...] | None
    weights: tuple[WeightFacts, ...]
    metadata: Mapping[str, str]
    subgraphs: int = 0
    preprocess: Mapping[str, Any] | None = None
    labels: int | None = None
    runtime_ops: Mapping[str, int] | None = None
    runtime_ops_by_precision: Mapping[str, Mapping[str, int]] | None = None
    delegate_partitions: int | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
