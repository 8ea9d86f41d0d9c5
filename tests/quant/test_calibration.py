"""A calibration can be shared: it keeps its statistics for later recipes, and the resulting integers are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.graph import Graph
from edgemobile.images.samples import from_noise
from edgemobile.loading.model import Model, load_model
from edgemobile.lower import lower
from edgemobile.quant.calibration import Calibration, calibrate
from edgemobile.quant.calibration_file import read_calibration, write_calibration
from edgemobile.quant.ptq import ptq, quantize
from edgemobile.quant.recipe import DEFAULT, Rule
from edgemobile.quant.recipes import RECIPES
from edgemobile.quant.sensitivity import search
from edgemobile.quant.torch_graph import TorchGraph
from edgemobile.util.torch_threads import torch_threads

_FLOAT = replace(DEFAULT, rules=(Rule("features.4.*", precision="float"),))
_RECIPES = (
    DEFAULT,
    RECIPES["few-images"],
    RECIPES["plain"],
    RECIPES["per-tensor"],
    replace(DEFAULT, hswish="fused"),
    replace(DEFAULT, noise_optimal_scaling=False),
    replace(DEFAULT, equalize=0.5),
    replace(DEFAULT, squeeze_headroom=2.0),
    _FLOAT,
)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("v3-small", "bundled", res=32)


@pytest.fixture(scope="module")
def graph(model: Model) -> Graph:
    return lower(model.program, "v3-small")


@pytest.fixture
def calibration(model: Model, graph: Graph) -> Calibration:
    images = from_noise(model.preprocess, calibration=6, check=1, seed=0).calibration
    return calibrate(graph, [images[:4], images[4:]])


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each forward pass over a whole graph."""
    seen: list[int] = []
    run = TorchGraph.__call__
    monkeypatch.setattr(TorchGraph, "__call__", lambda self, x, *tap: seen.append(len(x)) or run(self, x, *tap))
    return seen


def _same(found: Graph, wanted: Graph) -> bool:
    return found.tensors.keys() == wanted.tensors.keys() and all(
        np.array_equal(found[name].data, tensor.data)
        if tensor.data is not None
        else tensor.qparams is None or ((held := found[name].qparams) is not None and held.equals(tensor.qparams))
        for name, tensor in wanted.tensors.items()
    )


def test_recipes_give_the_same_integers_with_a_shared_calibration(calibration: Calibration) -> None:
    """If the key of a statistic lacks a setting, a recipe gets the statistic of another recipe."""
    together = [quantize(calibration, recipe).graph for recipe in _RECIPES]
    alone = [ptq(calibration.graph, calibration.batches, recipe).graph for recipe in _RECIPES]
    assert [_same(*pair) for pair in zip(together, alone, strict=True)] == [True] * len(_RECIPES)
    assert not _same(together[0], together[1])


def test_a_second_recipe_only_computes_missing_statistics(calibration: Calibration, passes: list[int]) -> None:
    quantize(calibration, DEFAULT)
    assert passes == [6, 6, 4, 2], "ranges and gradients of the channels, then ranges of both batches"
    for recipe, more in (
        (replace(DEFAULT, rules=(Rule("features.1.*", precision="float"),)), []),
        (RECIPES["per-tensor"], []),
        (replace(DEFAULT, refit=0, bias_correction=False, squeeze_headroom=2.0), []),
        (replace(DEFAULT, output_observer="minmax"), [4, 2]),
        (replace(DEFAULT, equalize=0.5), [4, 2]),
        (replace(DEFAULT, split_gates="stem"), [6, 6, 4, 2]),
        # Its hard-swishes stay one op each, which is another graph.
        (_FLOAT, [6, 6, 4, 2]),
    ):
        passes.clear()
        quantize(calibration, recipe)
        assert passes == more, recipe


def test_a_search_calibrates_once(calibration: Calibration, passes: list[int]) -> None:
    graph, tried = calibration.graph, []

    def evaluate(asked: Graph, images: np.ndarray) -> np.ndarray:
        """int8 gives the answers of float once four nodes are in float."""
        tried.append(asked)
        return np.tile(np.array([1, 0] if asked is graph or len(tried) > 5 else [0, 1], np.float32), (len(images), 1))

    found = search(calibration, images=calibration.images[:2], max_drop=0.0, evaluate=evaluate)
    assert len(found.kept_float) == 4
    assert passes == [6, 6, 4, 2, 6], "once for all five tries, and once for the ranking's gradients"


def test_a_calibration_file_round_trips(calibration: Calibration, passes: list[int], tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    wanted, mixed = quantize(calibration, DEFAULT), quantize(calibration, _FLOAT)
    write_calibration(calibration, path)
    passes.clear()
    held = read_calibration(path, calibration.graph)
    found = quantize(held, DEFAULT)
    assert _same(quantize(held, _FLOAT).graph, mixed.graph)
    assert passes == []
    assert _same(found.graph, wanted.graph)
    assert found.notes == wanted.notes
    assert [len(batch) for batch in held.batches] == [4, 2]
    assert _same(quantize(held, RECIPES["few-images"]).graph, quantize(calibration, RECIPES["few-images"]).graph)


def test_files_of_another_graph_are_refused(calibration: Calibration, tmp_path: Path) -> None:
    path, graph = tmp_path / "mine.npz", calibration.graph
    write_calibration(calibration, path)
    name, first = next(iter(graph.constants.items()))
    assert first.data is not None
    other = graph.replaced(tensors=[replace(first, name=name, data=first.data * 2)])
    with pytest.raises(
        EdgemobileError, match=r"mine.npz is a calibration of a graph with other layers .* Calibrate again"
    ):
        read_calibration(path, other)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(EdgemobileError, match=r"mine.npz is not a calibration"):
        read_calibration(path, graph)
    np.savez(path, about=np.array('{"version": 3}'), images=calibration.images)
    with pytest.raises(EdgemobileError, match="calibration version 3 is not known"):
        read_calibration(path, graph)
    with pytest.raises(EdgemobileError, match=r"cannot read the calibration .*absent.npz: No such file"):
        read_calibration(tmp_path / "absent.npz", graph)
    with pytest.raises(EdgemobileError, match="cannot write the calibration"):
        write_calibration(calibration, tmp_path / "absent" / "mine.npz")


def test_invalid_images_are_refused_immediately(graph: Graph) -> None:
    with pytest.raises(EdgemobileError, match="the calibration set is empty"):
        calibrate(graph, [])


def test_the_integers_do_not_depend_on_the_number_of_threads(graph: Graph, calibration: Calibration) -> None:
    """The order of a sum changes its last bit, which could change the factors of equalization."""
    found = []
    for threads in (1, 2):
        with torch_threads(threads):
            found.append(ptq(graph, calibration.batches).graph)
    assert _same(*found)
