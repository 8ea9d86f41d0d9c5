"""`edgemobile inspect`: what a file contains, how two files differ, and whether a file is what CI expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from edgemobile.errors import EdgemobileError
from edgemobile.printing.terminal import console, format_bytes, format_table
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    from edgemobile.inspection import Inspection, PortFacts, WeightFacts
    from edgemobile.inspection.tensor_diff import TensorDiff
    from edgemobile.model_file.model_file import ModelFile

__all__ = ["inspect"]

# How many differing tensors are shown; --json has all.
_SHOWN = 8


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--diff", "other", type=click.Path(path_type=Path), metavar="OTHER", help="A second file to compare with."
)
@click.option(
    "--expect", metavar="NAME=N,...", help="Exit 1 unless the file has exactly these counts, such as HARD_SWISH=21."
)
@click.option("--tensors", is_flag=True, help="Also list the weights, layer by layer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(file: Path, other: Path | None, expect: str | None, tensors: bool, as_json: bool) -> int:
    """Describe FILE, any .onnx or .tflite file from any exporter.

    Shows inputs and outputs, ops and their precision, how hard-swish is expressed, what the runtimes do with it, int8
    scales and saturation. With --diff, shows whether two files have the same integers, also across formats.

    \b
    Examples:
      edgemobile inspect v3-large/v3-large-int8.tflite
      edgemobile inspect model.tflite --expect "HARD_SWISH=21,TRANSPOSE=0,delegate_partitions=1"
      edgemobile inspect v3-large-int8.onnx --diff v3-large-int8.tflite
    """
    from edgemobile.exporters.model_files import read_model_file
    from edgemobile.inspection import facts_of
    from edgemobile.inspection.expectations import missed_expectations, parse_expectations
    from edgemobile.pipeline.folder import single

    file, other = Path(single(file)), None if other is None else Path(single(other))
    expected = {} if expect is None else parse_expectations(expect)
    ours = read_model_file(file)
    theirs = None if other is None else read_model_file(other)
    left = facts_of(ours)
    right = None if theirs is None else facts_of(theirs)
    missed = missed_expectations(left, expected)
    diff, reason = (None, "") if theirs is None else _tensor_diff(ours, theirs)
    if as_json:
        print(to_json_text(_as_json(left, right, diff, reason, missed)), end="")
    else:
        _print(left, right, tensors=tensors)
        if other is not None:
            _print_diff(diff, reason)
    for line in missed:
        console(stderr=True).print(f"[red]missed:[/red] {escape(line)}")
    return 1 if missed else 0


def _tensor_diff(file: ModelFile, other: ModelFile) -> tuple[TensorDiff | None, str]:
    """(what differs, "") or (None, why the files cannot be compared)."""
    from edgemobile.inspection import read_stored_tensors
    from edgemobile.inspection.tensor_diff import diff_tensors

    try:
        return diff_tensors(read_stored_tensors(file), read_stored_tensors(other)), ""
    except EdgemobileError as error:
        return None, str(error)


def _as_json(
    left: Inspection, right: Inspection | None, diff: TensorDiff | None, reason: str, missed: Sequence[str]
) -> dict[str, object]:
    facts: dict[str, object] = {**left.to_json(), "missed": list(missed)}
    if right is not None:
        facts["other"] = right.to_json()
        facts["diff"] = {"reason": reason} if diff is None else diff.to_json()
    return facts


# ---- on a terminal --------------------------------------------------------------------------------------------------


def _print(left: Inspection, right: Inspection | None, *, tensors: bool) -> None:
    files = [left] if right is None else [left, right]
    table = format_table("", ["", *(escape(file.file) for file in files)], left=1 + len(files))
    rows = [_facts(file) for file in files]
    for fact in dict.fromkeys(name for row in rows for name in row):
        table.add_row(f"[dim]{fact}[/dim]", *(escape(row.get(fact, "-")) for row in rows))
    console().print(table)
    for file in files:
        for note in file.notes:
            console().print(f"[dim]note:[/dim] {escape(file.file)}: {escape(note)}")
    if tensors:
        for file in files:
            console().print(_weight_table(file))


def _facts(file: Inspection) -> dict[str, str]:
    """Fact -> one line; facts that a file does not have are omitted."""
    facts = {
        "format": f"{file.format}, {file.description}",
        "written by": file.producer,
        "size": f"{format_bytes(file.bytes)}: {_sizes(file.bytes_by_dtype)}",
        "input": "\n".join(map(_port, file.inputs)),
        "output": "\n".join(map(_port, file.outputs)),
        "ops": f"{sum(file.ops.values())}{_in_graphs(file)}: {_counts(file.ops)}",
        "precision": "\n".join((file.precision, *_by_precision(file.ops_by_precision))),
        "hard-swish": ", ".join(f"{count} {form}" for form, count in file.hswish.items()),
        "XNNPACK": "" if file.delegate_partitions is None else _partitions(file.delegate_partitions),
        "onnxruntime": "\n".join(_by_precision(file.runtime_ops_by_precision or {})),
        "float islands": _islands(file.islands),
        "weights": _weights(file.weights),
        "bias guard": _bias_guard(file.weights),
        "dead channels": _dead_channels(file.weights),
        "labels": "" if file.labels is None else str(file.labels),
        "preprocess": ", ".join(f"{key} {value}" for key, value in (file.preprocess or {}).items()),
        "metadata": "\n".join(f"{key}: {_text(value)}" for key, value in file.metadata.items()),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _in_graphs(file: Inspection) -> str:
    return f" in the main graph and {file.subgraphs} that its ops call" if file.subgraphs else ""


def _text(value: str) -> str:
    """Metadata in readable form; other tools store bytes there."""
    return value[:80] if value.isprintable() and "\ufffd" not in value else f"{len(value)} characters of binary data"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _by_precision(ops: Mapping[str, Mapping[str, int]]) -> list[str]:
    return [f"{name}: {_counts(counts)}" for name, counts in ops.items()]


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {format_bytes(count)}" for name, count in sizes.items())


def _port(port: PortFacts) -> str:
    shape = "x".join("?" if size < 0 else str(size) for size in port.shape)
    scale = "" if port.scale is None else f", scale {port.scale:.6g}, zero point {port.zero_point}"
    return f"{port.name}  {port.dtype} {port.layout}{' ' if port.layout else ''}{shape}{scale}"


def _partitions(count: int) -> str:
    return {0: "takes nothing", 1: "takes it in 1 partition"}.get(count, f"takes it in {count} partitions")


def _islands(islands: Sequence[Sequence[str]] | None) -> str:
    if not islands:
        return "unknown" if islands is None else ""
    counts: dict[str, int] = {}
    for island in islands:
        name = " + ".join(island)
        counts[name] = counts.get(name, 0) + 1
    return f"{len(islands)} between integers: " + ", ".join(f"{count} x {name}" for name, count in counts.items())


def _weights(weights: Sequence[WeightFacts]) -> str:
    """How many of each dtype, and the range of their scales."""
    groups: dict[str, list[WeightFacts]] = {}
    for weight in weights:
        per = "" if not weight.scales else " per channel" if weight.scales > 1 else " per tensor"
        groups.setdefault(f"{weight.dtype}{per}", []).append(weight)
    return "\n".join(f"{len(group)} {name}{_scale_range(group)}" for name, group in groups.items())


def _scale_range(weights: Sequence[WeightFacts]) -> str:
    lows = [weight.scale_min for weight in weights if weight.scale_min is not None]
    highs = [weight.scale_max for weight in weights if weight.scale_max is not None]
    return f", scales {min(lows):.3g} to {max(highs):.3g}" if lows and highs else ""


def _bias_guard(weights: Sequence[WeightFacts]) -> str:
    """The bias nearest to the limit of int32."""
    shares = [(weight.bias_share, weight) for weight in weights if weight.bias_share is not None]
    if not shares:
        return ""
    share, weight = max(shares, key=lambda pair: pair[0])
    verdict = "OVERFLOWS" if share >= 1 else "near the end" if share >= 0.5 else "fits"
    return f"{verdict}: largest |b / (s_in * s_w)| is {weight.bias_peak:,}, {share:.2%} of int32 (at {weight.name})"


def _dead_channels(weights: Sequence[WeightFacts]) -> str:
    dead = [weight for weight in weights if weight.dead_channels]
    total = sum(weight.dead_channels for weight in dead)
    named = ", ".join(f"{weight.name} {weight.dead_channels}" for weight in dead[:_SHOWN])
    return f"{total} with all-zero weights: {named}{', ...' if len(dead) > _SHOWN else ''}" if dead else ""


def _weight_table(file: Inspection) -> object:
    columns = ["weight", "op", "shape", "dtype", "scales", "smallest", "largest", "dead", "bias of int32"]
    table = format_table(f"\nWeights of {escape(file.file)}", columns, left=4)
    for weight in file.weights:
        table.add_row(
            escape(weight.name),
            weight.op,
            "x".join(map(str, weight.shape)),
            weight.dtype,
            str(weight.scales or "-"),
            "-" if weight.scale_min is None else f"{weight.scale_min:.3g}",
            "-" if weight.scale_max is None else f"{weight.scale_max:.3g}",
            str(weight.dead_channels or "-"),
            "-" if weight.bias_share is None else f"{weight.bias_share:.3%}",
        )
    return table


def _print_diff(diff: TensorDiff | None, reason: str) -> None:
    out = console()
    if diff is None:
        out.print(f"[dim]tensors:[/dim] cannot be compared: {escape(reason)}")
    elif not diff.compared:
        out.print("[dim]tensors:[/dim] the files have no tensor name in common, so none was compared")
    elif diff.same:
        out.print(f"[dim]tensors:[/dim] [green]the same integers[/green] in {_compared(diff)}")
    else:
        out.print(f"[dim]tensors:[/dim] [red]{len(diff.differing)} differ[/red] of {_compared(diff)}")
        for name, detail in list(diff.differing.items())[:_SHOWN]:
            out.print(f"  {escape(name)}: {escape(detail)}")
        if len(diff.differing) > _SHOWN:
            out.print(f"  ... and {len(diff.differing) - _SHOWN} more; --json lists all")
    if diff is not None and diff.compared and (diff.only_left or diff.only_right):
        out.print(
            f"  [dim]{len(diff.only_left)} tensors only in the first, {len(diff.only_right)} only in the second[/dim]"
        )


def _compared(diff: TensorDiff) -> str:
    return f"{diff.weights} constants, {diff.biases} biases and {diff.activations} quantized activations"
