"""The script that trains a detector: what it pastes, what it starts from, and which anchors it takes for an object."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from edgemobile.accuracy.coco import read_annotations
from edgemobile.images.dataset import open_dataset
from edgemobile.models.arch import ARCHS, get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.models.ssdlite import postprocess

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("examples/train_detector.py")


def test_pasted_objects_are_where_their_boxes_are(script: ModuleType, tmp_path: Path) -> None:
    for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), colour).save(tmp_path / "data" / "train" / name / "0.png")
    data = open_dataset(tmp_path / "data")
    images, boxes = script.pasted(data, 5, np.random.default_rng(0))
    assert sum(map(len, boxes)) >= 5
    for image, found in zip(images, boxes, strict=True):
        for label, (left, top, right, bottom) in found:
            inside = image[top:bottom, left:right].reshape(-1, 3)
            assert (inside == ((0, 0, 255), (255, 0, 0))[label]).all()
    script.write_coco(tmp_path, "train", images, boxes, data.classes)
    written = read_annotations(tmp_path / "train.json")
    assert [written.categories[box["category_id"]] for box in written.boxes] == [
        data.classes[label] for found in boxes for label, _ in found
    ]
    assert len(json.loads((tmp_path / "train.json").read_text())["images"]) == 5


@pytest.mark.parametrize("name", ["v2", "v3-large"])
def test_it_starts_from_the_function_of_the_classifier(script: ModuleType, name: str) -> None:
    from edgemobile.loading.checkpoint import build, load_weights

    arch = scaled(get_arch(f"{name}-ssdlite"), input_px=script.PX, classes=3)
    net = build_net(arch)
    script.start_from_classifier(net, arch)
    _, classifier = build(ARCHS[name], load_weights("bundled", ARCHS[name]))
    seen = {}
    block = classifier.features[13 if name == "v3-large" else 14]
    first = block.block[0] if name == "v3-large" else block.conv[0]
    first.register_forward_hook(lambda module, inputs, output: seen.update(c4=output))
    image = torch.randn(1, 3, script.PX, script.PX)
    with torch.no_grad():
        classifier(image)
        found = net.eval().backbone.features[0](image)
    np.testing.assert_allclose(found, seen["c4"], rtol=1e-3, atol=1e-4)


def test_the_offsets_of_an_object_decode_to_its_box(script: ModuleType) -> None:
    how = postprocess(scaled(ARCHS["v2-ssdlite"], input_px=script.PX))
    boxes = [(4, (10, 20, 60, 70)), (7, (64, 0, 96, 32))]
    classes, offsets = script.matched(how.anchors, boxes, how.scales)
    assert set(classes.tolist()) == {0, 5, 8}
    decoded = how.corners(offsets) * script.PX
    for label, place in boxes:
        np.testing.assert_allclose(decoded[classes == label + 1], [place] * (classes == label + 1).sum(), atol=0.01)


def test_the_loss_is_least_for_the_right_answer(script: ModuleType) -> None:
    classes, offsets = torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, 8, 4)
    classes[0, 3], offsets[0, 3] = 2, 1.5
    logits = 20 * torch.nn.functional.one_hot(classes, 3).float()
    right = script.ssd_loss({"bbox_regression": offsets, "cls_logits": logits}, classes, offsets)
    assert right < 1e-6
    # Offsets of the background do not matter; those of objects and wrong classes of either do.
    elsewhere = offsets.clone()
    elsewhere[0, 0] = 9
    assert script.ssd_loss({"bbox_regression": elsewhere, "cls_logits": logits}, classes, offsets) == right
    assert script.ssd_loss({"bbox_regression": 0 * offsets, "cls_logits": logits}, classes, offsets) > 1
    assert script.ssd_loss({"bbox_regression": offsets, "cls_logits": logits.roll(1, 2)}, classes, offsets) > 10
