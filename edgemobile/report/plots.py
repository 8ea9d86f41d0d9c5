"""The figures of a report, drawn by matplotlib.

Every figure is drawn twice, for a wide screen and for a phone, because text must not shrink with the picture.

Okabe and Ito's palette is safe for colour-blind readers, and shapes differ too: ONNX is square and dashed, TFLite
round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from edgemobile.devices.host.records import Case
from edgemobile.latency.layer_costs import by_op, layer_costs
from edgemobile.report.drawing import NARROW_PX, Drawing, colour, empty_figure, say, set_margins, short
from edgemobile.report.findings import Accuracy, Artifact, Compared, Line, Timing
from edgemobile.report.sources import Evaluated
from edgemobile.report.words import case_words, db, line_words, megabytes, ms, percent, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "confusion_plot",
    "cost_groups",
    "front",
    "latency_plot",
    "layer_plot",
    "op_groups",
    "op_plot",
    "pareto_plot",
    "scored_points",
    "size_plot",
]

_OPS = 8
_MOST_OVERLAP = 20  # in square pixels: letters that touch are still readable


def _style(format: str) -> dict[str, Any]:
    return {"marker": "s", "linestyle": (0, (4, 2))} if format == "onnx" else {"marker": "o", "linestyle": "-"}


# ---- accuracy against latency ---------------------------------------------------------------------------------------


def scored_points(line: Line) -> list[tuple[Artifact, Timing, Accuracy]]:
    """The points of a line with accuracy on the same images: of several sets, that with the most artifacts."""
    found = [(artifact, timing, artifact.accuracy_on(line.device)) for artifact, timing in line.points]
    known = [(artifact, timing, accuracy) for artifact, timing, accuracy in found if accuracy is not None]
    sets = [accuracy.data for _, _, accuracy in known]
    chosen = max(dict.fromkeys(sets), key=sets.count, default=None)
    return [one for one in known if one[2].data == chosen]


def front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front: points (cost, gain) that no other beats in both, by increasing cost."""
    best, kept = -math.inf, []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if gain > best:
            best = gain
            kept.append((cost, gain))
    return kept


def _sure(points: Sequence[tuple[Artifact, Timing, Accuracy]]) -> bool:
    """Whether each point of a front is stable, and clearly more accurate than the one before."""
    rising = sorted((accuracy for _, _, accuracy in points), key=lambda one: one.top1)
    return not any(timing.reasons for _, timing, _ in points) and all(a.high < b.low for a, b in pairwise(rising))


def pareto_plot(line: Line, width_px: int) -> Drawing:
    """Plot top-1 against ms or millions of instructions, with both intervals; `scored_points` must not be empty."""
    points = scored_points(line)
    figure, axes = empty_figure(width_px, 300 if width_px > NARROW_PX else 270)
    set_margins(figure, axes, 44, 20, 30, 46)
    drawing = Drawing(
        figure, f"Top-1 accuracy against {'instructions' if line.emulated else 'latency'}, {line_words(line)}"
    )
    spots = [(timing.value, 100 * accuracy.top1) for _, timing, accuracy in points]
    _limits(axes, points)
    kept = front(spots)
    if len(kept) > 1:
        style = "-" if _sure([one for one, spot in zip(points, spots, strict=True) if spot in kept]) else (0, (2, 2))
        axes.step(*zip(*kept, strict=True), where="post", color=colour("front"), lw=1.2, ls=style, zorder=2)
    for (artifact, timing, accuracy), (x, y) in zip(points, spots, strict=True):
        tint, marker = colour(artifact.precision), _style(artifact.format)["marker"]
        low, high = timing.interval
        axes.plot((low, high), (y, y), color=tint, lw=1.4, alpha=0.5, zorder=3)
        axes.plot((x, x), (100 * accuracy.low, 100 * accuracy.high), color=tint, lw=1.4, alpha=0.28, zorder=3)
        fill = colour("paper") if timing.reasons else tint
        axes.plot(x, y, marker, ms=8, mfc=fill, mec=tint, mew=2, zorder=4)
        drawing.tip(axes, x, y, case_words(artifact, timing), radius=11)
    names = short_names([artifact.name for artifact, _, _ in points])
    labels = [(short(name, 30), colour(one[0].precision)) for name, one in zip(names, points, strict=True)]
    bars = [(*timing.interval, 100 * accuracy.top1) for _, timing, accuracy in points]
    steps = [(x, after, y) for (x, y), (after, _) in pairwise(kept)]
    _label_points(axes, labels, spots, [*bars, *steps])
    axes.grid(axis="y", color=colour("rule"), lw=0.8)
    axes.set_xlabel(
        "million instructions per inference (emulated; not time)" if line.emulated else "median latency, ms",
        color=colour("muted"),
        fontsize=11,
        labelpad=6,
    )
    say(axes, 0, 1, "top-1, %", xycoords="axes fraction", xytext=(-36, 14), color=colour("muted"))
    return drawing


def _limits(axes: Axes, points: Sequence[tuple[Artifact, Timing, Accuracy]]) -> None:
    """The cost axis starts at zero, so that twice as far is twice as slow; the accuracy axis need not."""
    right = max(max(timing.interval[1], timing.value) for _, timing, _ in points)
    low, high = min(100 * one.low for _, _, one in points), max(100 * one.high for _, _, one in points)
    spare = max((high - low) * 0.12, 0.5)
    axes.set_xlim(0, right * 1.08)
    axes.set_ylim(max(low - spare, -2), min(high + spare, 102))


def _label_points(
    axes: Axes,
    labels: Sequence[tuple[str, str]],
    spots: Sequence[tuple[float, float]],
    bars: Sequence[tuple[float, float, float]],
) -> None:
    """Place each label next to its point, without overlap with labels, points and level lines (left, right, y).

    A label without such a position is omitted: its point has a tooltip.
    """
    box = axes.get_window_extent()
    dots = [tuple(axes.transData.transform(spot)) for spot in spots]
    taken = [(x - 8, y - 8, x + 8, y + 8) for x, y in dots]
    for left, right, level in bars:
        (x0, y0), (x1, _) = axes.transData.transform([(left, level), (right, level)])
        taken.append((x0, y0 - 2, x1, y0 + 2))
    words: list[tuple[float, ...]] = []
    for (text, tint), (x, y), spot in zip(labels, dots, spots, strict=True):
        wide = 6.1 * len(text)
        places = [(dx, dy) for dy in (0, 15, -15, 28, -28, 42, -42) for dx in (12, -12 - wide, -wide / 2)]
        places = [(dx, dy) for dx, dy in places if dy or dx != -wide / 2]

        def cost(place: tuple[float, float], x: float = x, y: float = y, wide: float = wide) -> float:
            left, low = x + place[0], y + place[1] - 6
            own = (left, low, left + wide, low + 12)
            outside = max(0, box.x0 - left) + max(0, left + wide - box.x1 - 16)
            outside += max(0, box.y0 - low) + max(0, low + 12 - box.y1 - 10)
            return 50 * outside + sum(_overlap(own, other) for other in taken) + 0.2 * abs(place[1])

        dx, dy = min(places, key=cost)
        left, low = x + dx, y + dy - 6
        if any(_overlap((left, low, left + wide, low + 12), other) > _MOST_OVERLAP for other in words):
            continue
        words.append((left, low, left + wide, low + 12))
        taken.append((x + dx, y + dy - 6, x + dx + wide, y + dy + 6))
        say(axes, *spot, text, xytext=(dx, dy), va="center", color=tint, fontsize=11, zorder=5)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


# ---- confusion matrix -----------------------------------------------------------------------------------------------


def confusion_plot(file: Evaluated, width_px: int) -> Drawing:
    """Images by true class (rows) and answer (columns); the colour is the share of the row."""
    names = {row.output: row.label or row.folder for row in file.per_class}
    place = {output: index for index, output in enumerate(names)}
    totals = {row.output: row.count for row in file.per_class}
    width_px = min(width_px, 120 + 24 * len(names))
    figure, axes = empty_figure(width_px, width_px)
    set_margins(figure, axes, 84, 8, 8, 84)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    drawing = Drawing(figure, "Answers by true class")
    for one in file.confusion:
        if one.true not in place or one.predicted not in place:
            continue
        x, y, share = place[one.predicted], place[one.true], one.count / totals[one.true]
        tint = colour("float32" if x == y else "bad")
        axes.bar(x, 0.92, 0.92, y - 0.46, color=tint, alpha=max(0.12, min(1.0, share)), lw=0)
        words = f"{one.count} of {totals[one.true]} images of {names[one.true]} ({percent(share)})"
        drawing.tip(axes, x, y, f"{words}\nanswer: {names[one.predicted]}")
    ticks = [short(name, 12) for name in names.values()]
    axes.set_xticks(range(len(names)), ticks, rotation=60, ha="right", rotation_mode="anchor", fontsize=10)
    axes.set_yticks(range(len(names)), ticks, fontsize=10)
    axes.spines["bottom"].set_visible(False)
    return drawing


# ---- the error of each layer ----------------------------------------------------------------------------------------


def layer_plot(compared: Sequence[Compared], width_px: int) -> Drawing:
    """Drift of each layer in dB, one line per file, in the reference's order; layers that diverge are crossed."""
    names = list(dict.fromkeys(layer.name for one in compared for layer in one.file.layers))
    place = {name: index for index, name in enumerate(names)}
    finite = [layer.sqnr_db for one in compared for layer in one.file.layers if math.isfinite(layer.sqnr_db)]
    top = max([*finite, 20.0]) + 8
    figure, axes = empty_figure(width_px, 340 if width_px > NARROW_PX else 300)
    set_margins(figure, axes, 36, 20 if width_px <= NARROW_PX else 190, 30, 74)
    axes.set_xlim(-0.5, max(len(names) - 0.5, 1))
    axes.set_ylim(min([*finite, 0.0]) - 4, top)
    drawing = Drawing(figure, "SQNR of every layer against the reference, in dB")
    ends: list[tuple[float, str, str]] = []
    for one in compared:
        tint = colour(one.file.precision)
        line = [(place[layer.name], _at_most(layer.sqnr_db, top), layer) for layer in one.file.layers]
        drawn = [(x, y) for x, y, _ in line if y is not None]
        if not drawn:
            continue
        axes.plot(*zip(*drawn, strict=True), color=tint, lw=1.5, ls=_style(one.file.format)["linestyle"], zorder=3)
        for x, y, layer in line:
            if y is None:
                continue
            if layer.diverges_in:
                axes.plot(x, y, "X", ms=10, mfc=colour("bad"), mec=colour("paper"), mew=1, zorder=5)
            drawing.tip(axes, x, y, _layer_words(one, layer), radius=5)
        if first := one.file.first_diverging:
            x, y = place[first.name], _at_most(first.sqnr_db, top) or 0
            right = x > len(names) * 0.6
            say(
                axes,
                x,
                y,
                short(first.name, 30),
                xytext=(-10 if right else 10, 8),
                ha="right" if right else "left",
                color=colour("bad"),
                zorder=6,
            )
        ends.append((drawn[-1][1], _file_name(one), tint))
    _label_ends(axes, ends, len(names) - 1, narrow=width_px <= NARROW_PX)
    ticks = _stage_ticks(names, 22 * len(names) / axes.get_window_extent().width)
    axes.set_xticks(
        [index for index, _ in ticks],
        [short(name, 16) for _, name in ticks],
        rotation=60,
        ha="right",
        rotation_mode="anchor",
        fontsize=10,
        parse_math=False,
    )
    axes.grid(axis="y", color=colour("rule"), lw=0.8)
    say(
        axes,
        0,
        1,
        "drift from the reference, SQNR in dB (higher is better)",
        xycoords="axes fraction",
        xytext=(-28, 14),
        color=colour("muted"),
    )
    return drawing


def _at_most(value: float, top: float) -> float | None:
    """Put inf (equal) at the top; None for nan and -inf, which cannot be drawn."""
    return None if math.isnan(value) or value == -math.inf else min(value, top)


def _layer_words(one: Compared, layer: Any) -> str:
    lines = [f"{layer.name} ({layer.op})", f"{_file_name(one)} on {one.file.place}", f"drift {db(layer.sqnr_db)}"]
    if layer.arithmetic_sqnr_db is not None:
        lines.append(f"by itself {db(layer.arithmetic_sqnr_db)}")
    if layer.lsb is not None:
        lines.append(f"at most {layer.lsb} steps apart")
    return "\n".join([*lines, f"diverges in its {layer.diverges_in}"] if layer.diverges_in else lines)


def _file_name(one: Compared) -> str:
    return one.file.file.replace("\\", "/").rpartition("/")[2]


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], x: float, *, narrow: bool) -> None:
    """Put names at the ends of the lines, without overlap; or in the corner if there is no room next to the lines."""
    if narrow:
        return
    last = math.inf
    for y, name, tint in sorted(ends, reverse=True):
        wanted = axes.transData.transform((x, y))[1]
        at = min(wanted, last - 14)
        last = at
        say(axes, x, y, short(name, 28), xytext=(10, at - wanted), va="center", color=tint)


def _stage_ticks(names: Sequence[str], apart: float) -> list[tuple[int, str]]:
    """The start of each stage, by the first two parts of its name, at least `apart` layers apart."""
    ticks: list[tuple[int, str]] = []
    last = ""
    for index, name in enumerate(names):
        stage = ".".join(name.split(".")[:2])
        if stage != last and (not ticks or index - ticks[-1][0] >= apart):
            ticks.append((index, stage))
        last = stage
    return ticks


# ---- bars: time or work per op, sizes -------------------------------------------------------------------------------


_TITLES = {"µs": "Time by op", "M instructions": "Work by class", "M cycles": "Estimated cycles by op"}


def op_plot(groups: Sequence[tuple[str, float, str]], unit: str, precision: str, width_px: int) -> Drawing:
    """(name, amount, words) as bars with their share, the largest first; `unit` is a row of _TITLES."""
    whole = sum(amount for _, amount, _ in groups) or 1.0
    digits, short_unit = (0, "µs") if unit == "µs" else (3, "M")
    rows = []
    for name, amount, words in groups:
        share = f"{100 * amount / whole:.1f} %"
        tip = f"{name}\n{amount:,.{digits}f} {unit}, {share}\n{words}".strip()
        rows.append((name, amount, f"{share}, {amount:,.{digits}f} {short_unit}", tip))
    return _bars(
        rows,
        colour(precision),
        width_px,
        _TITLES[unit],
    )


def op_groups(case: Case) -> list[tuple[str, float, str]]:
    """Times in µs by kind of op, with the rest summed."""
    kinds: dict[str, list[float]] = {}
    for op in case.profile or ():
        kinds.setdefault(op.op, []).append(op.ns / 1000)
    ranked = sorted(kinds.items(), key=lambda item: -sum(item[1]))
    shown = [(kind, sum(us), f"{len(us)} op{'s' if len(us) > 1 else ''}") for kind, us in ranked[:_OPS]]
    rest = [us for _, us in ranked[_OPS:]]
    if rest:
        shown.append(
            (f"{len(rest)} more kind{'s' if len(rest) > 1 else ''}", sum(map(sum, rest)), f"{sum(map(len, rest))} ops")
        )
    return shown


def cost_groups(timing: Timing) -> list[tuple[str, float, str]]:
    """Estimated cycles in millions by kind of op, from counts of every layer; values below zero are noise."""
    sums = by_op(layer_costs(timing.case, timing.run.settings.clock_mhz))
    cycles = [(cost, cost.estimated.cycles / 1e6 if cost.estimated else 0.0) for cost in sums]
    return [
        (f"{cost.op} {cost.dtype}".strip(), max(amount, 0.0), f"{cost.layers} layer{'s' if cost.layers > 1 else ''}")
        for cost, amount in cycles
    ]


def size_plot(artifacts: Sequence[Artifact], width_px: int) -> Drawing:
    """Bytes on disk, one bar per file."""
    rows = [
        (one.name, one.bytes / 2**20, megabytes(one.bytes), f"{one.name}\n{one.bytes:,} bytes")
        for one in artifacts
        if one.bytes is not None
    ]
    tints = [colour(one.precision) for one in artifacts if one.bytes is not None]
    return _bars(rows, tints, width_px, "Size on disk")


def latency_plot(line: Line, width_px: int) -> Drawing:
    """Medians with their intervals, one row per case."""
    rows = [
        (
            artifact.name + (" (unstable)" if timing.reasons else ""),
            timing.value,
            f"{timing.value:.3f} M" if line.emulated else f"{ms(timing.value)} ms",
            case_words(artifact, timing),
        )
        for artifact, timing in line.points
    ]
    tints = [colour(artifact.precision) for artifact, _ in line.points]
    return _bars(
        rows,
        tints,
        width_px,
        f"{'Instructions' if line.emulated else 'Median latency'}, {line_words(line)}",
        [timing.interval for _, timing in line.points],
        [bool(timing.reasons) for _, timing in line.points],
    )


def _bars(
    rows: Sequence[tuple[str, float, str, str]],
    tints: str | Sequence[str],
    width_px: int,
    alt: str,
    intervals: Sequence[tuple[float, float]] = (),
    hollow: Sequence[bool] = (),
) -> Drawing:
    """One (name, value, value as text, tooltip) per row. The name is above its bar, so that both fit on a phone."""
    pitch = 40
    figure, axes = empty_figure(width_px, pitch * len(rows) + 8)
    set_margins(figure, axes, 1, 112, 2, 2)
    values = [value for _, value, _, _ in rows]
    axes.set_xlim(0, max([*values, *(high for _, high in intervals)], default=1) * 1.02 or 1)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_axis_off()
    drawing = Drawing(figure, alt)
    for index, (name, value, said, words) in enumerate(rows):
        tint = tints if isinstance(tints, str) else tints[index]
        empty = bool(hollow) and hollow[index]
        y = index + 0.2
        axes.barh(y, value, height=0.32, color="none" if empty else tint, ec=tint, lw=1.4 if empty else 0, alpha=0.9)
        end = value
        if intervals:
            low, end = intervals[index]
            axes.plot((low, end), (y, y), color=colour("ink"), lw=1.2, solid_capstyle="butt")
        say(axes, 0, y, short(name, 48), xytext=(0, 9), va="bottom", color=colour("ink"), fontsize=12)
        say(axes, max(value, end), y, said, xytext=(6, 0), va="center", color=colour("muted"), annotation_clip=False)
        drawing.tip_bar(axes, 0, axes.get_xlim()[1], index, 0.9, words)
    return drawing
