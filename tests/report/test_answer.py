"""The first sentence of a report: which file to ship, only if the measurements support it."""

from __future__ import annotations

from typing import Any

import pytest

from edgemobile.devices.host.counting import CacheMisses
from edgemobile.devices.host.estimating import Estimate
from edgemobile.report.answer import Answer, answers, default_title
from edgemobile.report.findings import Findings
from edgemobile.report.sources import Scores, read_sources
from edgemobile.report.tables import class_tables

FLOAT, INT8 = "a" * 64, "b" * 64


@pytest.fixture
def make(request: pytest.FixtureRequest):
    return next(one for one in request.config.pluginmanager.get_plugins() if hasattr(one, "make_scores"))


def _answer(found: Findings) -> Answer:
    (one,) = answers(found)
    return one


def _run(make: Any, float_ms: float = 6.0, int8_ms: float = 2.0, **int8: Any) -> Any:
    return make.make_run(
        make.make_case("float.onnx", FLOAT, float_ms, precision="float32", bytes=2**24),
        make.make_case("int8.onnx", INT8, int8_ms, precision="int8", **int8),
    )


def test_the_fastest_file_with_what_it_gains_and_loses(found, make) -> None:
    scores = make.make_scores(float_onnx=(FLOAT, 0.81), int8_onnx=(INT8, 0.8))
    told = _answer(found(make.make_manifest(), _run(make), scores))
    assert told.file == "int8.onnx"
    words = "3.0x faster than float32 on pi5, 1 thread, 4.0x smaller, top-1 -1.00 points on 100 images"
    assert told.words == words


def test_without_labels_it_is_the_agreement(found, make) -> None:
    manifest = make.make_manifest()
    for file in manifest["files"]:
        file |= {"top1": None, "metrics": {"top1_agree": 0.985}}
    assert "the same answer as PyTorch for 98.5% of the check images" in _answer(found(manifest, _run(make))).words


def test_on_an_emulated_core_it_is_instructions(found, make) -> None:
    run = make.make_run(
        make.make_case("float.onnx", FLOAT, None, precision="float32", millions=20),
        make.make_case("int8.onnx", INT8, None, precision="int8", millions=8),
        device="emulated:cortex-a72",
        emulated=True,
    )
    assert (
        "2.5x fewer instructions than float32 on emulated:cortex-a72" in _answer(found(make.make_manifest(), run)).words
    )


def test_an_estimate_comes_before_instructions(found, make) -> None:
    """int8 may have more instructions and still fewer cycles."""

    def counted(file: str, sha256: str, precision: str, millions: int, cycles: float) -> Any:
        estimate = Estimate("cortex-a72", cycles, (CacheMisses(0, 0), CacheMisses(0, 0)), 1.0, "cortex-a72", "19.1.7")
        return make.make_case(file, sha256, None, precision=precision, millions=millions, estimate=estimate)

    run = make.make_run(
        counted("float.onnx", FLOAT, "float32", 20, 54e6),
        counted("int8.onnx", INT8, "int8", 21, 18e6),
        device="emulated:cortex-a72",
        emulated=True,
    )
    told = _answer(found(make.make_manifest(), run))
    assert told.file == "int8.onnx"
    assert "3.0x faster than float32 on a Raspberry Pi 4, 1.5 GHz, as estimated from emulated" in told.words


def test_a_file_that_failed_is_not_shipped(found, make) -> None:
    layer = make.LayerParity("features.1", "Conv", 12.0, 0.5, 0.9, diverges_in="arithmetic")
    told = _answer(found(make.make_manifest(), _run(make), make.make_parity(layer)))
    assert (told.file, told.words) == ("float.onnx", "no file is faster on pi5, 1 thread")


def test_a_file_that_lost_accuracy_beyond_doubt_is_not_shipped(found, make) -> None:
    scores = make.make_scores(float_onnx=(FLOAT, 0.81), int8_onnx=(INT8, 0.6))
    assert _answer(found(make.make_manifest(), _run(make), scores)).file == "float.onnx"


def test_unstable_measurements_decide_nothing(found, make) -> None:
    shaky = ((10**6, 3 * 10**6),) * 10
    run = make.make_run(
        make.make_case("float.onnx", FLOAT, 5.0, precision="float32", rounds_ns=shaky),
        make.make_case("int8.onnx", INT8, 2.0, precision="int8", rounds_ns=shaky),
    )
    told = _answer(found(make.make_manifest(), run))
    assert (told.file, told.words) == ("", "v3-large: every measurement on pi5, 1 thread is unstable; measure again")


def test_speed_within_the_intervals_is_no_gain(found, make) -> None:
    near = tuple((int(ms * 1e6),) * 5 for ms in (2.0, 2.06, 2.02, 1.99, 2.02) for _ in range(2))
    told = _answer(found(make.make_manifest(), _run(make, 2.04, 2.0, rounds_ns=near)))
    assert "not clearly faster than float32 on pi5, 1 thread" in told.words


def test_a_title_says_what_it_is_about(found, make) -> None:
    manifest = make.make_manifest()
    assert default_title(found(manifest, _run(make))).startswith("v3-large at 32 px, 20")
    twin = {**manifest, "model": {**manifest["model"], "name": "v2"}}
    assert default_title(found(manifest, twin)) == "v3-large, v2 at 32 px"
    assert default_title(found(make.make_run(make.make_case("a.onnx", FLOAT, 2.0)))).startswith("a.onnx, 20")
    assert default_title(found()) == "edgemobile report"


def _with_classes(make: Any, correct: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Two files on images of two classes: how many of 50 each are right."""
    scores = make.make_scores(float_onnx=(FLOAT, 0.8), int8_onnx=(INT8, 0.8))
    for index, file in enumerate(scores["files"]):
        file["per_class"] = [
            {
                "folder": folder,
                "output": output,
                "label": None,
                "count": 50,
                "correct": right[index],
                "top5_correct": 50,
            }
            for output, (folder, right) in enumerate(correct.items())
        ]
        file["confusion"] = [{"true": 0, "predicted": 1, "count": 3}, {"true": 0, "predicted": 0, "count": 47}]
    return scores


def test_classes_on_which_files_differ_come_first(found, make) -> None:
    (table,) = class_tables(found(_with_classes(make, {"cat": (40, 40), "dog": (45, 30)})))
    assert table.columns == ("class", "images", "float.onnx", "int8.onnx")
    assert [[cell.shown for cell in row] for row in table.rows] == [
        ["dog", "50", "90.00 %", "60.00 %"],
        ["cat", "50", "80.00 %", "80.00 %"],
    ]


def test_a_confusion_is_drawn_by_its_share(found, make) -> None:
    pytest.importorskip("matplotlib")
    from edgemobile.report.plots import confusion_plot

    scores: Scores = found(_with_classes(make, {"cat": (40, 40), "dog": (45, 30)})).sources.scores[0]
    drawing = confusion_plot(scores.files[0], 464)
    assert [words for _, words in drawing.tips] == [
        "3 of 50 images of cat (6.00 %)\nanswer: dog",
        "47 of 50 images of cat (94.00 %)\nanswer: cat",
    ]


def test_more_right_than_there_are_is_refused(make, tmp_path) -> None:
    import json

    from edgemobile.errors import EdgemobileError

    path = tmp_path / "eval.json"
    path.write_text(json.dumps(_with_classes(make, {"cat": (51, 40)})))
    with pytest.raises(EdgemobileError, match="correct is from 0 to count"):
        read_sources([path])
