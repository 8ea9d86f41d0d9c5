"""Results of the functions of edgemobile: the library's records, which also print, display and plot."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgemobile.accuracy.detection import DetectionEvaluation
from edgemobile.accuracy.evaluation import Evaluation
from edgemobile.accuracy.segmentation import SegmentationEvaluation
from edgemobile.adaptation.request import AdaptResult
from edgemobile.api import plots
from edgemobile.comparison.report import ParityReport
from edgemobile.devices.host.records import Run, save_run
from edgemobile.latency.compare import Comparison, Judgement
from edgemobile.latency.layer_costs import LayerCost, by_op, layer_costs
from edgemobile.nas.request import SearchResult
from edgemobile.pipeline.request import ExportResult
from edgemobile.printing.terminal import console, recorded
from edgemobile.quant.explain import Explanation
from edgemobile.training.request import FinetuneResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Adapted",
    "Benched",
    "Compared",
    "CostTable",
    "Detected",
    "Evaluated",
    "Explained",
    "Exported",
    "Finetuned",
    "Searched",
    "Segmented",
]

# Notebook front ends show <pre> in the font of their text, in which columns do not align.
_MONOSPACED = "Menlo,'DejaVu Sans Mono',Consolas,'Courier New',monospace"
_T = TypeVar("_T", bound="_Shown")


class _Shown:
    """Prints like its command. Subclasses define the printing and the plot."""

    def __str__(self) -> str:
        with recorded() as console:
            self._print()
        return "\n".join(line.rstrip() for line in console.export_text().splitlines())

    def _repr_html_(self) -> str:
        with recorded() as console:
            self._print()
        page = f'<pre style="line-height:1.3;overflow-x:auto;font-family:{_MONOSPACED}">{{code}}</pre>'
        return console.export_html(code_format=page, inline_styles=True)

    def plot(self) -> Figure:
        """A figure; raises MissingExtra if matplotlib is not installed."""
        raise NotImplementedError

    def _print(self) -> None:
        raise NotImplementedError

    @classmethod
    def of(cls: type[_T], record: Any, **more: Any) -> _T:
        """The library's record as JSON, with the fields of this class."""
        return cls(**{field.name: getattr(record, field.name) for field in fields(record)}, **more)


@dataclass(frozen=True)
class Exported(_Shown, ExportResult):
    """A folder of files, each one run and checked. `paths` are the files."""

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self.out / file.entry.file for file in self.files)

    def plot(self) -> Figure:
        """The size and the SQNR of every file."""
        return plots.exported(self)

    def _print(self) -> None:
        from edgemobile.printing.export import print_export

        print_export(self)

    __str__ = _Shown.__str__


@dataclass(frozen=True)
class Explained(_Shown, Explanation):
    """Which tensors make the noise of int8, and why."""

    def plot(self) -> Figure:
        """The share of the noise of the twenty noisiest activations."""
        return plots.explained(self)

    def _print(self) -> None:
        for line in self.lines():
            console().print(line, markup=False, highlight=False, soft_wrap=True)

    __str__ = _Shown.__str__


@dataclass(frozen=True)
class Finetuned(_Shown, FinetuneResult):
    """A trained net, and what it was before."""

    def plot(self) -> Figure:
        """The top-1 of every net."""
        return plots.finetuned(self)

    def _print(self) -> None:
        from edgemobile.printing.training import print_training

        print_training(self)

    __str__ = _Shown.__str__


@dataclass(frozen=True)
class Adapted(_Shown, AdaptResult):
    """A smaller net for a budget, the steps to it, and what it is compared with."""

    def plot(self) -> Figure:
        """Accuracy over cost, of the steps and of the nets."""
        from edgemobile.adaptation.plot import adaptation_figure

        return adaptation_figure(self)

    def _print(self) -> None:
        from edgemobile.printing.adaptation import print_adaptation

        print_adaptation(self)

    __str__ = _Shown.__str__


@dataclass(frozen=True)
class Searched(_Shown, SearchResult):
    """The Pareto front of a search, beside the width multipliers."""

    def plot(self) -> Figure:
        """Accuracy over cost, of all nets."""
        from edgemobile.nas.plot import search_figure

        return search_figure(self)

    def _print(self) -> None:
        from edgemobile.printing.search import print_search

        print_search(self)

    __str__ = _Shown.__str__


@dataclass(frozen=True)
class Compared(_Shown, ParityReport):
    """Files against a reference."""

    def plot(self) -> Figure:
        """The SQNR of every layer, or of every file if layers were not compared."""
        return plots.compared(self)

    def _print(self) -> None:
        from edgemobile.printing.parity import print_parity

        print_parity(self)

    __str__ = _Shown.__str__


@dataclass(frozen=True)
class Evaluated(_Shown, Evaluation):
    """The accuracy of files. `passed`: no file was refused or lost more than `max_drop` points to the baseline."""

    max_drop: float | None = None

    @property
    def passed(self) -> bool:
        return not self.refused and (self.max_drop is None or not self.exceeding(self.max_drop))

    def plot(self) -> Figure:
        """Top-1 of every file with its 95 % interval."""
        return plots.evaluated(self)

    def _print(self) -> None:
        from edgemobile.printing.evaluation import print_evaluation

        print_evaluation(self, quiet=False)

    __str__ = _Shown.__str__


@dataclass(frozen=True)
class Detected(_Shown, DetectionEvaluation):
    """The average precision of detectors."""

    def plot(self) -> Figure:
        """The average precision of every file."""
        return plots.detected(self)

    def _print(self) -> None:
        from edgemobile.printing.evaluation import print_detection

        print_detection(self, quiet=False)

    __str__ = _Shown.__str__


@dataclass(frozen=True)
class Segmented(_Shown, SegmentationEvaluation):
    """The mean intersection over union of nets that classify pixels."""

    def plot(self) -> Figure:
        """The mean intersection over union of every file."""
        return plots.segmented(self)

    def _print(self) -> None:
        from edgemobile.printing.evaluation import print_segmentation

        print_segmentation(self, quiet=False)

    __str__ = _Shown.__str__


@dataclass(frozen=True)
class Benched(_Shown):
    """A run, and its comparison with the baseline, if any. `advice` is what to do about slow files, as text."""

    run: Run
    comparison: Comparison | None = None
    max_regress: float | None = None
    advice: tuple[str, ...] = ()

    @property
    def stable(self) -> bool:
        """Whether every figure can be trusted; counts of instructions always can."""
        from edgemobile.latency.statistics import verdict

        return all(verdict(case, self.run).stable for case in self.run.cases)

    @property
    def passed(self) -> bool:
        """Whether every file was measured, stable, and within `max_regress` of the baseline with its whole interval."""
        measured = self.stable and not self.run.refused
        if self.comparison is None or self.max_regress is None:
            return measured
        within = (pair.judge(self.max_regress) is Judgement.PASSED for pair in self.comparison.pairs)
        return measured and self.comparison.stable and all(within)

    def save(self, path: str | Path) -> None:
        """Save it for `edgemobile compare`, and as a baseline."""
        save_run(self.run, Path(path))

    def plot(self) -> Figure:
        """Plot the times of every case, or its instructions by class."""
        return plots.benched(self.run)

    def _print(self) -> None:
        from edgemobile.printing.runs import print_bench

        print_bench(self.run, self.advice, self.comparison, self.max_regress, quiet=False)

    __str__ = _Shown.__str__


@dataclass(frozen=True)
class CostTable(_Shown):
    """The cost of every layer in the one file of `run`."""

    run: Run

    @property
    def rows(self) -> tuple[LayerCost, ...]:
        """A row for an inference without any op, then one row per layer in order. They add up to the whole file."""
        return tuple(layer_costs(self.run.cases[0], self.run.settings.clock_mhz))

    @property
    def by_op(self) -> tuple[LayerCost, ...]:
        """The sums for each kind of op and dtype, the largest first."""
        return tuple(by_op(self.rows))

    def save(self, path: str | Path) -> None:
        """Save the run for `edgemobile report`."""
        save_run(self.run, Path(path))

    def plot(self) -> Figure:
        """The estimated cycles of every layer, or its instructions if there is no estimate."""
        return plots.layer_costs(self.rows)

    def _print(self) -> None:
        from edgemobile.printing.runs import print_bench

        print_bench(self.run, (), None, None, quiet=False)

    __str__ = _Shown.__str__
