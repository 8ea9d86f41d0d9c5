"""A figure for the page: matplotlib's SVG, with colours as CSS variables, and tooltips.

Colours are drawn light and become CSS variables, so that a page can be dark; text stays text, in the page's own font.
`tips` are the tooltips of a figure: areas in pixels with text, added to the SVG as invisible shapes.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from edgemobile.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "NARROW_PX", "Drawing", "colour", "empty_figure", "say", "set_margins", "short", "svg"]

# name -> (on light paper, on dark paper)
COLOURS = {
    "ink": ("#1d2329", "#e6e9ec"),
    "muted": ("#66707a", "#98a2ad"),
    "rule": ("#d9dee3", "#343b43"),
    "paper": ("#fffffe", "#15191d"),
    "float32": ("#1f6fb4", "#6fb5f0"),
    "int8": ("#c4500a", "#f79a5b"),
    "float16": ("#0a7a60", "#4fc9a5"),
    "weight-only": ("#96487f", "#dc9bcb"),
    "other": ("#5a646e", "#aab3bc"),
    "bad": ("#b00020", "#ff7583"),
    "front": ("#8b959f", "#79838e"),
    # layers by their SQNR: the less there is, the stronger
    "db60": ("#e9edf0", "#2b3138"),
    "db40": ("#f7e3c6", "#44392c"),
    "db30": ("#f3c894", "#66482a"),
    "db20": ("#e39a4c", "#8f5a1c"),
    "db0": ("#a8480a", "#f2a45a"),
}
_SVG = "http://www.w3.org/2000/svg"
_DPI = 72  # a point is a pixel
NARROW_PX = 500  # maximum width of a phone
_HIT_PX = 9
_MOST_STOPS = 24  # more tooltips are too many to step through with the keyboard


@dataclass
class Drawing:
    """A figure, its description in a sentence, and its tooltips: (x, y, width, height) in pixels from the top, and
    text.
    """

    figure: Figure
    alt: str
    tips: list[tuple[tuple[float, float, float, float], str]] = field(default_factory=list)

    def tip(self, axes: Axes, x: float, y: float, words: str, radius: float = _HIT_PX) -> None:
        """Add a tooltip over a point in data coordinates."""
        px, py = axes.transData.transform((x, y))
        self.tips.append(((px - radius, self._top(py) - radius, 2 * radius, 2 * radius), words))

    def tip_bar(self, axes: Axes, left: float, right: float, y: float, height: float, words: str) -> None:
        """Add a tooltip over a horizontal bar in data coordinates, at least as high as a finger can hit."""
        (x0, y0), (x1, y1) = axes.transData.transform([(left, y - height / 2), (right, y + height / 2)])
        self.tips.append(((x0, self._top(max(y0, y1)), max(x1 - x0, 6), abs(y1 - y0)), words))

    def _top(self, y_px: float) -> float:
        return float(self.figure.bbox.height - y_px)


def colour(name: str) -> str:
    return COLOURS.get(name, COLOURS["other"])[0]


def empty_figure(width_px: int, height_px: int) -> tuple[Figure, Axes]:
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


def set_margins(figure: Figure, axes: Axes, left: float, right: float, top: float, bottom: float) -> None:
    """In pixels."""
    width, height = figure.bbox.width, figure.bbox.height
    axes.set_position((left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height))


def say(axes: Axes, x: float, y: float, text: str, **how: Any) -> Any:
    """Literal text: a `$` in a file's name does not start a formula."""
    return axes.annotate(
        text, (x, y), **{"textcoords": "offset points", "xytext": (0, 0), "fontsize": 11, "parse_math": False, **how}
    )


def short(name: str, most: int) -> str:
    """Shorten the middle of a name: file names differ at their ends."""
    name = "".join(char if char.isprintable() else "?" for char in name)
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most - most // 2) :]}"


# ---- SVG ------------------------------------------------------------------------------------------------------------


def svg(drawing: Drawing, name: str) -> str:
    """An <svg> element with CSS variables as colours and a shape with a <title> for each tooltip.

    `name` is unique in a page and part of the ids in the picture.
    """
    import matplotlib

    buffer = io.StringIO()
    settings = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name})
    with settings, warnings.catch_warnings(action="ignore"):  # about glyphs that matplotlib's own font lacks
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
    """Remove what affects the page: rules for `*`, metadata, and ids that are not used in the picture."""
    for parent in list(root.iter()):
        for child in [one for one in parent if one.tag.endswith(("}metadata", "}style", "}title"))]:
            parent.remove(child)
        if parent.tag == f"{{{_SVG}}}g":
            parent.attrib.pop("id", None)


def _add_tips(root: ElementTree.Element, drawing: Drawing) -> None:
    group = ElementTree.SubElement(root, f"{{{_SVG}}}g", {"class": "tips"})
    few = len(drawing.tips) <= _MOST_STOPS
    for (x, y, width, height), words in drawing.tips:
        attributes = {
            "class": "tip",
            "x": f"{x:.1f}",
            "y": f"{y:.1f}",
            "width": f"{width:.1f}",
            "height": f"{height:.1f}",
        }
        if few:
            attributes["tabindex"] = "0"
        shape = ElementTree.SubElement(group, f"{{{_SVG}}}rect", attributes)
        ElementTree.SubElement(shape, f"{{{_SVG}}}title").text = _printable(words)


def _printable(words: str) -> str:
    """Without characters that XML does not allow."""
    return "".join(char for char in words if char == "\n" or char.isprintable())


def _with_variables(text: str) -> str:
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    # Use the page's font; matplotlib's was only for the layout.
    return re.sub(r"font-family: [^;\"]+; ?", "", text)
