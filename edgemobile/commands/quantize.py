"""`edgemobile quantize`: int8 only, with every parameter of the recipe, and the cost of each tensor."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from edgemobile.commands.completion import complete_refs
from edgemobile.commands.export import check_model, show_export
from edgemobile.commands.options import IMAGES, INT8, MODEL, OUTPUT, formats_option
from edgemobile.commands.sections import SectionedCommand
from edgemobile.printing.terminal import console, format_table, progress
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    from edgemobile.pipeline.request import ExportRequest
    from edgemobile.quant.explain import Explanation
    from edgemobile.quant.sensitivity import Cost

__all__ = ["quantize"]


@click.command(
    cls=SectionedCommand,
    sections={
        "Files to write": "--to",
        "Model": "--weights",
        "Images": "--calib",
        "int8": "--recipe",
        "Override the recipe's values": "--observer",
        "Other results": "--rank",
        "Output": "--out",
    },
)
@click.argument("model", shell_complete=complete_refs)
@formats_option("both")
@MODEL
@IMAGES
@INT8
@click.option(
    "--observer",
    type=click.Choice(["mse", "minmax", "moving_average", "percentile", "entropy"]),
    help="How a tensor's range is chosen. [default: the recipe's]",
)
@click.option(
    "--granularity", type=click.Choice(["per_channel", "per_tensor"]), help="Scales of weights. [default: the recipe's]"
)
@click.option(
    "--equalize",
    type=float,
    metavar="0-1",
    help="Strength of cross-layer equalization, 0 for none. [default: the recipe's]",
)
@click.option(
    "--noise-optimal-scaling/--no-noise-optimal-scaling",
    default=None,
    help="Choose channel ranges for the lowest noise in the logits, not for equal ranges. [default: the recipe's]",
)
@click.option(
    "--split-gates",
    type=click.Choice(["none", "stem", "highest_cost", "all"]),
    help="Hard-swish ops whose input may be equalized. [default: the recipe's]",
)
@click.option(
    "--refit", type=float, help="How strongly refitted weights stay near the trained ones, 0 for no refit. [default: 3]"
)
@click.option(
    "--clip-weights/--no-clip-weights",
    default=None,
    help="Let weights with a shared scale saturate where that lowers the output error. [default: the recipe's]",
)
@click.option(
    "--adaround/--no-adaround", default=None, help="Learn which weights to round up (AdaRound); takes minutes."
)
@click.option(
    "--bias-correction/--no-bias-correction",
    default=None,
    help="Correct biases to match the float means (bias correction).",
)
@click.option("--rank", is_flag=True, help="Only list the tensors with the highest cost; write nothing.")
@click.option(
    "--explain",
    is_flag=True,
    help="Only report which tensors cause the noise, why, and how to reduce it; write nothing.",
)
@click.option("--print-recipe", is_flag=True, help="Only print the recipe as JSON, to save and edit.")
@OUTPUT
def quantize(
    model: str,
    formats: tuple[str, ...] | None,
    recipe: str | None,
    hswish: str,
    target: str,
    keep_float: tuple[str, ...],
    observer: str | None,
    granularity: Any,
    equalize: float | None,
    noise_optimal_scaling: bool | None,
    split_gates: Any,
    refit: float | None,
    clip_weights: bool | None,
    adaround: bool | None,
    bias_correction: bool | None,
    rank: bool,
    explain: bool,
    print_recipe: bool,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> int:
    """Quantize MODEL to int8, with every parameter of the recipe, and check the files against it.

    MODEL is what `edgemobile export` takes. Layers are named by their module paths, as --rank lists them.

    \b
    Examples:
      edgemobile quantize v3-large --calib images/ --explain
      edgemobile quantize v3-large --calib images/ --rank
      edgemobile quantize v3-large --calib images/ --keep-float 'features.16.*' --observer percentile
      edgemobile quantize v3-large --calib images/ --max-drop 0.1 --search
      edgemobile quantize v3-large --print-recipe > mine.json; edgemobile quantize v3-large --recipe mine.json
    """
    check_model(model)
    if rank and explain:
        raise click.UsageError("--rank and --explain print different reports: give only one of them")
    from edgemobile.pipeline.request import ExportRequest, default_out, recipe_of
    from edgemobile.quant.recipe import Rule

    whole = (Rule(observer=observer, weights=granularity),) if observer or granularity else None
    chosen = recipe_of(
        recipe,
        hswish,
        target,
        keep_float,
        options,
        rules=whole,
        equalize=equalize,
        noise_optimal_scaling=noise_optimal_scaling,
        split_gates=split_gates,
        refit=refit,
        clip_weights=clip_weights,
        adaround=adaround,
        bias_correction=bias_correction,
    )
    if print_recipe:
        click.echo(to_json_text(chosen.to_json()), nl=False)
        return 0
    from edgemobile.pipeline.export import explanation, export, ranking

    request = ExportRequest(
        model=model,
        out=out or default_out(model),
        formats=formats,
        precisions=("int8",),
        recipe=chosen,
        target=target,
        use_trained=False,
        command=tuple(sys.argv[1:]),
        **options,
    )
    with progress(quiet=quiet or as_json) as bars:
        if rank:
            costs = ranking(request, bars)
        elif explain:
            explained = explanation(request, bars)
        else:
            result = export(request, bars)
    if rank:
        _print_ranking(request, costs, as_json=as_json)
        return 0
    if explain:
        _print_explanation(explained, as_json=as_json)
        return 0
    show_export(result, as_json=as_json, verbose=verbose)
    return 0 if result.passed else 1


def _print_ranking(request: ExportRequest, costs: list[Cost], *, as_json: bool) -> None:
    if as_json:
        print(to_json_text([asdict(cost) for cost in costs]), end="")
        return
    title = f"{escape(request.model)}: cost of each tensor when it alone is int8"
    table = format_table(title, ["tensor", "SQNR", "share"])
    for cost in costs:
        table.add_row(escape(cost.tensor), f"{cost.sqnr_db:.1f} dB", f"{cost.share:.1%}")
    console().print(table)


def _print_explanation(explained: Explanation, *, as_json: bool) -> None:
    if as_json:
        print(to_json_text(asdict(explained)), end="")
        return
    for line in explained.lines():
        print(line)
