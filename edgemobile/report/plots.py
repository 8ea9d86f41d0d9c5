"""The figures of a report, drawn by matplotlib and made into SVG that a page can hold.

Colours are drawn light and become CSS variables, so that a page can be dark; text stays text, in the page's own font.
What a figure shows under the pointer are `tips`: places in pixels with words, laid over the SVG as shapes that cannot
be seen. Every figure is drawn twice, for a desk and for a phone, since text must not shrink with the picture.

Colour-blind safe by Okabe and Ito's palette, and never by colour alone: ONNX is square and dashed, TFLite round.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from edgemobile.errors import require
from edgemobile.records import Case
from edgemobile.report.findings import Accuracy, Artifact, Compared, Line, Timing
from edgemobile.report.words import case_words, db, megabytes, ms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "Drawing",
    "front",
    "latency_plot",
    "layer_plot",
    "op_groups",
    "op_plot",
    "pareto_plot",
    "scored_points",
    "size_plot",
    "svg",
]

# name -> (on light paper, on dark paper)
COLOURS = {
    "ink": ("#1d2329", "#e6e9ec"),
    "muted": ("#66707a", "#98a2ad"),
    "rule": ("#d9dee3", "#343b43"),
    "paper": ("#fffffe", "#15191d"),
    "float32": ("#1f6fb4", "#6fb5f0"),
    "int8": ("#c4500a", "#f79a5b"),
    "float16": ("#0a7a60", "#4fc9a5"),
    "dynamic": ("#96487f", "#dc9bcb"),
    "other": ("#5a646e", "#aab3bc"),
    "bad": ("#b00020", "#ff7583"),
    "front": ("#8b959f", "#79838e"),
}
_SVG = "http://www.w3.org/2000/svg"
_DPI = 72  # a point is a pixel
_NARROW = 500
_HIT_PX = 9
_OPS, _ROWS = 8, 24


@dataclass
class Drawing:
    """A figure, what it says in a sentence, and its tips: (x, y, width, height) in pixels from the top, and words."""

    figure: Figure
    alt: str
    tips: list[tuple[tuple[float, float, float, float], str]] = field(default_factory=list)

    def tip(self, axes: Axes, x: float, y: float, words: str, radius: float = _HIT_PX) -> None:
        """Over a point in data coordinates."""
        px, py = axes.transData.transform((x, y))
        self.tips.append(((px - radius, self._top(py) - radius, 2 * radius, 2 * radius), words))

    def tip_bar(self, axes: Axes, left: float, right: float, y: float, height: float, words: str) -> None:
        """Over a horizontal bar in data coordinates; never thinner than a finger's aim."""
        (x0, y0), (x1, y1) = axes.transData.transform([(left, y - height / 2), (right, y + height / 2)])
        self.tips.append(((x0, self._top(max(y0, y1)), max(x1 - x0, 6), abs(y1 - y0)), words))

    def _top(self, y_px: float) -> float:
        return float(self.figure.bbox.height - y_px)


def colour(name: str) -> str:
    return COLOURS.get(name, COLOURS["other"])[0]


def _style(format: str) -> dict[str, Any]:
    return {"marker": "s", "linestyle": (0, (4, 2))} if format == "onnx" else {"marker": "o", "linestyle": "-"}


def _figure(width_px: int, height_px: int) -> tuple[Figure, Axes]:
    require("matplotlib", "report")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_px / _DPI, height_px / _DPI), dpi=_DPI)
    figure.patch.set_visible(False)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(colour("rule"))
    axes.tick_params(colors=colour("muted"), labelsize=11, length=0, pad=6)
    axes.set_axisbelow(True)
    return figure, axes


def _margins(figure: Figure, axes: Axes, left: float, right: float, top: float, bottom: float) -> None:
    """In pixels."""
    width, height = figure.bbox.width, figure.bbox.height
    axes.set_position((left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height))


def _say(axes: Axes, x: float, y: float, text: str, **how: Any) -> Any:
    """Text that stands for itself: a `$` of a file's name is no formula."""
    return axes.annotate(
        text, (x, y), **{"textcoords": "offset points", "xytext": (0, 0), "fontsize": 11, "parse_math": False, **how}
    )


def _short(name: str, most: int) -> str:
    """The middle goes: what tells files apart is at the ends."""
    name = "".join(char if char.isprintable() else "?" for char in name)
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most - most // 2) :]}"


# ---- accuracy against latency ---------------------------------------------------------------------------------------


def scored_points(line: Line) -> list[tuple[Artifact, Timing, Accuracy]]:
    """The points of a line whose accuracy is of the same images: of several sets, that of the most artifacts."""
    found = [(artifact, timing, artifact.accuracy_on(line.device)) for artifact, timing in line.points]
    known = [(artifact, timing, accuracy) for artifact, timing, accuracy in found if accuracy is not None]
    sets = [accuracy.data for _, _, accuracy in known]
    chosen = max(dict.fromkeys(sets), key=sets.count, default=None)
    return [one for one in known if one[2].data == chosen]


def front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, gain) that no other beats in both, by rising cost."""
    best, kept = -math.inf, []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if gain > best:
            best = gain
            kept.append((cost, gain))
    return kept


def pareto_plot(line: Line, width_px: int) -> Drawing:
    """Top-1 against ms, or against millions of instructions, with both intervals; `scored_points` must not be empty."""
    points = scored_points(line)
    figure, axes = _figure(width_px, 300 if width_px > _NARROW else 270)
    _margins(figure, axes, 44, 20, 30, 46)
    drawing = Drawing(figure, f"Top-1 accuracy against {'instructions' if line.emulated else 'latency'}, {line.device}")
    spots = [(timing.value, 100 * accuracy.top1) for _, timing, accuracy in points]
    _limits(axes, points)
    kept = front(spots)
    if len(kept) > 1:
        axes.step(*zip(*kept, strict=True), where="post", color=colour("front"), lw=1.2, zorder=2)
    for (artifact, timing, accuracy), (x, y) in zip(points, spots, strict=True):
        tint, marker = colour(artifact.precision), _style(artifact.format)["marker"]
        low, high = timing.interval
        axes.plot((low, high), (y, y), color=tint, lw=1.4, alpha=0.5, zorder=3)
        axes.plot((x, x), (100 * accuracy.low, 100 * accuracy.high), color=tint, lw=1.4, alpha=0.28, zorder=3)
        fill = colour("paper") if timing.reasons else tint
        axes.plot(x, y, marker, ms=8, mfc=fill, mec=tint, mew=2, zorder=4)
        drawing.tip(axes, x, y, case_words(artifact, timing), radius=11)
    _label_points(axes, [(_marked(one[0], one[1], width_px), colour(one[0].precision)) for one in points], spots)
    axes.grid(axis="y", color=colour("rule"), lw=0.8)
    axes.set_xlabel(
        "million instructions an inference (emulated; not time)" if line.emulated else "median latency, ms",
        color=colour("muted"), fontsize=11, labelpad=6,
    )
    _say(axes, 0, 1, "top-1, %", xycoords="axes fraction", xytext=(-36, 14), color=colour("muted"))
    return drawing


def _marked(artifact: Artifact, timing: Timing, width_px: int) -> str:
    return _short(artifact.name, 24 if width_px <= _NARROW else 34) + (" (unstable)" if timing.reasons else "")


def _limits(axes: Axes, points: Sequence[tuple[Artifact, Timing, Accuracy]]) -> None:
    """From zero on the axis of cost, so that twice as far is twice as slow; accuracy where it is."""
    right = max(max(timing.interval[1], timing.value) for _, timing, _ in points)
    low, high = min(100 * one.low for _, _, one in points), max(100 * one.high for _, _, one in points)
    spare = max((high - low) * 0.12, 0.5)
    axes.set_xlim(0, right * 1.08)
    axes.set_ylim(max(low - spare, -2), min(high + spare, 102))


def _label_points(axes: Axes, labels: Sequence[tuple[str, str]], spots: Sequence[tuple[float, float]]) -> None:
    """Each label beside its point, in the first of eight places where it meets nothing, and inside of the axes."""
    box = axes.get_window_extent()
    dots = [tuple(axes.transData.transform(spot)) for spot in spots]
    taken = [(x - 8, y - 8, x + 8, y + 8) for x, y in dots]
    for (text, tint), (x, y), spot in zip(labels, dots, spots, strict=True):
        wide = 6.1 * len(text)
        places = [(dx, dy) for dy in (0, 16, -16, 32, -32, 48, -48) for dx in (12, -12 - wide, -wide / 2)][:]
        places = [(dx, dy) for dx, dy in places if dy or dx in (12, -12 - wide)]

        def cost(place: tuple[float, float], x: float = x, y: float = y, wide: float = wide) -> float:
            left, low = x + place[0], y + place[1] - 6
            own = (left, low, left + wide, low + 12)
            outside = max(0, box.x0 - left) + max(0, left + wide - box.x1 - 16)
            outside += max(0, box.y0 - low) + max(0, low + 12 - box.y1 - 10)
            return 50 * outside + sum(map(lambda other: _overlap(own, other), taken)) + 0.2 * abs(place[1])

        dx, dy = min(places, key=cost)
        taken.append((x + dx, y + dy - 6, x + dx + wide, y + dy + 6))
        _say(axes, *spot, text, xytext=(dx, dy), va="center", color=tint, fontsize=11, zorder=5)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


# ---- the error of each layer ----------------------------------------------------------------------------------------


def layer_plot(compared: Sequence[Compared], width_px: int) -> Drawing:
    """Drift of each layer in dB, a line a file, in the reference's order; layers that part are crossed."""
    names = list(dict.fromkeys(layer.name for one in compared for layer in one.file.layers))
    place = {name: index for index, name in enumerate(names)}
    finite = [layer.sqnr_db for one in compared for layer in one.file.layers if math.isfinite(layer.sqnr_db)]
    top = max([*finite, 20.0]) + 8
    figure, axes = _figure(width_px, 340 if width_px > _NARROW else 300)
    _margins(figure, axes, 36, 20 if width_px <= _NARROW else 190, 30, 74)
    axes.set_xlim(-0.5, max(len(names) - 0.5, 1))
    axes.set_ylim(min([*finite, 0.0]), top)
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
            if layer.parted:
                axes.plot(x, y, "X", ms=10, mfc=colour("bad"), mec=colour("paper"), mew=1, zorder=5)
            drawing.tip(axes, x, y, _layer_words(one, layer), radius=5)
        if first := one.file.first_parted:
            x, y = place[first.name], _at_most(first.sqnr_db, top) or 0
            right = x > len(names) * 0.6
            _say(axes, x, y, _short(first.name, 30), xytext=(-10 if right else 10, -12), ha="right" if right else "left",
                 color=colour("bad"), zorder=6)
        ends.append((drawn[-1][1], _file_name(one), tint))
    _label_ends(axes, ends, len(names) - 1, narrow=width_px <= _NARROW)
    ticks = _stage_ticks(names, 9 if width_px <= _NARROW else 22)
    axes.set_xticks([index for index, _ in ticks], [_short(name, 16) for _, name in ticks], rotation=60, ha="right",
                    rotation_mode="anchor", fontsize=10, parse_math=False)
    axes.grid(axis="y", color=colour("rule"), lw=0.8)
    _say(axes, 0, 1, "drift from the reference, SQNR in dB (higher is nearer)", xycoords="axes fraction",
         xytext=(-28, 14), color=colour("muted"))
    return drawing


def _at_most(value: float, top: float) -> float | None:
    """inf, which is equality, at the top; None for nan and -inf, which cannot be drawn."""
    return None if math.isnan(value) or value == -math.inf else min(value, top)


def _layer_words(one: Compared, layer: Any) -> str:
    lines = [f"{layer.name} ({layer.op})", f"{_file_name(one)} on {one.file.place}", f"drift {db(layer.sqnr_db)}"]
    if layer.own_db is not None:
        lines.append(f"by itself {db(layer.own_db)}")
    if layer.lsb is not None:
        lines.append(f"at most {layer.lsb} steps apart")
    return "\n".join([*lines, f"parts by its {layer.parted}"] if layer.parted else lines)


def _file_name(one: Compared) -> str:
    return one.file.file.replace("\\", "/").rpartition("/")[2]


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], x: float, *, narrow: bool) -> None:
    """Names at the ends of the lines, pushed apart; above one another in the corner where there is no room beside."""
    if narrow:
        return
    last = math.inf
    for y, name, tint in sorted(ends, reverse=True):
        wanted = axes.transData.transform((x, y))[1]
        at = min(wanted, last - 14)
        last = at
        _say(axes, x, y, _short(name, 28), xytext=(10, at - wanted), va="center", color=tint)


def _stage_ticks(names: Sequence[str], most: int) -> list[tuple[int, str]]:
    """Where a stage begins, by the first two parts of its name; as many as there is room for."""
    ticks: list[tuple[int, str]] = []
    for index, name in enumerate(names):
        stage = ".".join(name.split(".")[:2])
        if not ticks or ticks[-1][1] != stage:
            ticks.append((index, stage))
    step = math.ceil(len(ticks) / most)
    return ticks[::step]


# ---- bars: where the time goes, sizes -------------------------------------------------------------------------------


def op_plot(case: Case, groups: Sequence[tuple[str, float, str]], unit: str, width_px: int) -> Drawing:
    """(name, amount, words) as bars with their share, the largest first; `unit` is "us" or "M instructions"."""
    whole = sum(amount for _, amount, _ in groups) or 1.0
    rows = [(name, amount, f"{amount / whole:.1%}", f"{name}\n{amount:,.0f} {unit}, {amount / whole:.1%}\n{words}".strip())
            for name, amount, words in groups]
    return _bars(rows, colour(case.precision), width_px, f"Where the {'time' if unit == 'µs' else 'work'} goes")


def op_groups(case: Case) -> list[tuple[str, float, str]]:
    """Times in µs by kind of op, the rest as one."""
    kinds: dict[str, list[float]] = {}
    for op in case.profile or ():
        kinds.setdefault(op.op, []).append(op.ns / 1000)
    ranked = sorted(kinds.items(), key=lambda item: -sum(item[1]))
    shown = [(kind, sum(us), f"{len(us)} op{'s' if len(us) > 1 else ''}") for kind, us in ranked[:_OPS]]
    rest = [us for _, us in ranked[_OPS:]]
    if rest:
        shown.append((f"{len(rest)} more kinds", sum(map(sum, rest)), f"{sum(map(len, rest))} ops"))
    return shown


def size_plot(artifacts: Sequence[Artifact], width_px: int) -> Drawing:
    """Bytes on disk, a bar a file."""
    rows = [
        (one.name, one.bytes / 2**20, megabytes(one.bytes), f"{one.name}\n{one.bytes:,} bytes")
        for one in artifacts if one.bytes is not None
    ]
    tints = [colour(one.precision) for one in artifacts if one.bytes is not None]
    return _bars(rows, tints, width_px, "Size on disk")


def latency_plot(line: Line, width_px: int) -> Drawing:
    """Medians with their intervals, a row a case."""
    rows = [
        (artifact.name + (" (unstable)" if timing.reasons else ""), timing.value,
         f"{timing.value:.3f} M" if line.emulated else f"{ms(timing.value)} ms", case_words(artifact, timing))
        for artifact, timing in line.points
    ]
    tints = [colour(artifact.precision) for artifact, _ in line.points]
    drawing = _bars(rows, tints, width_px, f"{'Instructions' if line.emulated else 'Median latency'}, {line.device}",
                    [timing.interval for _, timing in line.points], [bool(timing.reasons) for _, timing in line.points])
    return drawing


def _bars(
    rows: Sequence[tuple[str, float, str, str]],
    tints: str | Sequence[str],
    width_px: int,
    alt: str,
    intervals: Sequence[tuple[float, float]] = (),
    hollow: Sequence[bool] = (),
) -> Drawing:
    """(name, value, value as said, tip) a row. The name stands above its bar, so that phones have room for both."""
    pitch = 40
    figure, axes = _figure(width_px, pitch * len(rows) + 8)
    _margins(figure, axes, 1, 96, 2, 2)
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
        _say(axes, 0, y, _short(name, 48), xytext=(0, 9), va="bottom", color=colour("ink"), fontsize=12)
        _say(axes, max(value, end), y, said, xytext=(6, 0), va="center", color=colour("muted"), annotation_clip=False)
        drawing.tip_bar(axes, 0, axes.get_xlim()[1], index, 0.9, words)
    return drawing


# ---- SVG ------------------------------------------------------------------------------------------------------------


def svg(drawing: Drawing, name: str) -> str:
    """An <svg> element whose colours are CSS variables and whose tips are shapes with a <title>.

    `name` is unique in a page: ids inside of the picture hang on it.
    """
    import matplotlib

    buffer = io.StringIO()
    settings = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name})
    with settings, warnings.catch_warnings(action="ignore"):  # of glyphs that matplotlib's own font lacks
        drawing.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(buffer.getvalue())
    _strip(root)
    width, height = drawing.figure.bbox.width, drawing.figure.bbox.height
    root.attrib.update(width=f"{width:g}", height=f"{height:g}", viewBox=f"0 0 {width:g} {height:g}", role="img")
    root.set("aria-label", drawing.alt)
    _add_tips(root, drawing)
    return _with_variables(ElementTree.tostring(root, encoding="unicode"))


def _strip(root: ElementTree.Element) -> None:
    """What would reach out of the picture: its rules for `*`, its metadata, ids nothing in it refers to."""
    for parent in list(root.iter()):
        for child in [one for one in parent if one.tag.endswith(("}metadata", "}style", "}title"))]:
            parent.remove(child)
        if parent.tag == f"{{{_SVG}}}g":
            parent.attrib.pop("id", None)


def _add_tips(root: ElementTree.Element, drawing: Drawing) -> None:
    group = ElementTree.SubElement(root, f"{{{_SVG}}}g", {"class": "tips"})
    few = len(drawing.tips) <= _ROWS
    for (x, y, width, height), words in drawing.tips:
        attributes = {"class": "tip", "x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}"}
        if few:
            attributes["tabindex"] = "0"
        shape = ElementTree.SubElement(group, f"{{{_SVG}}}rect", attributes)
        ElementTree.SubElement(shape, f"{{{_SVG}}}title").text = _printable(words)


def _printable(words: str) -> str:
    """Without what XML cannot hold."""
    return "".join(char for char in words if char == "\n" or char.isprintable())


def _with_variables(text: str) -> str:
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    # The page's own font; matplotlib's was only measured with.
    return re.sub(r"font-family: [^;\"]+; ?", "", text)
