"""Architectures as data: what a table describes, and what is refused in one from a file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.models.arch import ARCHS, get_arch, scaled
from edgemobile.models.layers import layers
from edgemobile.models.table import FAMILIES, exact_arch, read_table, table_of


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("width", [0.35, 0.75, 1.0, 1.4])
def test_a_table_describes_the_same_layers_as_its_family_at_that_width(name: str, width: float) -> None:
    arch = scaled(get_arch(name), width=width, input_px=96, classes=10)
    exact = exact_arch(arch)
    assert list(layers(exact)) == list(layers(arch))
    assert read_table(table_of(exact).to_json(), "a file") == table_of(arch)


def test_other_widths_are_as_written() -> None:
    table = table_of(get_arch("v3-small"))
    row = replace(table.blocks[3], expand=56, squeeze=8, kernel=3)
    narrow = replace(table, blocks=(*table.blocks[:3], row, *table.blocks[4:]), conv=104)
    named = {layer.name: layer for layer in layers(narrow.arch())}
    assert named["features.4.block.0.0"].out_shape[0] == 56
    assert named["features.4.block.1.0"].kernel == 3
    assert named["features.4.block.2.fc1"].out_shape[0] == 8
    assert named["classifier.0"].in_shape[0] == 104


def test_families_whose_blocks_are_more_than_rows_are_refused() -> None:
    heads = {name for name, arch in ARCHS.items() if arch.head != "classifier"}
    assert set(ARCHS) - set(FAMILIES) == {"v4-conv-small", *heads}
    with pytest.raises(Unsupported, match=r"v4-conv-small cannot be written as rows\. Supported: v1, v2"):
        table_of(get_arch("v4-conv-small"))


def _row(**changed: object) -> list[dict[str, Any]]:
    return [{"kernel": 3, "expand": 0, "out_channels": 16, "stride": 1, "squeeze": 0, "act": "relu", **changed}]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"version": 2}, "version 2 is not known"),
        ({"model": "v9"}, "rows of 'v9'. Allowed: rows of v1"),
        ({"model": "v4-conv-small"}, "Allowed: rows of v1"),
        ({"stem": 12}, "stem 12. Allowed: multiples of 8 from 8 to 4096"),
        ({"stem": 8192}, "stem 8192"),
        ({"stem": True}, "expected int"),
        ({"conv": 0}, "conv 0, where v3-large has 960"),
        ({"blocks": []}, "0 blocks. Allowed: 1 to 64"),
        ({"blocks": _row() * 65}, "65 blocks"),
        ({"blocks": _row(kernel=4)}, "a kernel of 4. Allowed: 3, 5, 7"),
        ({"blocks": _row(stride=0)}, "a stride of 0"),
        ({"blocks": _row(act="gelu")}, "the activation 'gelu'. Allowed: relu, relu6, hardswish"),
        ({"blocks": _row(squeeze=-8)}, "squeeze -8"),
        ({"blocks": _row(out_channels="16")}, "expected int"),
        ({"blocks": [{"kernel": 3}]}, "missing act"),
        ({"more": 1}, "unknown 'more'"),
        ({"model": "v1", "conv": 0, "hidden": 0, "blocks": _row(expand=16)}, "which v1 does not have"),
    ],
)
def test_a_table_from_a_file_is_checked(changed: dict[str, Any], words: str) -> None:
    given = {**table_of(get_arch("v3-large")).to_json(), **changed}
    with pytest.raises(EdgemobileError) as raised:
        read_table(given, "my.safetensors")
    assert words in str(raised.value)
    assert "my.safetensors" in str(raised.value)
