"""[sweep] of edgemobile.toml as points, and the Pareto fronts of rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.gate.config import LabelledImages, ModelEntry
from edgemobile.gate.measured import Scored
from edgemobile.sweep.config import load_sweep
from edgemobile.sweep.table import Row, Sweep
from edgemobile.util.config_file import read_config

# ---- the grid -------------------------------------------------------------------------------------------------------


def test_the_points_are_all_combinations_and_only_int8_has_later_recipes(grid) -> None:
    path = grid(
        'models = ["v2", "v3-small"]\nwidths = [0.5, 1.0]\nresolutions = [96, 128]\nrecipes = ["default", "minmax"]\n'
        'weights = "runs/{model}-{width}-{res}.pth"'
    )
    points = load_sweep(read_config(path)).points
    assert len(points) == len({point.name for point in points}) == 16
    first, second = points[:2]
    assert (first.model, first.width, first.res, first.recipe) == ("v2", 0.5, 96, "default")
    assert first.weights == str(path.parent / "runs/v2-0.5-96.pth")
    assert (first.precisions, second.precisions) == (("float32", "int8"), ("int8",))
    assert points[4].weights == str(path.parent / "runs/v2-1-96.pth")


def test_another_width_does_not_rename_the_points_there_are(grid) -> None:
    alone = load_sweep(read_config(grid('models = ["v2"]'))).points
    more = load_sweep(read_config(grid('models = ["v2"]\nwidths = [1.0, 0.5]'))).points
    assert more[0] == alone[0]
    assert more[1].name == "v2-w0.5"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("widths = [0.5]", 3, "needs models"),
        ('models = ["v9"]', 4, "'v9' is not a model"),
        ('models = ["net.onnx"]', 4, "must be models to export"),
        ('models = ["v2"]\nrecipe = "minmax"', 5, "unknown key"),
        ('models = ["v2"]\nrecipes = ["nonesuch"]', 5, "nonesuch"),
        ('models = ["v2"]\nweights = "{modle}.pth"', 5, "{modle} is not replaced"),
        ('models = ["v2"]\nprecisions = ["float32"]\nrecipes = ["minmax"]', 6, "has no effect"),
        ('models = ["v2"]\naccuracy = { data = "nowhere" }', 5, "nowhere does not exist"),
        ('models = ["v2"]\naccuracy = { limit = 3 }', 5, "needs data"),
        ('models = ["v2"]\ndevices = ["no-such-board"]', 5, "no-such-board"),
        ('models = ["a.b:net"]\nwidths = [0.5]', 5, "a.b:net has only its own width"),
    ],
)
def test_a_mistake_is_refused_with_its_line(grid, text: str, line: int, said: str) -> None:
    with pytest.raises(EdgemobileError, match=rf"edgemobile.toml:{line}: ") as error:
        load_sweep(read_config(grid(text)))
    assert said in str(error.value)


# ---- the front ------------------------------------------------------------------------------------------------------


def _row(name: str, bytes: int, correct: int) -> Row:
    return Row(ModelEntry(name, "v2"), "onnx", "int8", Path("a.onnx"), name, bytes, Scored("", 10, correct, None, 0))


def test_the_front_has_what_no_other_beats_and_equal_rows() -> None:
    rows = (
        _row("large", 30, 9),
        _row("worse", 20, 5),
        _row("a", 10, 6),
        _row("b", 10, 6),
        Row(ModelEntry("failed", "v2"), "", ""),
    )
    found = Sweep("edgemobile.toml", rows, (), LabelledImages(data=Path("d")))
    assert [row.point.name for row in found.fronts["size"]] == ["a", "b", "large"]
    assert found.on_fronts(rows[1]) == ()
    assert found.on_fronts(rows[0]) == ("size",)
