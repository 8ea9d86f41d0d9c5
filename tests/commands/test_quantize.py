"""`edgemobile quantize`: the recipe from the options, the ranking, the search and its bound."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import onnx
import pytest
from onnx import numpy_helper

from edgemobile.commands.quantize import quantize
from edgemobile.exporters import FORMATS
from edgemobile.inspection.tensor_diff import diff_tensors
from edgemobile.quant.observers import OBSERVERS
from edgemobile.quant.recipe import Granularity, Hswish, Recipe, Rule, SplitGates
from edgemobile.quant.recipes import RECIPES
from edgemobile.quant.targets import TARGETS

_MODEL = ("v3-large", "--calib-images", "16", "--check-images", "16", "-q")


def test_every_option_reaches_the_recipe(edgemobile: Callable[..., Any]) -> None:
    ran = edgemobile(
        "quantize", "v3-large", "--recipe", "few-images", "--hswish", "fused", "--observer", "minmax",
        "--granularity", "per_tensor", "--equalize", "0.25", "--split-gates", "none", "--refit", "0",
        "--no-clip-weights", "--adaround", "--no-bias-correction", "--keep-float", "features.0.*", "--print-recipe",
    )  # fmt: skip
    assert ran.code == 0
    assert Recipe.from_json(ran.out) == Recipe(
        "few-images",
        rules=(
            Rule(observer="mse"),
            Rule(observer="minmax", weights="per_tensor"),
            Rule("features.0.*", precision="float"),
        ),
        hswish="fused",
        bias_correction=False,
        split_gates="none",
        equalize=0.25,
        refit=0,
        clip_weights=False,
        adaround=True,
        output_headroom=2.0,
        squeeze_headroom=2.0,
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_by_name_is_itself(edgemobile: Callable[..., Any], name: str) -> None:
    assert Recipe.from_json(edgemobile("quantize", "v1", "--recipe", name, "--print-recipe").out) == RECIPES[name]


def test_a_recipe_is_a_file_too_and_the_manifest_has_what_was_used(
    edgemobile: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(Recipe("mine", refit=1.5).to_json()))
    mine = ("--recipe", "mine.json", "--keep-float", "classifier.3", "--to", "tflite")
    ran = edgemobile("quantize", *_MODEL, "--calib", photos, *mine)
    manifest = json.loads((tmp_path / "v3-large" / "manifest.json").read_text())
    # Of 12 images of no class a machine may see more than one differently in int8.
    assert ran.code == (1 if manifest["files"][0]["missed"] else 0), ran.err
    assert [file["precision"] for file in manifest["files"]] == ["int8"]
    assert manifest["recipe"]["name"] == "mine"
    assert manifest["recipe"]["rules"][-1]["pattern"] == "classifier.3"
    assert manifest["target"]["name"] == "arm"
    assert manifest["target"]["hswish"] == "delegated"
    assert manifest["files"][0]["ops"]["DEQUANTIZE"] == 1


def test_the_target_decides_and_an_explicit_form_stands_above_it(edgemobile: Callable[..., Any]) -> None:
    by_target = edgemobile("quantize", "v3-large", "--target", "microcontroller", "--print-recipe")
    assert json.loads(by_target.out)["hswish"] == "fused"
    explicit = edgemobile(
        "quantize", "v3-large", "--target", "microcontroller", "--hswish", "delegated", "--print-recipe"
    )
    assert json.loads(explicit.out)["hswish"] == "delegated"


@pytest.mark.parametrize(("target", "dtype"), [(None, "int8"), ("cpu", "uint8"), ("arm", "int8"), ("x86-vnni", "int8")])
def test_the_target_decides_how_onnx_stores_weights(
    edgemobile: Callable[..., Any], tmp_path: Path, target: str | None, dtype: str
) -> None:
    few = ("--width", "0.35", "--res", "32", "--weights", "random", "--calib-images", "4", "--check-images", "4", "-q")
    ran = edgemobile("quantize", "v3-small", *few, *(() if target is None else ("--target", target)))
    assert ran.code == 0, ran.err
    folder = tmp_path / "v3-small"
    path = folder / "v3-small-int8.onnx"
    stored = {entry.name: numpy_helper.to_array(entry) for entry in onnx.load(path).graph.initializer}
    (weight,) = (array for name, array in stored.items() if re.fullmatch(r"classifier\.3\.weight.*:q", name))
    assert weight.dtype == dtype
    assert json.loads((folder / "manifest.json").read_text())["target"]["onnx"]["weights"] == dtype
    sides = (
        FORMATS[side.suffix[1:]].load().read_tensors(side.read_bytes()) for side in (path, path.with_suffix(".tflite"))
    )
    assert diff_tensors(*sides).same


def test_relu_is_another_function_and_the_gate_says_so(
    edgemobile: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    ran = edgemobile("quantize", *_MODEL, "--calib", photos, "--hswish", "relu", "--to", "tflite")
    assert ran.code == 1
    assert "MISSED" in ran.out
    (file,) = json.loads((tmp_path / "v3-large" / "manifest.json").read_text())["files"]
    assert file["hswish"] == "21 ReLU"
    assert "HARD_SWISH" not in file["ops"]


def test_the_ranking_writes_nothing(edgemobile: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    ran = edgemobile("quantize", *_MODEL, "--calib", photos, "--rank")
    assert ran.code == 0
    assert "features.0.1" in ran.out
    ran = edgemobile("quantize", *_MODEL, "--calib", photos, "--rank", "--json")
    costs = json.loads(ran.out)
    assert all(cost.keys() == {"tensor", "sqnr_db", "share"} for cost in costs)
    assert "features.0.1" in {cost["tensor"] for cost in costs}
    assert not (tmp_path / "v3-large").exists()


def test_the_explanation_is_five_lines_and_writes_nothing(
    edgemobile: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    ran = edgemobile("quantize", *_MODEL, "--calib", photos, "--explain")
    assert ran.code == 0
    assert [line.partition(":")[0] for line in ran.out.splitlines()] == ["Where", "Why", "Why", "Done", "Left"]
    assert "hard-swish gate" in ran.out
    ran = edgemobile("quantize", *_MODEL, "--calib", photos, "--explain", "--json")
    explained = json.loads(ran.out)
    assert explained.keys() == {"causes", "sqnr_db", "images", "held_out", "activations_db", "cut", "done", "left"}
    assert (explained["images"], explained["held_out"]) == (4, True)
    assert "features.0.1" in {cause["path"] for cause in explained["causes"]}
    assert not (tmp_path / "v3-large").exists()


def test_a_search_within_the_bound_keeps_nothing_in_float(edgemobile: Callable[..., Any], photos: Path) -> None:
    ran = edgemobile("quantize", *_MODEL, "--calib", photos, "--to", "tflite", "--max-drop", "100", "--search")
    assert ran.code == 0, ran.out
    assert "none kept in float" in ran.out


def test_the_best_recipe_says_what_each_trial_brought(
    edgemobile: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    small = (
        "--width",
        "0.35",
        "--res",
        "32",
        "--weights",
        "random",
        "--calib-images",
        "16",
        "--check-images",
        "4",
        "-q",
    )
    ran = edgemobile("quantize", "v3-small", *small, "--calib", photos, "--to", "tflite", "--recipe", "best")
    assert ran.code == 0, ran.err
    facts = json.loads((tmp_path / "v3-small" / "manifest.json").read_text())
    recipe = Recipe.from_json(facts["recipe"])
    assert (recipe.name, recipe.trials) == ("best", ())
    (note,) = (note for note in facts["notes"] if "held-out images" in note)
    assert note in " ".join(ran.out.split())
    kept = set(re.findall(r"(\S+) \S+ dB kept", note))
    assert ("gradient-images" in kept) == (recipe.gradient_images == 64)
    assert ("mse" in kept) == (Rule(observer="mse") in recipe.rules)
    assert ("layer-images" in kept) == (recipe.layer_images == 128)
    assert ("refit-pooled" in kept) == (not recipe.refit_pooled)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--recipe", "best"), "give real ones with --calib"),
        (("--minutes", "5"), "--recipe best, or omit it"),
        (("--recipe", "best", "--calib", "x", "--minutes", "-1"), "--minutes must be a number from 0"),
        (("--recipe", "best", "--calib", "x", "--rank"), "chosen by trials"),
        (("--recipe", "nosuch"), "Allowed: default, few-images"),
        (("--recipe", "nosuch.json"), "cannot read recipe"),
        (("--keep-float", "nosuch", "--calib-images", "2", "--check-images", "2", "-q"), "matches no layer"),
        (("--max-drop", "101"), "0 to 100"),
        (("--search",), "--max-drop"),
        (("--rank", "--explain"), "give only one of them"),
        (("--equalize", "2"), "from 0"),
        (("--refit", "-1"), "from 0"),
    ],
)
def test_mistakes_are_named(
    edgemobile: Callable[..., Any], options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    ran = edgemobile("quantize", "v3-large", *options)
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "v3-large").exists()


def test_few_or_made_images_get_a_recipe_of_their_own(edgemobile: Callable[..., Any]) -> None:
    made = edgemobile("quantize", "v1", "--print-recipe")
    assert json.loads(made.out)["name"] == "few-images"
    few = edgemobile("quantize", "v1", "--calib", "x", "--calib-images", "32", "--print-recipe")
    assert json.loads(few.out)["name"] == "few-images"
    many = edgemobile("quantize", "v1", "--calib", "x", "--print-recipe")
    assert json.loads(many.out)["name"] == "default"


def test_the_help_lists_what_there_is() -> None:
    """The command line starts without numpy, so it has these names a second time."""
    options = {option.name: option for option in quantize.params}
    assert all(name in options["recipe"].help for name in RECIPES)
    assert tuple(options["target"].type.choices) == tuple(TARGETS)
    assert set(options["hswish"].type.choices) == {"auto", *get_args(Hswish)}
    assert set(options["observer"].type.choices) == set(OBSERVERS)
    assert set(options["granularity"].type.choices) == set(get_args(Granularity))
    assert set(options["split_gates"].type.choices) == set(get_args(SplitGates))
