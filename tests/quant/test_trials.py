"""Trials keep the changes to a recipe that help on held-out images, and report the gain of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import edgemobile.quant.trials as trials
from edgemobile.errors import EdgemobileError
from edgemobile.graph import Graph
from edgemobile.graph.interpreter import run_real
from edgemobile.lower import lower
from edgemobile.metrics.measures import sqnr_db
from edgemobile.quant.calibration import Calibration, calibrate, held_out
from edgemobile.quant.ptq import quantize
from edgemobile.quant.recipe import Recipe, Rule
from edgemobile.quant.recipes import RECIPES
from edgemobile.quant.trials import Trial, choose, with_float_stem

_PLAIN = Recipe(rules=(Rule(observer="minmax"),), split_gates="none", equalize=0, refit=0, bias_correction=False)


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    ).eval()
    return lower(torch.export.export(layers, (torch.zeros(1, 3, 8, 8),)), "net")


@pytest.fixture(scope="module")
def calibration(graph: Graph) -> Calibration:
    """Images with a rare outlier: a scale for the whole range would waste most of the 256 steps."""
    images = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)
    images[0, 0, 0] = 200
    return calibrate(graph, [images[:16], images[16:]])


def test_a_trial_is_kept_if_it_helps_on_held_out_images(graph: Graph, calibration: Calibration) -> None:
    chosen = choose(calibration, Recipe("mine", trials=("mse", "refit-pooled"), rules=_PLAIN.rules[:0]))
    seen, images = held_out(calibration)
    assert (len(seen.images), len(images), chosen.images) == (24, 8, 8)
    want = run_real(graph, images)
    reached = sqnr_db(want, run_real(quantize(seen, chosen.recipe).graph, images))
    kept = [trial for trial in chosen.trials if trial.kept]
    assert reached == (kept[-1].sqnr_db if kept else chosen.first_db)
    assert reached >= chosen.first_db
    assert chosen.recipe.trials == ()
    mse = chosen.trials[0]
    assert mse.name == "mse"
    assert mse.kept == (Rule(observer="mse") in chosen.recipe.rules)


def test_rules_of_the_recipe_override_those_of_trials(calibration: Calibration) -> None:
    """A rule for all layers is applied before the rules for single layers."""
    own = Rule("1", observer="percentile")
    chosen = choose(calibration, Recipe(trials=("mse",), rules=(own,)), minutes=60)
    assert chosen.recipe.rules[-1] == own


def test_a_trial_that_loses_is_dropped_and_none_starts_after_the_time_limit(
    calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = {**trials._CHANGES, "mse": {"rules": (Rule(observer="entropy"), Rule(weights="per_tensor")), "equalize": 0}}
    monkeypatch.setattr(trials, "_CHANGES", worse)
    chosen = choose(calibration, Recipe("mine", trials=("mse",)))
    assert not chosen.trials[0].kept
    assert chosen.recipe == Recipe("mine")
    late = choose(calibration, RECIPES["best"], minutes=0)
    assert late.trials == tuple(Trial(name, None, kept=False) for name in RECIPES["best"].trials)
    assert "refit-pooled not tried (no time left)" in str(late)


def test_changes_that_are_there_already_are_not_tried_again(
    calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "_WORTH_DB", -100.0)
    chosen = choose(calibration, RECIPES["best"])
    assert [trial.name for trial in chosen.trials] == ["mse", "together"]
    found = chosen.recipe
    assert (found.gradient_images, found.layer_images, found.refit_pooled) == (64, 128, False)


def test_the_first_two_layers_stay_in_float_if_that_gains_much(
    calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe("mine", rules=(Rule("4", weights="per_tensor"),), trials=("float-stem",))
    kept = with_float_stem(recipe, calibration.graph)
    layers = [node.output for node in calibration.graph.nodes if node.has_weights]
    assert [rule.pattern for rule in kept.rules] == ["4", *(node.output for node in calibration.graph.nodes)]
    assert layers[1] == kept.rules[-1].pattern
    chosen = choose(calibration, recipe)
    (trial,) = chosen.trials
    assert trial.sqnr_db is not None
    assert trial.kept == (trial.sqnr_db >= chosen.first_db + 0.5)
    assert (chosen.recipe.rules == kept.rules) == trial.kept
    monkeypatch.setattr(trials, "_FLOAT_WORTH_DB", 1000.0)
    assert not choose(calibration, recipe).trials[0].kept
    assert choose(calibration, replace(recipe, hswish="fused")).trials == ()


def test_trials_without_enough_held_out_images_are_refused(graph: Graph, calibration: Calibration) -> None:
    with pytest.raises(EdgemobileError, match="at least 16 are needed, found 8"):
        choose(calibrate(graph, [calibration.images[:8]]), RECIPES["best"])
    with pytest.raises(EdgemobileError, match="has trials"):
        quantize(calibration, RECIPES["best"])
    with pytest.raises(EdgemobileError, match="Allowed: gradient-images, mse"):
        Recipe(trials=("nonesuch",))


def test_recipes_with_trials_round_trip() -> None:
    best = RECIPES["best"]
    assert Recipe.from_json(best.to_json()) == best
    with pytest.raises(EdgemobileError, match="gradient_images -1"):
        Recipe(gradient_images=-1)
