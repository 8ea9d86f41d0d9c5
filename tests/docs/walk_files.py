"""The files that readers of the docs have: their own images, checkpoints and models, here made from the package."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

__all__ = ["FILES", "lay", "make"]

# File of a reader -> what it is a copy of, in the folder that `make` fills.
_EXPORT = "v3-large"
_COPIES = {
    "images": "samples",
    "cifar10.zip": "samples.zip",
    "photos.zip": "samples.zip",
    "frog.jpg": "frog.jpg",
    "float.tflite": f"{_EXPORT}/v3-large-float32.tflite",
    "float32.tflite": f"{_EXPORT}/v3-large-float32.tflite",
    "fused.tflite": f"{_EXPORT}/v3-large-float32.tflite",
    "float32.onnx": f"{_EXPORT}/v3-large-float32.onnx",
    "int8.tflite": f"{_EXPORT}/v3-large-int8.tflite",
    "int8.onnx": f"{_EXPORT}/v3-large-int8.onnx",
    "model.tflite": f"{_EXPORT}/v3-large-int8.tflite",
    "model.onnx": f"{_EXPORT}/v3-large-int8.onnx",
    "theirs.tflite": f"{_EXPORT}/v3-large-float32.tflite",
    "theirs.onnx": f"{_EXPORT}/v3-large-float32.onnx",
    "v3-large-float32.tflite": f"{_EXPORT}/v3-large-float32.tflite",
    "v3-large-int8.onnx": f"{_EXPORT}/v3-large-int8.onnx",
    "v3-large-int8.tflite": f"{_EXPORT}/v3-large-int8.tflite",
    "out": _EXPORT,
    "cal": _EXPORT,
    "v3-large": _EXPORT,
    "v3-small": "v3-small",
    "my.pth": "my.pth",
    "my.safetensors": "my.safetensors",
    "saved.pt2": "saved.pt2",
    "mypkg": "mypkg",
    "names.txt": f"{_EXPORT}/labels.txt",
    "monday.json": "run.json",
    "tuesday.json": "run.json",
    "run.json": "run.json",
    "eval.json": "eval.json",
    "parity.json": "parity.json",
    "counts.json": "counts.json",
    "edgemobile.toml": "edgemobile.toml",
    "devices": "devices.toml",
}

# Page -> the files that its reader has. A page not listed starts with an empty folder.
FILES: Mapping[str, Collection[str]] = {
    "README.md": (
        *("images", "my.pth", "int8.tflite", "theirs.tflite", "model.tflite", "run.json", "edgemobile.toml", "devices"),
    ),
    "docs/accuracy.md": (
        *("cal", "cifar10.zip", "images", "my.pth", "mypkg", "names.txt", "frog.jpg", "theirs.onnx", "int8.tflite"),
        *("v3-large-int8.onnx", "devices"),
    ),
    "docs/boards.md": (
        *("images", "int8.tflite", "float32.tflite", "float.tflite", "fused.tflite", "monday.json", "tuesday.json"),
    ),
    "docs/estimates.md": ("v3-large-float32.tflite", "v3-large-int8.tflite"),
    "docs/file-models.md": ("images", "theirs.tflite", "theirs.onnx"),
    "docs/get-a-file.md": ("cifar10.zip", "my.safetensors", "frog.jpg", "v3-small"),
    "docs/hard-nets.md": ("images",),
    "docs/inspect.md": ("v3-large", "v3-large-int8.onnx", "v3-large-int8.tflite", "model.tflite", "model.onnx"),
    "docs/own-model.md": (
        *("my.pth", "my.safetensors", "mypkg", "saved.pt2", "images", "theirs.tflite", "theirs.onnx"),
    ),
    "docs/parity.md": ("float32.onnx", "int8.tflite", "int8.onnx", "out", "photos.zip"),
    "docs/reference/files.md": ("cifar10.zip", "images", "v3-large"),
    "docs/reference/options.md": ("int8.tflite",),
    "docs/report.md": ("v3-large", "run.json", "counts.json", "eval.json", "parity.json"),
}

_NETS = """
from pathlib import Path

import edgemobile
import torch
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net
from safetensors.torch import load_file, save_file

torch.manual_seed(0)
torch.save(load_file(Path(edgemobile.__file__).parent / "bundled" / "v2.safetensors"), "my.pth")
# Its batch norms have seen images: the outputs of a fresh net are too small for int8.
narrow = build_net(scaled(get_arch("v3-small"), width=0.75)).train()
with torch.no_grad():
    for _ in range(300):
        narrow(torch.randn(4, 3, 32, 32))
save_file(narrow.state_dict(), "my.safetensors")
net = build_net(scaled(get_arch("v3-small"), input_px=96, classes=10)).eval()
torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 96, 96),)), "saved.pt2")
Path("mypkg").mkdir()
Path("mypkg/models.py").write_text('''
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net


def make_net():
    return build_net(scaled(get_arch("v2"), input_px=96, classes=10))
''')
"""

_CONFIG = """
[gate]
images = 4

[models.v3-small]
formats = ["tflite"]
precisions = ["float32"]
"""

# What makes a file or folder of the right side above, as a shell command in the folder.
_MADE = {
    "samples": "edgemobile sample-data samples",
    "samples.zip": "(cd samples && python -m zipfile -c ../samples.zip train test)",
    "frog.jpg": "cp samples/test/frog/$(ls samples/test/frog | head -n 1) frog.jpg",
    _EXPORT: "edgemobile export v3-large --int8 -q",
    "v3-small": "edgemobile export v3-small --int8 --to tflite -q",
    "nets": "python nets.py",
    "run.json": "edgemobile bench v3-large/*.tflite --runs 20 --out run.json -q || test $? = 5",
    "eval.json": "edgemobile eval v3-large/ --data samples --json > eval.json",
    "parity.json": "edgemobile parity v3-large v3-large/*.tflite --layers --images 2 --json > parity.json",
    "counts.json": "edgemobile bench v3-large/*-int8.tflite --on emulated:cortex-a72 --runs 1 --out counts.json -q",
}
_NEEDS_NETS = {"my.pth", "my.safetensors", "saved.pt2", "mypkg"}


def make(folder: Path, env: Mapping[str, str], pages: Collection[str], *, cores: bool) -> None:
    """Make in `folder` what the readers of `pages` have; what is counted, only where there are emulated `cores`.

    Raises CalledProcessError where a command fails.
    """
    (folder / "nets.py").write_text(_NETS)
    (folder / "edgemobile.toml").write_text(_CONFIG)
    (folder / "devices.toml").write_text(
        '[pi4]\naddress = "emulated:cortex-a72"\n\n[pi5]\naddress = "emulated:cortex-a76"\n'
    )
    wanted = {_COPIES[name].partition("/")[0] for page in pages for name in FILES.get(page, ())}
    wanted |= {"samples"} if wanted & {"samples.zip", "frog.jpg", "eval.json"} else set()
    wanted |= {_EXPORT} if wanted & {"run.json", "eval.json", "parity.json", "counts.json"} else set()
    wanted |= {"nets"} if wanted & _NEEDS_NETS else set()
    for name, command in _MADE.items():
        if name in wanted and (cores or name != "counts.json"):
            subprocess.run(["bash", "-c", command], cwd=folder, env=dict(env), check=True)


def lay(page: str, made: Path, folder: Path) -> None:
    """Put the files of a page's reader into `folder`."""
    for name in FILES.get(page, ()):
        source, target = made / _COPIES[name], folder / name
        if name == "devices":
            target = folder.parent / "home" / ".config" / "edgemobile" / "devices.toml"
            target.parent.mkdir(parents=True)
        if source.is_dir():
            # Links: nothing writes into a file that is there.
            shutil.copytree(source, target, copy_function=os.link)
        elif source.exists():
            shutil.copyfile(source, target)
