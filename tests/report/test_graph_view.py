"""The picture of a file's layers: a box for each, with its colour, its cost and its inputs."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from edgemobile.comparison.layers import LayerParity
from edgemobile.report.graph_view import graph_view


def _layer(name: str, sqnr_db: float = 50.0, *inputs: str, macs: int = 0, op: str = "conv2d") -> LayerParity:
    return LayerParity(name, op, sqnr_db, 0.1, 1.0, macs=macs, inputs=inputs)


NET = (
    _layer("input", float("inf"), op="input"),
    _layer("features.0.1", 45.0, "input", macs=1000),
    _layer("features.1.a", 35.0, "features.0.1", macs=250),
    _layer("features.1.add", 25.0, "features.1.a", "features.0.1", op="add"),
)


def _rects(svg: str, of: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(svg)
    return [one for one in root.iter("{http://www.w3.org/2000/svg}rect") if re.search(of, one.attrib.get("fill", ""))]


def _boxes(svg: str) -> list[ElementTree.Element]:
    return [one for one in _rects(svg, "--db") if one.attrib["height"] == "24"]


@pytest.mark.parametrize("width_px", [960, 344])
def test_each_layer_has_a_box_of_its_colour_inside_the_picture(width_px: int) -> None:
    layers = (*NET, *(_layer(f"features.2.{index}", float(index)) for index in range(30)))
    svg = graph_view(layers, width_px)
    boxes = _boxes(svg)
    assert len(boxes) == len(layers)
    assert [one.attrib["fill"] for one in boxes[:4]] == [f"var(--db{low})" for low in (60, 40, 30, 20)]
    places = [(int(one.attrib["x"]), int(one.attrib["y"])) for one in boxes]
    assert len(set(places)) == len(places)
    height = int(ElementTree.fromstring(svg).attrib["height"])
    assert all(0 <= x <= width_px - 62 and y + 24 < height for x, y in places)


def test_a_bar_is_the_share_of_the_most_macs() -> None:
    bars = [one for one in _rects(graph_view(NET, 960), "--muted") if one.attrib["height"] == "4"]
    assert [float(one.attrib["width"]) for one in bars] == [62.0, 15.5]
    assert "0.00 M MACs, 80.0 %" in graph_view(NET, 960)


def test_what_a_layer_reads_is_joined_to_it() -> None:
    paths = re.findall(r'<path d="([^"]+)"', graph_view(NET, 960))
    # From the layer before it, and from another row, over the boxes.
    assert paths == ["M166 152h8", "M96 130H205V140"]
    unjoined = (*NET[:3], replace(NET[3], inputs=("features.1.a",)))
    assert len(re.findall("<path", graph_view(unjoined, 960))) == 1


@pytest.mark.parametrize("sqnr_db", [float("nan"), float("-inf")])
def test_a_layer_without_a_signal_has_the_colour_of_the_worst(sqnr_db: float) -> None:
    (box,) = _boxes(graph_view([_layer("x", sqnr_db)], 960))
    assert box.attrib["fill"] == "var(--db0)"


def test_a_hostile_name_is_text() -> None:
    name = "</svg><script>alert(1)</script>\x01&"
    layer = replace(_layer(name), op=name, diverges_in="arithmetic")
    text = "".join(ElementTree.fromstring(graph_view([layer], 344)).itertext())
    assert "</svg><script>alert(1)</script>&" in text
    assert 'stroke="var(--bad)"' in graph_view([layer], 344)
