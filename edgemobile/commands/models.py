"""`edgemobile models`: the reference models, and the cost of each layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from edgemobile.commands.completion import complete_devices, complete_models
from edgemobile.commands.writable import check_writable
from edgemobile.errors import require
from edgemobile.loading.model_spec import is_checkpoint
from edgemobile.models.arch import ARCHS, Arch, get_arch, scaled
from edgemobile.models.cost import Cost, arch_costs, total
from edgemobile.printing.terminal import console, format_bytes, format_table, progress
from edgemobile.util.strict_json import to_json_text

__all__ = ["models"]


@click.command()
@click.argument("name", required=False, shell_complete=complete_models)
@click.option("--width", type=float, help="Width multiplier; channels are rounded to 8 and never below 90 %.")
@click.option("--res", type=click.IntRange(min=1), help="Input resolution in pixels.")
@click.option("--classes", type=int, help="Number of classes.")
@click.option("--explain", is_flag=True, help="What each idea of the papers saves or costs in NAME.")
@click.option(
    "--on",
    metavar="DEVICE",
    shell_complete=complete_devices,
    help="With --explain: also measure it as int8 files on a device, such as emulated:cortex-a72.",
)
@click.option(
    "--unit",
    type=click.Choice(["instructions", "ms"]),
    help="What --on measures. [default: instructions on an emulated core, ms on a board]",
)
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="With --explain: draw it: .svg, .png or .pdf."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(
    name: str | None,
    width: float | None,
    res: int | None,
    classes: int | None,
    explain: bool,
    on: str | None,
    unit: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """List the reference models, or describe NAME, one of them or a checkpoint, layer by layer: shapes, parameters,
    MACs, activation bytes.

    \b
    Examples:
      edgemobile models
      edgemobile models v3-large --width 0.5 --res 128
      edgemobile models v3-large --explain --res 96 --on emulated:cortex-a72 --plot ideas.svg
    """
    _check_explained(name, explain, on, unit, plot)
    if name is None:
        archs = [scaled(arch, width=width, input_px=res, classes=classes) for arch in ARCHS.values()]
        _print_models(archs, as_json=as_json)
        return
    arch = scaled(_arch(name), width=width, input_px=res, classes=classes)
    if explain:
        _explain(arch, on, unit, plot, as_json=as_json)
    else:
        _print_layers(arch, as_json=as_json)


def _check_explained(name: str | None, explain: bool, on: str | None, unit: str | None, plot: Path | None) -> None:
    """Raises UsageError for options without effect."""
    if explain and name is None:
        raise click.UsageError("--explain needs a model: edgemobile models v3-large --explain")
    given = {"--on": on, "--unit": unit, "--plot": plot}
    unused = [option for option, value in given.items() if value is not None]
    if unused and not explain:
        raise click.UsageError(f"{unused[0]} is for --explain: add it, or omit {unused[0]}")
    if unit and not on:
        raise click.UsageError("--unit is for --on: add --on emulated:cortex-a72, or omit --unit")


def _explain(arch: Arch, on: str | None, unit: str | None, plot: Path | None, *, as_json: bool) -> None:
    from edgemobile.models.ideas import ideas
    from edgemobile.printing.ideas import ideas_figure, ideas_json, print_ideas
    from edgemobile.util.plot_file import check_plot, save_plot_file

    found, costs = ideas(arch), []
    if plot is not None:
        check_plot(plot)
        check_writable("--plot", plot, ())
    if on is not None:
        require("torch", "export")
        from edgemobile.adaptation.cost_table import unit_on
        from edgemobile.adaptation.idea_costs import idea_costs

        unit = unit_on(on, unit)
        with progress(quiet=as_json) as bars:
            costs = idea_costs(found, on, unit, bars)
    title = f"{arch.name}: what its ideas save or cost, at width {arch.width:g}, {arch.input_px} px"
    if as_json:
        print(to_json_text({**_arch_facts(arch), **ideas_json(found, costs, on, unit)}), end="")
    else:
        print_ideas(title, found, costs, on or "", unit or "")
    if plot is not None:
        save_plot_file(ideas_figure(title, found, costs, on or "", unit or ""), plot)


def _arch(name: str) -> Arch:
    """A reference model, or that of a checkpoint, with its widths and classes."""
    if not is_checkpoint(name):
        return get_arch(name)
    from edgemobile.loading.checkpoint import arch_of

    return arch_of(name)


def _print_models(archs: Sequence[Arch], *, as_json: bool = False) -> None:
    rows = [(arch, total(arch_costs(arch))) for arch in archs]
    if as_json:
        print(
            to_json_text([{**_arch_facts(arch), **_totals(cost), "bundled": _bundled(arch)} for arch, cost in rows]),
            end="",
        )
        return
    columns = ["model", "paper", "width", "input", "classes", "params", "MACs", "weights in the package"]
    table = format_table("Reference models", columns, left=2)
    for arch, cost in rows:
        table.add_row(
            arch.name,
            arch.paper,
            f"{arch.width:g}",
            f"{arch.input_px} px",
            str(arch.classes),
            f"{cost.params / 1e6:.2f} M",
            f"{cost.macs / 1e6:.1f} M",
            _in_words(_bundled(arch)),
        )
    console().print(table)


def _bundled(arch: Arch) -> dict[str, Any] | None:
    """What the bundled weights of a model were trained on, and top-1 in percent; read without torch."""
    path = files("edgemobile") / "bundled" / f"{arch.name}.json"
    if not path.is_file():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    return {name: facts[name] for name in ("dataset", "input_px", "top1_float_percent", "top1_int8_percent")}


def _in_words(bundled: dict[str, Any] | None) -> str:
    if bundled is None:
        return "-"
    float_, int8 = bundled["top1_float_percent"], bundled["top1_int8_percent"]
    return f"{bundled['dataset']} at {bundled['input_px']} px: {float_:.2f} %, int8 {int8:.2f} %"


def _print_layers(arch: Arch, *, as_json: bool = False) -> None:
    costs = arch_costs(arch)
    whole = total(costs)
    if as_json:
        print(to_json_text({**_arch_facts(arch), **_totals(whole), "layers": [asdict(cost) for cost in costs]}), end="")
        return
    title = f"{arch.name}  width {arch.width:g}, {arch.input_px} px, {arch.classes} classes ({arch.paper})"
    table = format_table(title, ["layer", "op", "output", "params", "MACs", "activation"], left=2)
    for cost in costs:
        shape = "x".join(map(str, cost.out_shape))
        table.add_row(
            cost.name, cost.op, shape, f"{cost.params:,}", f"{cost.macs:,}", format_bytes(cost.activation_bytes)
        )
    table.add_section()
    table.add_row(
        "total",
        "",
        "",
        f"{whole.params:,}",
        f"{whole.macs:,}",
        f"{format_bytes(whole.activation_bytes)} peak",
        style="bold",
    )
    console().print(table)


def _arch_facts(arch: Arch) -> dict[str, object]:
    facts = ("name", "paper", "width", "input_px", "classes")
    return {name: getattr(arch, name) for name in facts}


def _totals(cost: Cost) -> dict[str, int]:
    return {"params": cost.params, "macs": cost.macs, "peak_activation_bytes": cost.activation_bytes}
