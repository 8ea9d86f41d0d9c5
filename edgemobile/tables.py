"""What a person sees in the terminal: tables and progress bars. Numbers are rounded here and nowhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgemobile.arch import Arch
from edgemobile.artifact import to_json_text
from edgemobile.cost import Cost, arch_costs, total

if TYPE_CHECKING:
    from edgemobile.pipeline import Checked, ExportResult

__all__ = ["print_export", "print_layers", "print_models", "progress"]


def _console(*, stderr: bool = False) -> Console:
    """A terminal's own width; piped output is not wrapped at 80 columns."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 160, highlight=False)


def _table(title: str, columns: Sequence[str], *, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1), pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", header_style="dim", no_wrap=True)
    return table


# ---- models ---------------------------------------------------------------------------------------------------------


def print_models(archs: Sequence[Arch], *, as_json: bool = False) -> None:
    rows = [(arch, total(arch_costs(arch))) for arch in archs]
    if as_json:
        print(to_json_text([{**_arch_facts(arch), **_totals(cost)} for arch, cost in rows]), end="")
        return
    table = _table("Reference models", ["model", "paper", "width", "input", "classes", "params", "MACs"], left=2)
    for arch, cost in rows:
        table.add_row(
            arch.name,
            arch.paper,
            f"{arch.width:g}",
            f"{arch.input_px} px",
            str(arch.classes),
            f"{cost.params / 1e6:.2f} M",
            f"{cost.macs / 1e6:.1f} M",
        )
    _console().print(table)


def print_layers(arch: Arch, *, as_json: bool = False) -> None:
    costs = arch_costs(arch)
    whole = total(costs)
    if as_json:
        print(to_json_text({**_arch_facts(arch), **_totals(whole), "layers": [asdict(cost) for cost in costs]}), end="")
        return
    title = f"{arch.name}  width {arch.width:g}, {arch.input_px} px, {arch.classes} classes ({arch.paper})"
    table = _table(title, ["layer", "op", "output", "params", "MACs", "activation"], left=2)
    for cost in costs:
        shape = "x".join(map(str, cost.out_shape))
        table.add_row(cost.name, cost.op, shape, f"{cost.params:,}", f"{cost.macs:,}", _kib(cost.activation_bytes))
    table.add_section()
    table.add_row(
        "total", "", "", f"{whole.params:,}", f"{whole.macs:,}", f"{_kib(whole.activation_bytes)} peak", style="bold"
    )
    _console().print(table)


def _arch_facts(arch: Arch) -> dict[str, object]:
    facts = ("name", "paper", "width", "input_px", "classes")
    return {name: getattr(arch, name) for name in facts}


def _totals(cost: Cost) -> dict[str, int]:
    return {"params": cost.params, "macs": cost.macs, "peak_activation_bytes": cost.activation_bytes}


def _kib(count: int) -> str:
    return f"{count / 1024:.1f} KiB"


# ---- export ---------------------------------------------------------------------------------------------------------


def print_export(result: ExportResult, *, as_json: bool = False, verbose: bool = False) -> None:
    if as_json:
        print((result.out / "manifest.json").read_text(), end="")
        return
    console = _console()
    accuracy = f", PyTorch top-1 {result.float_accuracy:.1%}" if result.float_accuracy is not None else ""
    title = f"{result.model} at {result.input_px} px, {result.source}\nchecked on {result.images}{accuracy}"
    columns = [
        "file",
        "precision",
        "size",
        "ops",
        "hard-swish",
        "SQNR",
        "max abs",
        "agree",
        "top-1",
        "latency",
        "runtime",
        "",
    ]
    table = _table(title, columns, left=2)
    for file in result.files:
        table.add_row(*_file_row(file))
    console.print(table)
    for note in result.notes:
        console.print(f"[dim]note:[/dim] {note}")
    for file in result.files:
        for missed in file.verdict.missed:
            console.print(f"[red]missed:[/red] {file.artifact.file}: {missed}")
        if verbose:
            ops = ", ".join(f"{op} {count}" for op, count in sorted(file.artifact.ops.items()))
            console.print(f"[dim]{file.artifact.file}:[/dim] {ops}")
    console.print(f"wrote [bold]{result.out}{'/' if not str(result.out).endswith('/') else ''}[/bold]")


def _file_row(file: Checked) -> list[str]:
    artifact, metrics = file.artifact, file.verdict.metrics
    return [
        artifact.file,
        artifact.precision,
        _size(artifact.bytes),
        str(artifact.op_count),
        artifact.hswish or "-",
        f"{metrics['sqnr_db']:.1f} dB",
        f"{metrics['max_abs']:.2g}",
        f"{metrics['top1_agree']:.1%}",
        "-" if file.accuracy is None else f"{file.accuracy:.2%}",
        f"{file.latency.median_ns / 1e6:.2f} ms",
        file.runtime,
        "ok" if file.verdict.passed else "[red]MISSED[/red]",
    ]


def _size(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else _kib(count)


# ---- progress -------------------------------------------------------------------------------------------------------


class _Bars:
    """Draws a bar a step on standard error; a step that ends within a second leaves no line."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        started = time.monotonic()
        task = self.bars.add_task(title, total=total)
        yield lambda done: self.bars.update(task, completed=done)
        self.bars.update(task, total=total or 1, completed=total or 1)
        if time.monotonic() - started < 1:
            self.bars.remove_task(task)


class _Quiet:
    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        yield lambda done: None


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[_Bars | _Quiet]:
    """Progress for a command: bars on a terminal, nothing when quiet or piped."""
    if quiet or not sys.stderr.isatty():
        yield _Quiet()
        return
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(24),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_console(stderr=True)) as bars:
        yield _Bars(bars)
