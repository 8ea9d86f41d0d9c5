"""Recipes round-trip through JSON, later rules override earlier ones, and errors name the invalid key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.quant.recipe import DEFAULT, Recipe, Rule
from edgemobile.quant.recipes import read_recipe


def test_round_trip_through_json_text() -> None:
    recipe = Recipe("mine", (Rule(observer="minmax"), Rule("features.0.*", precision="float")), hswish="fused")
    recipe = replace(recipe, split_gates="all", equalize=0.25)
    assert Recipe.from_json(json.dumps(recipe.to_json())) == recipe


def test_a_later_rule_overrides_only_the_settings_it_names() -> None:
    rules = (Rule(observer="minmax", weights="per_tensor"), Rule("classifier.*", observer="percentile"))
    recipe = Recipe(rules=rules)
    assert recipe.settings("classifier.3").observer == "percentile"
    assert recipe.settings("classifier.3").weights == "per_tensor"
    assert recipe.settings("features.0.2").observer == "minmax"
    assert DEFAULT.settings("anything").precision == "int8"


def test_a_pattern_matches_module_paths_also_of_rescaled_tensors() -> None:
    recipe = Recipe(rules=(Rule("features.0.2", precision="float"),))
    for names in (("features.0.2",), ("features.0.2.x6", "features.0.2")):
        assert recipe.settings(*names).precision == "float"
        assert recipe.unmatched(names) == []
    # Here x6 is part of a module's name, not the factor of a tensor.
    assert recipe.settings("features.0.2.x6").precision == "int8"
    assert recipe.settings("features.0.20").precision == "int8"


def test_patterns_without_a_match_are_listed() -> None:
    recipe = Recipe(rules=(Rule(observer="minmax"), Rule("featurs.*", precision="float")))
    assert recipe.unmatched(["features.0.2", "classifier.3"]) == ["featurs.*"]


def test_the_error_for_a_binary_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(EdgemobileError, match=r"recipe .*mine\.json is not UTF-8 text"):
        read_recipe(str(tmp_path / "mine.json"))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{", "not a quantization recipe"),
        ("[]", "not a quantization recipe"),
        ('{"version": 2}', "version 2"),
        ("{}", "version None"),
        ('{"version": 1, "colour": "red"}', "colour"),
        ('{"version": 1, "hswish": "melted"}', "melted"),
        ('{"version": 1, "rules": [{"observer": "psychic"}]}', "psychic"),
        ('{"version": 1, "output_observer": "psychic"}', "output_observer 'psychic'"),
        ('{"version": 1, "rules": [{"weights": 3}]}', "weights"),
        ('{"version": 1, "split_gates": "some"}', "split_gates"),
        ('{"version": 1, "equalize": 2}', "from 0"),
        ('{"version": 1, "equalize": NaN}', "NaN is not a number"),
        ('{"version": 1, "equalize": true}', "equalize True"),
        ('{"version": 1, "refit": 1e999}', "refit inf"),
        ('{"version": 1, "refit": "much"}', "refit 'much'"),
        ('{"version": 1, "output_headroom": true}', "output_headroom True"),
        ('{"version": 1, "name": 5}', "name 5 is not text"),
        ('{"version": 1, "rules": [{"pattern": 5}]}', "pattern 5 is not text"),
        ('{"version": 1, "rules": [{"observer": []}]}', r"observer \[\]"),
        ('{"version": 1, "rules": 5}', "not a quantization recipe"),
        ('{"version": true}', "version True"),
        ('{"version": 1.0}', "version 1.0"),
        ('{"version": 1, "version": 1}', "a key occurs twice"),
        ("[" * 100_000, "not a quantization recipe"),
    ],
)
def test_mistakes_are_refused_in_one_line(text: str, names: str) -> None:
    with pytest.raises(EdgemobileError, match=names) as refusal:
        Recipe.from_json(text)
    assert "\n" not in str(refusal.value)
