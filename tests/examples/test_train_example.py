"""The script that trains the reference checkpoints: what it does to images, and that what it writes can be exported."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from edgemobile.errors import EdgemobileError
from edgemobile.models.arch import get_arch

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("examples/train_cifar10.py")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """train/ and test/ of a cat and a dog each, 4 x 4, below a folder that ends in "test"."""
    for index, name in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        save(tmp_path / "latest" / name / "1.png", index)
    return tmp_path / "latest"


@pytest.fixture
def colours(colour_photos: Path, tmp_path: Path) -> Path:
    """The same photographs to train and to test on."""
    for split in ("train", "test"):
        shutil.copytree(colour_photos, tmp_path / "data" / split)
    return tmp_path / "data"


def save(path: Path, grey: int, px: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (px, px), (grey, grey, grey)).save(path)


def test_each_split_has_its_own_images(script: ModuleType, photos: Path, tmp_path: Path) -> None:
    for data in (photos, photos.parent):
        (train, train_y), (test, test_y), labels = script.decode(data, tmp_path / f"{data.name}.cache.npz")
        assert labels == ["cat", "dog"]
        assert (train[:, 0, 0, 0].tolist(), train_y.tolist()) == ([0, 1], [0, 1])
        assert (test[:, 0, 0, 0].tolist(), test_y.tolist()) == ([2, 3], [0, 1])


def test_the_cache_is_of_the_data_as_it_is(
    script: ModuleType, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "v1.cache.npz"
    first, *_ = script.decode(photos, cache)
    with monkeypatch.context() as patched:
        patched.setattr(script, "open_dataset", None)
        again, _, labels = script.decode(photos, cache)
    assert (first[0] == again[0]).all()
    assert labels == ["cat", "dog"]
    save(photos / "train" / "emu" / "1.png", 9)
    assert script.decode(photos, cache)[2] == ["cat", "dog", "emu"]
    other = photos.rename(tmp_path / "other")
    save(other / "train" / "cat" / "1.png", 7)
    assert script.decode(other, cache)[0][0][0, 0, 0, 0] == 7
    held = dict(np.load(cache))
    del held["source"]
    np.savez(cache, **{**held, "labels": ["as", "before", "it"]})
    assert script.decode(other, cache)[2] == ["cat", "dog", "emu"]


def test_images_of_two_sizes_are_one_line(script: ModuleType, photos: Path, tmp_path: Path) -> None:
    save(photos / "train" / "dog" / "2.png", 5, px=6)
    with pytest.raises(EdgemobileError, match=r"train/cat/1.png is 4 x 4 px, train/dog/2.png 6 x 6. Resize"):
        script.decode(photos, tmp_path / "v1.cache.npz")
    for split in ("train", "test"):
        shutil.rmtree(photos / split)
        save(photos / split / "1.png", 5)
    with pytest.raises(EdgemobileError, match=r"train/ of .* has no class folders"):
        script.decode(photos, tmp_path / "v1.cache.npz")


def test_fewer_images_than_a_batch_are_one_line(
    script: ModuleType, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["train_cifar10.py", "v1", "--data", photos, "--out", tmp_path / "v1.safetensors"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in line])
    with pytest.raises(EdgemobileError, match="has 2 training images, fewer than a --batch of 128"):
        script.main()


def test_the_resolution_is_the_package_s(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "v1", "--data", "photos", "--out", "v1.safetensors"])
    assert script.parse().res == 96


def test_places_beyond_the_edge_are_mirrored(script: ModuleType) -> None:
    assert script.reflect(torch.arange(-4, 10), 6).tolist() == [4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 4, 3, 2, 1]


def test_an_augmented_image_is_a_window_of_the_padded_one(script: ModuleType) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (200, 8, 8, 3), dtype=torch.uint8)
    padded = torch.nn.functional.pad(images.permute(0, 3, 1, 2).float(), (4, 4, 4, 4), mode="reflect")
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1).permute(0, 2, 3, 4, 5, 1).flatten(1, 2)
    seen = set()
    for found, choices in zip(script.augment(images).float(), windows, strict=True):
        places = [(found == side).flatten(1).all(1).nonzero().flatten().tolist() for side in (choices, choices.flip(2))]
        assert any(places)
        seen |= {(side, place) for side in (0, 1) for place in places[side]}
    assert {side for side, _ in seen} == {0, 1}
    assert len({place for _, place in seen}) > 50


def test_half_of_a_batch_is_mirrored(script: ModuleType) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (200, 8, 8, 3), dtype=torch.uint8)
    flipped = 0
    for found, image in zip(script.mirrored(images), images, strict=True):
        assert any(torch.equal(found, side) for side in (image, image.flip(1)))
        flipped += torch.equal(found, image.flip(1))
    assert 60 < flipped < 140


def test_several_stages_start_as_their_mean(script: ModuleType) -> None:
    from edgemobile.loading.checkpoint import Checkpoint

    stages = [
        Checkpoint({"w": torch.full((2,), value), "count": torch.tensor(7)}, f"{value}.safetensors", "", labels=("a",))
        for value in (1.0, 2.0, 6.0)
    ]
    mean = script.mean_of(stages)
    assert mean.state_dict["w"].tolist() == [3.0, 3.0]
    assert mean.state_dict["count"] == 7
    assert mean.labels == ("a",)
    other = Checkpoint({"w": torch.zeros(3), "count": torch.tensor(7)}, "wide.safetensors", "")
    with pytest.raises(EdgemobileError, match=r"wide.safetensors differs in shape from 1.0.safetensors"):
        script.mean_of([*stages, other])


def test_cutmix_mixes_classes_by_area(script: ModuleType) -> None:
    torch.manual_seed(0)
    wanted = torch.eye(64)
    images = torch.arange(64, dtype=torch.uint8).view(64, 1, 1, 1).expand(64, 16, 16, 3).contiguous()
    mixed, shares = script.cutmix(images, wanted, 0.5)
    for row, (picture, share) in enumerate(zip(mixed, shares, strict=True)):
        counts = torch.bincount(picture[..., 0].flatten().long(), minlength=64) / 256
        assert counts == pytest.approx(share, abs=1e-6), row
    pasted = (shares.max(1).values < 1).float().mean()
    assert 0.2 < pasted < 0.7


def test_a_view_is_the_same_each_time(script: ModuleType) -> None:
    train = torch.randint(0, 256, (16, 8, 8, 3), dtype=torch.uint8), torch.arange(16) % 4
    args = Namespace(seed=3, smoothing=0.1, cutmix=0.5)
    first, second, other = (script.make_view(train, 4, args, number) for number in (0, 0, 1))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    assert first[1].sum(1) == pytest.approx(torch.ones(16))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_gradients_are_the_convolution_s(script: ModuleType, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(6, 6, kernel, stride, kernel // 2, groups=6, bias=False)
    found = []
    for patched in (False, True):
        if patched:
            script.Depthwise.put_into(torch.nn.Sequential(conv))
        x = torch.linspace(-1, 1, 2 * 6 * 9 * 7).view(2, 6, 9, 7).requires_grad_()
        conv.zero_grad()
        y = conv(x)
        y.square().sum().backward()
        found.append((y.detach(), x.grad, conv.weight.grad))
    torch.testing.assert_close(found[1], found[0])
    assert "Depthwise" in str(y.grad_fn)


def test_noise_is_steps_of_int8_behind_the_activation(script: ModuleType) -> None:
    torch.manual_seed(0)
    block = [torch.nn.Conv2d(4, 4, 1, bias=False), torch.nn.BatchNorm2d(4)]
    net = torch.nn.Sequential(*block, torch.nn.Hardswish(), *copy.deepcopy(block), torch.nn.AvgPool2d(1))
    said: dict[int, torch.Tensor] = {}
    for index in (1, 2, 3, 4):
        net[index].register_forward_hook(lambda _, __, y, index=index: said.update({index: y}))
    script.Noise.put_into(net, steps=3)
    behind: dict[int, torch.Tensor] = {}
    for index in (1, 2, 4):
        net[index].register_forward_hook(lambda _, __, y, index=index: behind.update({index: y}))
    x = torch.randn(8, 4, 16, 16)
    net(x)
    assert torch.equal(behind[1], said[1]), "the activation behind it has the noise"
    for index in (2, 4):
        clean = said[index].detach()
        noise = (behind[index].detach() - clean) / (clean.max() - clean.min().clamp(max=0)) * 255
        assert noise.abs().max() <= 3.001, index
        assert noise.std() == pytest.approx(6 / 12**0.5, rel=0.05), index
    net.eval()(x)
    assert torch.equal(behind[2], said[2])


def test_the_first_activations_have_twice_the_noise(script: ModuleType) -> None:
    net = torch.nn.Sequential(*(torch.nn.BatchNorm2d(2) for _ in range(10)))
    script.Noise.put_into(net, steps=0.5)
    given = [next(iter(norm._forward_hooks.values())).steps for norm in net]
    assert given == [1.0] * 8 + [0.5] * 2


def test_the_range_noise_is_measured_in_follows_the_activation(script: ModuleType) -> None:
    norm = torch.nn.Identity().train()
    noise = script.Noise(1)
    noise(norm, (), torch.tensor([1.0, 2.0]))
    assert noise.range == pytest.approx(2.0)
    noise(norm, (), torch.tensor([-3.0, 9.0]))
    assert noise.range == pytest.approx(0.9 * 2 + 0.1 * 12)


def test_first_epochs_are_at_a_lower_resolution(
    script: ModuleType, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "v3-small.safetensors"
    line = ["v3-small", "--data", colours, "--out", out, "--res", "64", "--batch", "4", "--epochs", "3"]
    line += ["--start-res", "32", "--start-epochs", "1", "--bf16", "--noise", "1"]
    monkeypatch.setattr(sys, "argv", ["train_cifar10.py", *map(str, line)])
    seen: list[int] = []
    to_input = script.to_input
    monkeypatch.setattr(script, "to_input", lambda pixels, res: seen.append(res) or to_input(pixels, res))
    script.main()
    trained = seen[: seen.index(64)]
    assert set(trained) == {32}
    assert seen.count(64) >= 2 * len(trained)
    assert json.loads(out.with_suffix(".json").read_text())["input_px"] == 64


def test_a_run_that_ended_before_its_weights_were_written_is_resumed(
    script: ModuleType, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "v1.safetensors", script.write
    line = ["v1", "--data", colours, "--out", out, "--res", "32", "--batch", "4", "--epochs", "1", "--resume"]
    monkeypatch.setattr(sys, "argv", ["train_cifar10.py", *map(str, line)])

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        script.main()
    assert not out.exists()
    monkeypatch.setattr(script, "write", whole)
    script.main()
    assert json.loads(out.with_suffix(".json").read_text())["epochs"] == 1
    assert out.exists()
    assert not out.with_suffix(".progress.pt").exists()


def test_no_epochs_write_the_mean_of_kept_stages(
    script: ModuleType, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    def run(name: str, *words: object) -> dict[str, torch.Tensor]:
        line = ["v1", "--data", colours, "--out", tmp_path / name, "--res", "32", "--batch", "4", *words]
        monkeypatch.setattr(sys, "argv", ["train_cifar10.py", *map(str, line)])
        script.main()
        return load_file(tmp_path / name)

    last = run("v1.safetensors", "--epochs", 3, "--eval-every", 2, "--keep-stages")
    stages = [load_file(tmp_path / f"v1-{epoch}.safetensors") for epoch in (2, 3)]
    assert all(torch.equal(value, last[key]) for key, value in stages[1].items())
    assert json.loads((tmp_path / "v1-2.json").read_text())["epochs"] == 2
    mean = run(
        "mean.safetensors", "--epochs", 0, "--init", tmp_path / "v1-2.safetensors", tmp_path / "v1-3.safetensors"
    )
    for key in ("conv_stem.weight", "classifier.weight"):
        torch.testing.assert_close(
            mean[key].float(), (stages[0][key].float() + stages[1][key].float()) / 2, atol=1e-3, rtol=1e-3
        )


def test_a_taught_net_is_a_checkpoint(script: ModuleType, repo_root: Path, colours: Path, tmp_path: Path) -> None:
    from edgemobile.loading.checkpoint import load_weights

    def train(arch: str, *words: str) -> str:
        line = [sys.executable, repo_root / "examples" / "train_cifar10.py", arch, "--data", colours]
        line += ["--out", tmp_path / f"{arch}.safetensors", "--res", "32", "--batch", "4", *words]
        done = subprocess.run([str(word) for word in line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    train("v3-small", "--epochs", "1")
    teacher = ["--teacher", str(tmp_path / "v3-small.safetensors"), "--views", "2"]
    said = train("v1", "--epochs", "3", "--cutmix", "0.5", *teacher)
    assert "epoch 3/3" in said
    facts = json.loads((tmp_path / "v1.json").read_text())
    checkpoint = load_weights(tmp_path / "v1.safetensors", get_arch("v1"))
    assert list(checkpoint.labels) == facts["labels"]
    assert checkpoint.preprocess.input_px == 32

    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    both, *each = (
        script.Teacher([tmp_path / f"{name}.safetensors" for name in names], torch.device("cpu")).opinion(0, pixels)
        for names in (("v3-small", "v1"), ("v3-small",), ("v1",))
    )
    assert both.sum(1) == pytest.approx(torch.ones(4))
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)
