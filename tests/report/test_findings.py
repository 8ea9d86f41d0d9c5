"""What a report joins, what it keeps separate, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemobile.devices.host.counting import CacheMisses
from edgemobile.devices.host.estimating import Estimate
from edgemobile.errors import EdgemobileError
from edgemobile.report.cards import card, model_cards, snippet
from edgemobile.report.sources import read_sources
from edgemobile.report.text import COLUMNS, as_csv, as_markdown
from edgemobile.util.markdown import markdown_text

FLOAT, INT8 = "a" * 64, "b" * 64


@pytest.fixture
def make(request: pytest.FixtureRequest):
    """The makers of conftest.py."""
    return next(one for one in request.config.pluginmanager.get_plugins() if hasattr(one, "make_scores"))


def test_sources_meet_by_sha256_whatever_the_file_is_called(found, make) -> None:
    all_of = found(
        make.make_run(make.make_case("/there/renamed.onnx", INT8, 2.0)),
        make.make_scores(x_onnx=(INT8, 0.8)),
        make.make_parity(sha256=INT8, file="y.onnx"),
    )
    (artifact,) = all_of.artifacts
    assert (len(artifact.timings), len(artifact.accuracies), len(artifact.compared)) == (1, 1, 1)
    assert all_of.notes == ()


def test_equal_names_of_other_content_stay_apart(found, make) -> None:
    run = make.make_run(make.make_case("m.onnx", FLOAT, 2.0), make.make_case("m.onnx", INT8, 3.0, threads=2))
    names = [one.name for one in found(run, make.make_scores(m_onnx=(INT8, 0.5))).artifacts]
    assert names == ["m.onnx [aaaaaaaa]", "m.onnx [bbbbbbbb]"]


def test_a_record_without_sha256_is_joined_by_a_name_that_is_alone_and_says_so(found, make) -> None:
    run = make.make_run(make.make_case("m.onnx", INT8, 2.0))
    joined = found(run, make.make_scores(m_onnx=(None, 0.5)))
    assert len(joined.artifacts) == 1
    assert "joined by its name" in joined.notes[0]
    twice = make.make_run(make.make_case("m.onnx", INT8, 2.0), make.make_case("m.onnx", FLOAT, 2.0, threads=2))
    assert [len(one.accuracies) for one in found(twice, make.make_scores(m_onnx=(None, 0.5))).artifacts] == [0, 0, 1]


@pytest.mark.parametrize(
    "change",
    ["threads", "batch", "version", "governor", "device", "emulated"],
)
def test_unlike_cases_share_no_line(found, make, change: str) -> None:
    one, other = make.make_case("a.onnx", INT8, 2.0), make.make_case("b.onnx", FLOAT, 3.0)
    assert len(found(make.make_run(one, other)).lines) == 1
    run, given = make.make_run(one), {}
    if change in ("threads", "batch"):
        other = replace(other, **{change: 2})
    elif change == "version":
        other = replace(other, version="9")
    elif change == "emulated":
        other = make.make_case("b.onnx", FLOAT, None)
    elif change == "governor":
        before = run.conditions[0]
        given = {"conditions": (replace(before, conditions=replace(before.conditions, governor="powersave")),)}
    else:
        given = {"device": "pi4"}
    assert len(found(run, make.make_run(other, **given)).lines) == 2


def test_runs_measured_alike_share_a_line(found, make) -> None:
    runs = [make.make_run(make.make_case("a.onnx", INT8, 2.0)), make.make_run(make.make_case("b.onnx", FLOAT, 3.0))]
    assert [len(line.points) for line in found(*runs).lines] == [2]


def test_without_an_evaluation_the_accuracy_is_that_of_the_export(found, make) -> None:
    accuracy = found(make.make_manifest()).artifacts[0].accuracy_on("pi5")
    assert accuracy is not None
    assert (accuracy.top1, accuracy.count) == (0.75, 200)
    assert accuracy.low < 0.75 < accuracy.high
    assert "at export" in accuracy.data


def test_a_devices_own_accuracy_comes_before_one_of_more_images(found, make) -> None:
    there, here = (make.make_scores(a_onnx=(INT8, top1)) for top1 in (0.7, 0.8))
    here["files"][0]["count"] = 500
    (artifact,) = found(here, there | {"on": "pi5"}).artifacts
    assert [artifact.accuracy_on(device).top1 for device in ("pi5", "pi4", "")] == [0.7, 0.8, 0.8]


def test_layers_that_part_come_before_those_that_drift_more(found, make) -> None:
    from edgemobile.comparison.layers import LayerParity
    from edgemobile.report.tables import layer_table

    drifting = [LayerParity(f"l{db}", "conv2d", float(db), 0.1, 1.0) for db in range(30, 18, -1)]
    broken = LayerParity("broken", "conv2d", 40.0, 0.1, 1.0, diverges_in="constants")
    rows = layer_table(found(make.make_parity(*drifting, broken))).rows
    assert [row[1].shown for row in rows] == ["broken", *(f"l{db}" for db in range(19, 26))]


def test_points_of_other_images_are_no_front(found, make) -> None:
    from edgemobile.report.plots import scored_points

    run = make.make_run(make.make_case("a.onnx", INT8, 2.0), make.make_case("b.onnx", FLOAT, 3.0))
    more = make.make_scores(b_onnx=(FLOAT, 0.9)) | {"data": "other.zip"}
    (line,) = found(run, make.make_scores(a_onnx=(INT8, 0.8)), more).lines
    assert len(scored_points(line)) == 1


def test_a_front_has_no_point_that_another_beats() -> None:
    from edgemobile.report.plots import front

    assert front([(3, 80), (1, 70), (2, 60), (3, 75), (5, 80)]) == [(1, 70), (3, 80)]
    assert front([]) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "is not an input of a report"),
        ("{", "not valid JSON"),
        ('{"version": 6, "facts": {}, "cases": []}', "missing"),
        ('{"version": 9, "facts": {}, "cases": []}', "version 9"),
        ('{"version": 1, "runs": [3]}', "list of runs"),
        ('{"reference": "x", "images": "y", "files": [3], "version": 2}', "parity report version 2"),
        ('{"version": 1, "data": "x", "files": [3], "images": [], "classes": []}', "expected an object"),
        ('{"version": 1, "model": 3, "weights": {}, "files": [], "tools": {}}', "model: expected an object"),
    ],
)
def test_what_is_no_source_is_refused_by_name(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(content)
    with pytest.raises(EdgemobileError, match=words) as refused:
        read_sources([path])
    assert "odd.json" in str(refused.value) or "parity" in words


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgemobileError, match=r"cannot read .*gone\.json"):
        read_sources([tmp_path / "gone.json"])


def test_a_parity_report_of_texts_for_numbers_is_refused(found, make) -> None:
    data = make.make_parity().to_json()
    data["files"][0]["metrics"]["sqnr_db"] = "<script>"
    with pytest.raises(EdgemobileError, match="expected float"):
        found(data)


def test_csv_has_a_row_a_case_with_raw_values(everything) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(everything))))
    assert len(rows) == 4
    assert tuple(rows[0]) == COLUMNS
    timed = next(row for row in rows if row["device"] == "pi5" and row["sha256"] == FLOAT)
    assert float(timed["median_ns"]) == pytest.approx(5e6, rel=1e-5)
    assert timed["instructions"] == ""
    counted = next(row for row in rows if row["emulated"] == "True" and row["sha256"] == FLOAT)
    assert (counted["instructions"], counted["median_ns"]) == ("20000000", "")
    assert [row["stable"] for row in rows if row["sha256"] == INT8 and row["device"] == "pi5"] == ["False"]


def test_estimated_time_is_called_so_and_keeps_out_of_the_median(found, make) -> None:
    caches = (CacheMisses(10, 9), CacheMisses(0, 0))
    estimate = Estimate("cortex-a72", 36e6, caches, 1.0, "cortex-a72", "19.1.7")
    counted = found(make.make_run(make.make_case("x.tflite", INT8, None, estimate=estimate)))
    (row,) = csv.DictReader(io.StringIO(as_csv(counted)))
    assert (row["median_ns"], row["estimated_clock_mhz"]) == ("", "1800")
    assert float(row["estimated_ms"]) == pytest.approx(20, rel=0.01)
    text = as_markdown(counted, "t")
    assert "estimated, not measured |" in text
    assert re.search(r"24\.0\d* ms \(Raspberry Pi 4, 1\.5 GHz\), 20\.0\d* ms \(Raspberry Pi 4, 1\.8 GHz\)", text)


def test_csv_cells_are_no_formulas(found, make) -> None:
    text = as_csv(found(make.make_run(make.make_case("x.onnx", INT8, 2.0), device="=cmd()")))
    assert ",'=cmd()," in text


def test_markdown_is_tables_and_a_hostile_name_is_text(found, make) -> None:
    name = "<img src=x>|`a`_b_.onnx"
    text = as_markdown(found(make.make_run(make.make_case(name, INT8, 2.0))), "t")
    assert r"\<img src=x\>\|\`a\`" in text
    assert "<img" not in text.replace(r"\<img", "")
    assert markdown_text("a\n# b") == r"a \# b"


def test_a_card_says_what_it_is(everything) -> None:
    text = model_cards(everything)["int8.onnx.md"]
    for words in (
        f"sha256: {INT8}",
        f"sha256 {'c' * 64}",
        "top-1 82.00 %",
        "recipe default",
        "target: arm; fewer instructions",
        "calibrated on",
        "cat, dog",
        "pi5, 1 thread",
        "UNSTABLE",
        "8.000 M instructions",
        "FAILS",
        "predict int8.onnx",
    ):
        assert words in text, words


def test_a_cards_program_runs(found, make, colour_model, tmp_path: Path) -> None:
    """And names the colour of a red photo."""
    pytest.importorskip("onnxruntime")
    manifest = make.make_manifest(labels=("blue", 'gr"een', "red"))
    code = snippet(found(manifest).artifacts[0])
    (tmp_path / "float.onnx").write_bytes(colour_model("bgr"))
    Image.fromarray(np.full((40, 40, 3), (250, 10, 10), np.uint8)).save(tmp_path / "photo.jpg")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("red ")


def test_the_program_of_an_embedded_export_feeds_pixels(colour_photos: Path, tmp_path: Path) -> None:
    """And gives the score of the classifier that reads the file's own metadata."""
    pytest.importorskip("torch")
    for module in ("onnxruntime", "ai_edge_litert"):
        pytest.importorskip(module)
    from edgemobile.accuracy.classifier import ClassifierOptions, open_classifier
    from edgemobile.pipeline.export import export
    from edgemobile.pipeline.request import ExportRequest
    from edgemobile.quant.recipes import read_recipe
    from edgemobile.report.findings import join

    model = {"weights": "random", "width": 0.25, "res": 32, "classes": 5}
    images = {"calib": colour_photos, "calib_images": 4, "check_images": 2, "unchecked_calib": True}
    int8 = {"precisions": ("float32", "int8"), "recipe": read_recipe("plain")}
    request = ExportRequest("v3-small", tmp_path / "out", embed_preprocess=True, **model, **images, **int8)
    export(request)
    photo = Image.open(colour_photos / "red" / "0.png")
    photo.save(tmp_path / "out" / "photo.jpg", quality=100)
    findings = join(read_sources([tmp_path / "out"]))
    assert len(findings.artifacts) == 4
    for artifact in findings.artifacts:
        code = snippet(artifact)
        assert code is not None
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path / "out", check=False
        )
        assert done.returncode == 0, done.stderr
        classifier = open_classifier(str(tmp_path / "out" / artifact.name), ClassifierOptions())
        with Image.open(tmp_path / "out" / "photo.jpg") as image:
            (scores,) = classifier.scores(classifier.preprocess(image)[None])
        assert float(done.stdout.split()[-1]) == pytest.approx(scores.max(), abs=1e-3)
        assert "mean and std are inside the file" in card(artifact, findings)


def test_infinite_and_nan_layers_are_drawn(found, make) -> None:
    pytest.importorskip("matplotlib")
    from edgemobile.comparison.layers import LayerParity
    from edgemobile.report.drawing import svg
    from edgemobile.report.plots import layer_plot

    layers = [
        LayerParity(f"l{i}", "conv2d", value, 0, 1) for i, value in enumerate((math.inf, math.nan, -math.inf, 20.0))
    ]
    compared = found(make.make_parity(*layers)).artifacts[0].compared
    drawn = svg(layer_plot(compared, 344), "x")
    assert "exact" in drawn
    assert "nan" not in drawn.lower()
    only_nan = found(make.make_parity(layers[1])).artifacts[0].compared
    assert svg(layer_plot(only_nan, 344), "y")


def test_a_layer_that_is_not_finite_is_the_worst(found, make) -> None:
    from edgemobile.comparison.layers import LayerParity
    from edgemobile.report.tables import layer_table

    values = (30.0, math.nan, 10.0, math.inf, 20.0, math.nan, 5.0, -math.inf)
    layers = [LayerParity(f"l{i}", "conv2d", value, 0, 1) for i, value in enumerate(values)]
    layers.append(LayerParity("diverges", "conv2d", 40.0, 0, 1, diverges_in="arithmetic"))
    names = [row[1].shown for row in layer_table(found(make.make_parity(*layers))).rows]
    assert names == ["diverges", "l1", "l5", "l7", "l6", "l2", "l4", "l0"]


def test_json_of_the_command_line_is_read_as_well(found, make) -> None:
    run = make.make_run(make.make_case("a.onnx", INT8, 2.0))
    assert len(found({"version": 1, "runs": [{"run": json.loads(run.to_text())}]}).lines) == 1
