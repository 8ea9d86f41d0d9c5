"""The shipped recipes by name: the default and others to compare it with (table in docs/quantization.md).

To add a recipe, add a row to RECIPES. Users write their own as a JSON file, which `edgemobile quantize --print-recipe`
starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.quant.recipe import Recipe, Rule

__all__ = ["RECIPES", "read_recipe", "recipe_for"]

# With this many images or more, the averaged extremes of the batches are better ranges than those by squared error.
_ENOUGH_IMAGES = 100

_NO_METHODS: dict[str, Any] = {
    "split_gates": "none",
    "equalize": 0,
    "refit": 0,
    "clip_weights": False,
    "bias_correction": False,
}

_TRIALS = ("mse", "together", "gradient-images", "layer-images", "refit-pooled")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        # For a hundred real images or more.
        Recipe("default"),
        # For few or synthetic images: they show too little of the ranges, and of which gates add much noise.
        Recipe(
            "few-images",
            rules=(Rule(observer="mse"),),
            split_gates="stem",
            output_headroom=2.0,
            squeeze_headroom=2.0,
        ),
        Recipe("adaround", adaround=True),
        # The default with the changes that help on held-out calibration images (quant/trials.py). Takes minutes.
        Recipe("best", trials=_TRIALS),
        # The first two layers may stay in float: less noise, less time on Arm, and integers that differ by format.
        Recipe("best-mixed", trials=(*_TRIALS, "float-stem")),
        Recipe("per-tensor", rules=(Rule(weights="per_tensor"),)),
        # What other quantizers do.
        Recipe("minmax", rules=(Rule(observer="minmax"),), **_NO_METHODS),
        Recipe("plain", rules=(Rule(observer="mse"),), **_NO_METHODS),
    )
}


def read_recipe(source: str) -> Recipe:
    """A recipe by name or from a JSON file. Raises EdgemobileError if `source` is neither."""
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
    """The name of the recipe that measured best with this number of calibration images, real or synthetic."""
    return "default" if real and images >= _ENOUGH_IMAGES else "few-images"
