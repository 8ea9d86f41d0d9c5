"""Raw outputs -> boxes: torchvision's numbers, and small cases by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgemobile.boxes import iou
from edgemobile.errors import EdgemobileError
from edgemobile.models.arch import ARCHS, scaled
from edgemobile.models.ssdlite import postprocess
from edgemobile.postprocess import AnchorLevel, Postprocess

# Two anchors side by side, each of half the width.
PAIR = Postprocess((AnchorLevel((1, 2), ((0.5, 1.0),)),))


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads((Path(__file__).parent / "goldens" / "detections_torchvision_ssdlite320.json").read_text())


def test_anchors_are_torchvisions(golden: dict) -> None:
    anchors = postprocess(ARCHS["v3-large-ssdlite"]).anchors
    assert len(anchors) == 3234
    corners = np.concatenate([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], axis=1)
    for index, wanted in golden["anchors"].items():
        np.testing.assert_allclose(corners[int(index)] * golden["input_px"], wanted, atol=1e-3)


def test_detections_are_torchvisions(golden: dict) -> None:
    count, classes = 3234, golden["classes"]
    step = np.arange(count * classes, dtype=np.float64)
    offsets = 2 * np.sin(np.arange(count * 4) * 0.37).reshape(count, 4).astype(np.float32)
    logits = (3 * np.sin(step * 0.61 + step**1.5 * 0.003).astype(np.float32)).reshape(count, classes)
    how = replace(postprocess(ARCHS["v3-large-ssdlite"]), score_threshold=golden["score_threshold"])
    found = how(offsets, logits)
    assert len(found.boxes) == golden["found"]
    every = golden["every"]
    np.testing.assert_allclose(found.scores[::every], golden["scores"], atol=1e-5)
    assert found.classes[::every].tolist() == golden["labels"]
    np.testing.assert_allclose(found.boxes[::every] * golden["input_px"], golden["boxes"], atol=2e-3)


@pytest.mark.parametrize("px", [96, 320, 500])
def test_the_net_has_a_row_for_every_anchor(px: int) -> None:
    import torch

    from edgemobile.models.nets import build_net

    arch = scaled(ARCHS["v2-ssdlite"], width=0.35, input_px=px, classes=3)
    with torch.device("meta"):
        outputs = build_net(arch).eval()(torch.empty(1, 3, px, px))
    assert tuple(outputs["bbox_regression"].shape) == (1, postprocess(arch).count, 4)
    assert tuple(outputs["cls_logits"].shape) == (1, postprocess(arch).count, 3)


def test_zeros_give_the_anchors_and_nothing_is_background() -> None:
    found = PAIR(np.zeros((2, 4), np.float32), np.array([[0, 9, 0], [0, 0, 9]], np.float32))
    assert found.classes.tolist() == [1, 2, *found.classes[2:]]
    assert found.boxes[:2].tolist() == [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    assert (found.scores[:2] > 0.99).all()
    assert not PAIR(np.zeros((2, 4), np.float32), np.array([[99, 0, 0]] * 2, np.float32)).classes.size


def test_offsets_move_and_stretch_by_their_scales() -> None:
    offsets = np.array([[10, 0, 5 * np.log(0.5), 5 * np.log(0.25)], [0, 0, 1e9, 0]], np.float32)
    moved, huge = PAIR.corners(offsets)
    # A whole anchor to the right, half as wide, a quarter as high.
    np.testing.assert_allclose(moved, [0.75 - 0.125, 0.5 - 0.125, 0.75 + 0.125, 0.5 + 0.125], atol=1e-6)
    assert huge.tolist() == [0, 0, 1, 1]


def test_a_box_is_suppressed_by_a_better_one_of_its_class_alone() -> None:
    onto_the_first = np.array([[0, 0, 0, 0], [-10, 0, 0, 0]], np.float32)
    same = PAIR(onto_the_first, np.array([[0, 5, -9], [0, 4, -9]], np.float32))
    assert [(one, round(float(score), 2)) for one, score in zip(same.classes, same.scores, strict=True)] == [(1, 0.99)]
    other = PAIR(onto_the_first, np.array([[0, 5, -9], [0, -9, 4]], np.float32))
    assert other.classes.tolist() == [1, 2]
    # A suppressed box suppresses none: three in a row, each over a third of its neighbour.
    row = replace(PAIR, levels=(AnchorLevel((1, 3), ((0.8, 1.0),)),), iou_threshold=0.3)
    logits = np.array([[0, 5], [0, 4], [0, 3]], np.float32)
    offsets = np.array([[2, 0, 0, 0], [0, 0, 0, 0], [-2, 0, 0, 0]], np.float32)
    corners = row.corners(offsets)
    assert iou(corners[0], corners[1]) > 0.3
    assert iou(corners[1], corners[2]) > 0.3
    expected = 1 if iou(corners[0], corners[2]) > 0.3 else 2
    assert len(row(offsets, logits).classes) == expected


def test_the_numbers_of_candidates_and_detections_are_bounds() -> None:
    logits = np.array([[0, 5, 1], [0, 4, 2]], np.float32)
    offsets = np.zeros((2, 4), np.float32)
    assert len(PAIR(offsets, logits).classes) == 4
    assert replace(PAIR, candidates=1)(offsets, logits).classes.tolist() == [1, 2]
    assert replace(PAIR, detections=3)(offsets, logits).classes.tolist() == [1, 1, 2]
    assert replace(PAIR, score_threshold=0.5)(offsets, logits).classes.tolist() == [1, 1]


def test_iou_of_empty_boxes_is_zero() -> None:
    empty = np.zeros(4, np.float32)
    assert iou(empty, empty) == 0
    assert iou(np.array([0, 0, 1, 1.0]), np.array([0.5, 0, 1.5, 1])) == pytest.approx(1 / 3)


def test_it_survives_json() -> None:
    how = postprocess(ARCHS["v3-large-ssdlite"])
    assert Postprocess.from_json(json.dumps(how.to_json())) == how


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version 2"),
        ({"scales": [10, 10, 0, 5]}, "scales of boxes must be above 0"),
        ({"iou_threshold": 1.5}, "iou_threshold must be from 0 to 1"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"levels": [{"grid": [4096, 4096], "sizes": [[1, 1]]}]}, "anchors, found 16777216"),
        ({"levels": [{"grid": [0, 1], "sizes": [[1, 1]]}]}, "anchors need a grid"),
        ({"levels": []}, "anchors, found 0"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_record_that_is_wrong_is_refused(change: dict, reason: str) -> None:
    with pytest.raises(EdgemobileError, match=reason):
        Postprocess.from_json({**PAIR.to_json(), **change})


def test_outputs_of_another_net_are_refused() -> None:
    with pytest.raises(EdgemobileError, match=r"2 anchors has outputs \[2, 4\] and \[2, classes\]; found \[3, 4\]"):
        PAIR(np.zeros((3, 4), np.float32), np.zeros((3, 2), np.float32))
    with pytest.raises(EdgemobileError, match="not finite"):
        PAIR(np.full((2, 4), np.nan, np.float32), np.zeros((2, 2), np.float32))
