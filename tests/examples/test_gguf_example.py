"""The script that turns the weights of a GGUF file into safetensors: shapes, values and keys as PyTorch has them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgemobile.models.arch import get_arch

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")


@pytest.fixture
def run(load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    script = load_script("examples/gguf_weights.py")

    def run(*paths: Path) -> None:
        monkeypatch.setattr(sys, "argv", ["gguf_weights.py", *map(str, paths)])
        script.main()

    return run


def save(path: Path, tensors: dict[str, np.ndarray], quantized: dict[str, np.ndarray] | None = None) -> None:
    writer = gguf.GGUFWriter(path, "mobilenetv3-small")
    for key, value in tensors.items():
        writer.add_tensor(key, value)
    for key, value in (quantized or {}).items():
        q8 = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(key, gguf.quantize(value, q8), raw_dtype=q8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_net_s_weights_are_a_checkpoint(run: Callable[..., None], tmp_path: Path) -> None:
    from edgemobile.loading.checkpoint import build, load_weights
    from edgemobile.models.nets import build_net

    torch.manual_seed(0)
    net = build_net(get_arch("v3-small"))
    tensors = {key: value.numpy() for key, value in net.state_dict().items()}
    counts = {key: np.zeros((), np.float32) for key in tensors if key.endswith("num_batches_tracked")}
    save(tmp_path / "net.gguf", {key: value.astype(np.float16) for key, value in tensors.items()} | counts)
    run(tmp_path / "net.gguf", tmp_path / "net.safetensors")
    _, found = build(get_arch("v3-small"), load_weights(tmp_path / "net.safetensors", get_arch("v3-small")))
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(found.eval()(x), net.eval().half().float()(x))


def test_quantized_weights_are_the_floats_they_stand_for(run: Callable[..., None], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weight = np.random.default_rng(0).normal(size=(4, 3, 64)).astype(np.float32)
    save(tmp_path / "q.gguf", {}, {"linear.weight": weight})
    run(tmp_path / "q.gguf", tmp_path / "q.safetensors")
    found = load_file(tmp_path / "q.safetensors")["linear.weight"]
    assert found.shape == weight.shape
    assert np.abs(found.numpy() - weight).max() <= np.abs(weight).max() / 127


def test_what_is_not_gguf_is_one_line(run: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("not a model, but long enough to have a magic number and a version")
    for name, reason in (("notes.gguf", "magic"), ("none.gguf", "No such file")):
        with pytest.raises(SystemExit, match=rf"error: .*{name} cannot be read as GGUF: .*{reason}"):
            run(tmp_path / name, tmp_path / "out.safetensors")
        assert not (tmp_path / "out.safetensors").exists()
