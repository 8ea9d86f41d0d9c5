"""Recipes by name: the shipped default and the ones worth comparing it with (docs/quantization.md has their table).

Add a recipe here: a row in RECIPES. One's own is a JSON file, as `edgemobile quantize --print-recipe` writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.quant.recipe import Recipe, Rule

__all__ = ["RECIPES", "read_recipe", "recipe_for"]

# From here on the images' own extremes are the better ranges.
_ENOUGH_IMAGES = 100

_NO_METHODS: dict[str, Any] = {
    "split_gates": "none",
    "equalize": 0,
    "refit": 0,
    "clip_weights": False,
    "bias_correction": False,
}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        # With a hundred real images or more.
        Recipe("default"),
        # With few images, or synthetic ones: they show too little of ranges, and of which gates cost much.
        Recipe(
            "few-images",
            rules=(Rule(observer="mse"),),
            split_gates="stem",
            output_headroom=2.0,
            squeeze_headroom=2.0,
        ),
        Recipe("adaround", adaround=True),
        # Minutes: the default, with what helps on calibration images that are held out (quant/trials.py).
        Recipe("best", trials=("gradient-images", "mse", "layer-images", "refit-pooled")),
        Recipe("per-tensor", rules=(Rule(weights="per_tensor"),)),
        # The usual quantizers' way.
        Recipe("minmax", rules=(Rule(observer="minmax"),), **_NO_METHODS),
        Recipe("plain", rules=(Rule(observer="mse"),), **_NO_METHODS),
    )
}


def read_recipe(source: str) -> Recipe:
    """A recipe by name, or of a JSON file. Raises EdgemobileError where it is neither."""
    if source in RECIPES:
        return RECIPES[source]
    path = Path(source)
    if path.suffix != ".json":
        raise Unsupported(f"recipe {source!r} is not known. Allowed: {', '.join(RECIPES)}, or a .json file")
    try:
        return Recipe.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgemobileError(f"cannot read recipe {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise EdgemobileError(f"recipe {path} is not UTF-8 text: {error}") from error


def recipe_for(images: int, *, real: bool) -> str:
    """The recipe that measured best with so many calibration images, from a data set or made."""
    return "default" if real and images >= _ENOUGH_IMAGES else "few-images"
