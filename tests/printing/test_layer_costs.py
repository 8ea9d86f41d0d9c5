"""The tables of a file's layers."""

from __future__ import annotations

import pytest
from made_runs import make_counted

from edgemobile.devices.host.counting import CacheMisses
from edgemobile.devices.host.estimating import Estimate
from edgemobile.devices.host.records import Prefix
from edgemobile.printing.layer_costs import print_layer_costs
from edgemobile.printing.terminal import recorded


def _shown(*, estimated: bool) -> str:
    def prefix(layer: str, op: str, macs: int | None, millions: int) -> Prefix:
        estimate = Estimate("cortex-a72", millions * 5e5, (CacheMisses(0, 0),) * 2, 0.999, "cortex-a72", "19.1.7")
        return Prefix(layer, op, macs, "int8", (millions * 10**6,), estimate if estimated else None)

    fused = "net/relu/Relu;net/conv/Conv2D"
    prefixes = (prefix("", "", 0, 1), prefix(fused, "CONV_2D", 4_000_000, 3), prefix("y" * 80, "MUL", None, 4))
    with recorded() as console:
        print_layer_costs(make_counted(prefixes=prefixes), "net.tflite", None)
    return console.export_text()


def _row(text: str, op: str) -> list[str]:
    return next(line for line in text.splitlines() if op in line).split()


def test_each_layer_with_its_estimate() -> None:
    text = _shown(estimated=True)
    assert "net.tflite: cost of each layer, estimated for a Raspberry Pi 4, 1.8 GHz" in text
    # 4 M multiply-accumulates are at least 0.5 M cycles.
    figures = ["2.000", "1.000", "1.000", "0.000", "50.0%", "4.000", "2.0"]
    assert _row(text, "CONV_2D") == ["net/relu/Relu", "CONV_2D", "int8", *figures]
    assert _row(text, "MUL") == [
        "y" * 57 + "...",
        "MUL",
        "int8",
        *["1.000", "0.500", "0.500", "0.000"],
        "25.0%",
        "unknown",
        "-",
    ]
    by_op = text.partition("cost by op, estimated")[2]
    assert _row(by_op, "CONV_2D") == ["CONV_2D", "1", "int8", *figures]


@pytest.mark.parametrize("word", ["estimated", "cycles", "bound"])
def test_without_an_estimate_no_word_of_it(word: str) -> None:
    text = _shown(estimated=False)
    assert word not in text
    assert "net.tflite: cost of each layer in instructions" in text
    assert _row(text, "CONV_2D") == ["net/relu/Relu", "CONV_2D", "int8", "2.000", "50.0%", "4.000"]
