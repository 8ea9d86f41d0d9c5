"""Figures of the records, made with matplotlib without pyplot, so that no global state changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgemobile.util.plot_file import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from edgemobile.accuracy.detection import DetectionEvaluation
    from edgemobile.accuracy.evaluation import Evaluation
    from edgemobile.accuracy.segmentation import SegmentationEvaluation
    from edgemobile.comparison.report import ParityReport
    from edgemobile.devices.host.records import Run
    from edgemobile.latency.layer_costs import LayerCost
    from edgemobile.pipeline.request import ExportResult
    from edgemobile.quant.explain import Explanation
    from edgemobile.training.request import FinetuneResult

__all__ = ["benched", "compared", "evaluated", "explained", "exported", "finetuned", "layer_costs"]

# Identical outputs have infinite SQNR; a plot needs a finite limit.
_MOST_DB = 160.0
_MOST_CAUSES = 20


def exported(result: ExportResult) -> Figure:
    figure, (sizes, noise) = _figure(len(result.files), columns=2)
    names = [file.entry.file for file in result.files]
    sizes.barh(names, [file.entry.bytes / 2**20 for file in result.files])
    sizes.set_xlabel("MiB")
    noise.barh(names, [_db(file.verdict.metrics["sqnr_db"]) for file in result.files])
    noise.set_xlabel("SQNR against PyTorch, dB")
    noise.set_yticklabels([])
    return figure


def compared(report: ParityReport) -> Figure:
    if not any(file.layers for file in report.files):
        figure, (axes,) = _figure(len(report.files))
        names = [f"{Path(file.file).name}, {file.place}" for file in report.files]
        axes.barh(names, [_db(file.metrics["sqnr_db"]) for file in report.files])
        axes.set_xlabel(f"SQNR against {report.reference}, dB")
        return figure
    figure, (axes,) = _figure(10)
    for file in report.files:
        layers = [layer for layer in file.layers if layer.op != "input"]
        label = f"{Path(file.file).name}, {file.place}"
        (line,) = axes.plot(range(len(layers)), [_db(layer.sqnr_db) for layer in layers], label=label, linewidth=1)
        crossed = [index for index, layer in enumerate(layers) if layer.diverges_in]
        axes.plot(crossed, [_db(layers[index].sqnr_db) for index in crossed], "x", color=line.get_color())
    axes.set_xlabel("layer, in the order of the reference (x: diverges)")
    axes.set_ylabel("SQNR, dB")
    axes.legend()
    return figure


def explained(explanation: Explanation) -> Figure:
    causes = explanation.causes[:_MOST_CAUSES]
    figure, (axes,) = _figure(len(causes) // 2)
    axes.barh([f"{cause.path}, {cause.op}" for cause in causes], [100 * cause.share for cause in causes])
    axes.set_xlabel("share of the noise of activations, %")
    axes.invert_yaxis()
    return figure


def evaluated(evaluation: Evaluation) -> Figure:
    figure, (axes,) = _figure(len(evaluation.files))
    shares = [100 * file.correct / file.count for file in evaluation.files]
    spans = [file.interval for file in evaluation.files]
    errors = (
        [share - 100 * low for share, (low, _) in zip(shares, spans, strict=True)],
        [100 * high - share for share, (_, high) in zip(shares, spans, strict=True)],
    )
    names = [Path(file.classifier.file).name for file in evaluation.files]
    axes.errorbar(shares, names, xerr=errors, fmt="o", capsize=3)
    axes.set_xlabel("top-1, % with its 95 % interval")
    return figure


def detected(evaluation: DetectionEvaluation) -> Figure:
    figure, (axes,) = _figure(len(evaluation.files))
    names = [Path(file.detector.file).name for file in evaluation.files]
    axes.barh(names, [100 * file.precision.ap for file in evaluation.files])
    axes.set_xlabel("average precision over overlaps of 0.5 to 0.95, %")
    return figure


def segmented(evaluation: SegmentationEvaluation) -> Figure:
    figure, (axes,) = _figure(len(evaluation.files))
    names = [Path(file.segmenter.file).name for file in evaluation.files]
    axes.barh(names, [100 * file.mean_iou for file in evaluation.files])
    axes.set_xlabel("mean intersection over union, %")
    return figure


def finetuned(result: FinetuneResult) -> Figure:
    figure, (axes,) = _figure(len(result.rows))
    axes.barh([row.net for row in result.rows], [100 * row.top1 for row in result.rows])
    axes.set_xlabel(f"top-1, %, on {result.held_out}", parse_math=False)
    axes.invert_yaxis()
    return figure


def benched(run: Run) -> Figure:
    figure, (axes,) = _figure(len(run.cases))
    names = [f"{Path(case.file).name}, {case.threads} thread{'s' if case.threads > 1 else ''}" for case in run.cases]
    if run.emulated:
        axes.barh(names, [case.instructions_median["total"] / 1e6 for case in run.cases])
        axes.set_xlabel(f"million instructions per inference, {run.device}")
    else:
        axes.boxplot([[ns / 1e6 for ns in case.values_ns] for case in run.cases], orientation="horizontal")
        axes.set_yticks(range(1, len(names) + 1), names)
        axes.set_xlabel(f"ms per inference, {run.device}")
    return figure


def layer_costs(costs: Sequence[LayerCost]) -> Figure:
    figure, (axes,) = _figure(len(costs) // 2)
    names = [cost.name or cost.op for cost in costs]
    if costs[0].estimated is None:
        axes.barh(names, [cost.instructions / 1e6 for cost in costs])
        axes.set_xlabel("million instructions")
    else:
        axes.barh(names, [cost.estimated.cycles / 1e6 if cost.estimated else 0 for cost in costs])
        axes.set_xlabel(f"million cycles, estimated for a {costs[0].estimated.board.words}")
    axes.invert_yaxis()
    return figure


def _figure(rows: int, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with a height that fits `rows`."""
    return new_figure(9, 1.2 + 0.4 * rows, columns)


def _db(value: float) -> float:
    return min(value, _MOST_DB)
