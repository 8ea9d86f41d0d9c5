"""Every reader of what others wrote, as a function of bytes: it answers, or raises EdgemobileError. Nothing else.

Add a reader here: a function of (data, folder), its seeds, and a row in TARGETS.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgemobile.errors import EdgemobileError

__all__ = ["TARGETS", "Target", "check"]


@dataclass(frozen=True)
class Target:
    """`read(data, folder)` reads `data`, written into `folder` where it needs a file; `seeds` are what it takes.

    `text` says that mutations keep to JSON, TOML or lines. `needs` are packages without which it cannot run. `slow` is
    one that runs a file in another process.
    """

    read: Callable[[bytes, Path], object]
    seeds: Callable[[], list[bytes]]
    text: bool = False
    needs: tuple[str, ...] = ()
    slow: bool = False


def check(target: Target, data: bytes, folder: Path) -> bool:
    """Whether the reader took `data`. What it raises but EdgemobileError goes through."""
    try:
        target.read(data, folder)
    except EdgemobileError:
        return False
    return True


def _put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# ---- model files ----------------------------------------------------------------------------------------------------


@cache
def _models(format: str) -> list[bytes]:
    """A small net in float and int8, as our own exporter writes it, and one of another layout of metadata."""
    import small_net
    import torch

    from edgemobile.exporters import FORMATS
    from edgemobile.lower import lower
    from edgemobile.quant.ptq import ptq

    net = small_net.make()
    program = torch.export.export(net, (torch.zeros(1, 3, small_net.PX, small_net.PX),))
    graph = lower(program, "small")
    images = np.random.default_rng(0).normal(size=(8, small_net.PX, small_net.PX, 3)).astype(np.float32)
    to_bytes = FORMATS[format].load().to_bytes
    facts = {
        "edgemobile.model": "small",
        "edgemobile.labels": json.dumps(["a", "b", "c", "d", "e"]),
        "edgemobile.preprocess": _preprocess()[0].decode(),
    }
    return [to_bytes(graph, metadata=facts), to_bytes(ptq(graph, [images]).graph, metadata=facts)]


def _structure(data: bytes, folder: Path) -> object:
    from edgemobile.exporters.model_files import read_model_file
    from edgemobile.inspection.facts import facts_of

    return facts_of(read_model_file(_put(folder, "model", data)), ask_runtimes=False).to_json()


def _file_model(data: bytes, folder: Path) -> object:
    from edgemobile.loading.file_model import load_file

    return load_file(str(_put(folder, "model", data)), preprocess="unit")


def _graph(format: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from edgemobile.exporters import onnx_graph, tflite_graph

        return {"onnx": onnx_graph, "tflite": tflite_graph}[format].read_known(data)

    return read


def _metadata(format: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from edgemobile.exporters import FORMATS
        from edgemobile.graph.origins_entry import read_origins
        from edgemobile.model_file.metadata import labels_in, preprocess_in

        entries = FORMATS[format].load().read_metadata(data)
        return labels_in(entries), preprocess_in(entries), read_origins(entries, "the file")

    return read


def _origins(data: bytes, folder: Path) -> object:
    from edgemobile.graph.origins_entry import read_origins
    from edgemobile.model_file.metadata import ORIGINS

    return read_origins({ORIGINS: data.decode("utf-8", "replace")}, "the file")


def _origins_seeds() -> list[bytes]:
    from edgemobile.graph.origin import Origin
    from edgemobile.graph.origins_entry import origins_metadata

    origins = {
        "stem.eq": Origin("stem", channel_factors=(1.0, 0.25)),
        "act.x6": Origin("act", 6),
        "act.gate": Origin("act", gate=True),
        "se.bias.plus3": Origin("se.bias", added=3),
    }
    return [text.encode() for text in origins_metadata(origins).values()]


_RUN_S = 8.0
_LARGEST_INPUT = 10**7
# One for many files: until a file ends it.
_process: list[Any] = []


def _run(data: bytes, folder: Path) -> object:
    """What `open_isolated` and a run ask of the other process, which native code may crash."""
    from edgemobile.devices.runtimes import isolated

    if not _process or _process[0].running.poll() is not None:
        _process[:] = [isolated._Process("the file")]
    (process,) = _process
    asked = {"runtime": None, "threads": 1, "name": "the file", "exact": False, "layers": False}
    told, _ = process.ask({"open": asked}, [np.frombuffer(data, np.uint8)], _RUN_S, "open")
    ports = isolated._ports(told["inputs"])
    if any(port.undecided or math.prod(port.shape) > _LARGEST_INPUT for port in ports):
        raise EdgemobileError("an input that no image fits")
    examples = [port.example(np.random.default_rng(0)) for port in ports]
    return process.ask({"run": None}, examples, _RUN_S, "run")


# ---- weights --------------------------------------------------------------------------------------------------------


def _safetensors_seeds() -> list[bytes]:
    import torch
    from safetensors.torch import save

    return [save({"a.weight": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.float16)}, {"labels": "[1]"})]


def _architecture(data: bytes, folder: Path) -> None:
    from edgemobile.models.layers import layers
    from edgemobile.models.table import read_table

    list(layers(read_table(data.decode(errors="replace"), "a checkpoint").arch()))


def _architecture_seeds() -> list[bytes]:
    from edgemobile.models.arch import get_arch
    from edgemobile.models.table import table_of

    return [json.dumps(table_of(get_arch(name)).to_json()).encode() for name in ("v1", "v3-small")]


def _pickle_seeds() -> list[bytes]:
    import torch

    found = []
    for content in (
        {"w": torch.ones(2, 3)},
        {"state_dict": {"module.w": torch.ones(2)}, "epoch": 3, "args": {"lr": 0.1}},
    ):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        found.append(buffer.getvalue())
    return found


def _program_seeds() -> list[bytes]:
    import torch

    buffer = io.BytesIO()
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), buffer)
    return [buffer.getvalue()]


def _weights(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from edgemobile.loading.files import read as read_weights

        return read_weights(_put(folder, name, data))

    return read


def _program(data: bytes, folder: Path) -> object:
    from edgemobile.loading.own_model import load_program

    return load_program(_put(folder, "mine.pt2", data))


# ---- records --------------------------------------------------------------------------------------------------------


def _postprocess() -> list[bytes]:
    from edgemobile.models.arch import ARCHS
    from edgemobile.models.ssdlite import postprocess

    return [json.dumps(postprocess(ARCHS["v2-ssdlite"]).to_json()).encode()]


def _read_postprocess(data: bytes, folder: Path) -> object:
    from edgemobile.postprocess import Postprocess

    return Postprocess.from_json(data.decode("utf-8", "replace")).anchors


def _coco() -> list[bytes]:
    box = {"image_id": 1, "category_id": 2, "bbox": [0, 1.5, 20, 30], "area": 600, "iscrowd": 0}
    images, categories = [{"id": 1, "file_name": "a.png"}], [{"id": 2, "name": "cat"}]
    return [json.dumps({"images": images, "categories": categories, "annotations": [box]}).encode()]


def _read_coco(data: bytes, folder: Path) -> object:
    from edgemobile.accuracy.coco import read_annotations

    return read_annotations(_put(folder, "instances.json", data))


def _preprocess() -> list[bytes]:
    from edgemobile.preprocess import Preprocess

    plain = Preprocess(32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return [json.dumps(one.to_json()).encode() for one in (plain, replace(plain, input_px=224))]


def _recipe_seeds() -> list[bytes]:
    from edgemobile.quant.recipes import RECIPES

    return [json.dumps(recipe.to_json()).encode() for recipe in RECIPES.values()]


def _recipe(data: bytes, folder: Path) -> object:
    from edgemobile.quant.recipes import read_recipe

    return read_recipe(str(_put(folder, "mine.json", data))).to_json()


def _read_preprocess(data: bytes, folder: Path) -> object:
    from edgemobile.loading.presets import says_resolution

    return says_resolution(str(_put(folder, "mine.json", data)))


def _run_seeds() -> list[bytes]:
    from made_runs import make_case, make_counted, make_run

    return [make_run(make_case()).to_text().encode(), make_run(make_counted(), emulated=True).to_text().encode()]


def _read_run(data: bytes, folder: Path) -> object:
    from edgemobile.devices.host.records import load_run
    from edgemobile.latency.statistics import verdict

    run = load_run(_put(folder, "run.json", data))
    return [verdict(case, run) for case in run.cases]


def _source_seeds() -> list[bytes]:
    """One of each kind that a report takes."""
    from edgemobile.comparison.layers import LayerParity
    from edgemobile.comparison.report import FileParity, ParityReport
    from edgemobile.metrics.measures import METRICS

    metrics, layers = dict.fromkeys(METRICS, 1.0), (LayerParity("conv", "conv2d", 90.0, 0.0, 1.0),)
    parity = ParityReport(
        "v2", "4 images", (FileParity("a.onnx", "onnx", "int8", "here", "x86_64", metrics, {}, layers=layers),)
    )
    evaluated: dict[str, Any] = {
        "file": "a.onnx",
        "sha256": "a" * 64,
        "count": 100,
        "top1": 0.5,
        "top5": None,
        "top1_interval95": [0.4, 0.6],
        "runtime": "litert 2",
        "preprocess": "0 to 1",
        "per_class": [{"folder": "cat", "output": 0, "label": None, "count": 100, "correct": 50}],
        "confusion": [{"true": 0, "predicted": 0, "count": 50}],
    }
    scores = {"version": 1, "data": "photos", "split": None, "limit": None, "seed": 0, "on": None}
    scores |= {"images": ["1.png"], "classes": ["cat"], "files": [evaluated], "notes": []}
    exported = {
        "file": "a.onnx",
        "format": "onnx",
        "precision": "int8",
        "bytes": 9,
        "sha256": "a" * 64,
        "ops": {"Conv": 1},
    }
    exported |= {
        "hswish": "",
        "runtime": "r",
        "metrics": {"sqnr_db": None},
        "top1": 0.5,
        "missed": [],
        "latency_ns": [1],
    }
    model = {"name": "v2", "classes": 1, "input_px": 32, "labels": ["cat"], "preprocess": json.loads(_preprocess()[0])}
    manifest = {"version": 1, "edgemobile": "0.1.0", "command": None, "backend": "native", "model": model}
    manifest |= {
        "weights": {"source": "mine", "sha256": "c" * 64},
        "checked_on": {"images": "8 images", "float_top1": None},
    }
    manifest |= {"recipe": None, "target": None, "calibration": None, "files": [exported], "notes": [], "tools": {}}
    return [json.dumps(one).encode() for one in (parity.to_json(), scores, manifest)]


def _source(data: bytes, folder: Path) -> object:
    """The whole way to the tables and texts of a report."""
    from edgemobile.report.cards import model_cards
    from edgemobile.report.findings import join
    from edgemobile.report.sources import read_sources
    from edgemobile.report.text import as_csv, as_markdown

    found = join(read_sources([_put(folder, "source.json", data)]))
    return as_markdown(found), as_csv(found), model_cards(found)


# ---- configuration, labels, images ----------------------------------------------------------------------------------

_CONFIG = b"""[gate]
images = 8
[tolerances.int8]
sqnr_db = 20
[models.mine]
model = "v2"
weights = "random"
size = { int8 = "4 MiB" }
instructions."emulated:cortex-a72" = { "int8.tflite" = "9M" }
[devices."emulated:cortex-a72"]
formats = ["tflite"]
[defaults.export]
int8 = true
"""


def _config(data: bytes, folder: Path) -> object:
    from edgemobile.cli import cli
    from edgemobile.commands.defaults import defaults_of
    from edgemobile.gate.load import load_gate
    from edgemobile.util.config_file import read_config

    file = read_config(_put(folder, "edgemobile.toml", data))
    return load_gate(file), defaults_of(cli, file)


def _devices(data: bytes, folder: Path) -> object:
    from edgemobile.devices.host.profiles import load_devices

    before = os.environ.get("EDGEMOBILE_DEVICES")
    os.environ["EDGEMOBILE_DEVICES"] = str(_put(folder, "devices.toml", data))
    try:
        return load_devices()
    finally:
        if before is None:
            del os.environ["EDGEMOBILE_DEVICES"]
        else:
            os.environ["EDGEMOBILE_DEVICES"] = before


def _labels(data: bytes, folder: Path) -> object:
    from edgemobile.images.class_labels import find_labels

    return find_labels(folder / "model.onnx", 3, {}, _put(folder, "names.txt", data))


def _picture_seeds() -> list[bytes]:
    return [data for _, data in _pictures()]


def _pictures() -> Iterator[tuple[str, bytes]]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    for name in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, name)
        yield name.lower(), buffer.getvalue()


def _zip_seeds() -> list[bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, (_, data) in enumerate(_pictures()):
            archive.writestr(f"val/{'cat' if index % 2 else 'dog'}/{index}.png", data)
    return [buffer.getvalue()]


def _image_set(data: bytes, folder: Path) -> object:
    from edgemobile.images.dataset import open_dataset
    from edgemobile.preprocess import Preprocess

    dataset = open_dataset(_put(folder, "photos.zip", data))
    return dataset.load_batch(range(min(len(dataset), 4)), Preprocess(16))


def _picture(data: bytes, folder: Path) -> object:
    from edgemobile.images.dataset import open_dataset
    from edgemobile.preprocess import Preprocess

    (folder / "photos").mkdir(exist_ok=True)
    _put(folder / "photos", "one.png", data)
    return open_dataset(folder / "photos").load_batch([0], Preprocess(16))


_ONNX, _TFLITE, _TORCH = ("torch", "onnx"), ("torch", "ai_edge_litert"), ("torch",)

TARGETS: dict[str, Target] = {
    "tflite-structure": Target(_structure, lambda: _models("tflite"), needs=_TFLITE),
    "tflite-graph": Target(_graph("tflite"), lambda: _models("tflite"), needs=_TFLITE),
    "tflite-model": Target(_file_model, lambda: _models("tflite"), needs=_TFLITE),
    "tflite-metadata": Target(_metadata("tflite"), lambda: _models("tflite"), needs=_TFLITE),
    "onnx-structure": Target(_structure, lambda: _models("onnx"), needs=_ONNX),
    "onnx-model": Target(_file_model, lambda: _models("onnx"), needs=_ONNX),
    "onnx-graph": Target(_graph("onnx"), lambda: _models("onnx"), needs=_ONNX),
    "onnx-metadata": Target(_metadata("onnx"), lambda: _models("onnx"), needs=_ONNX),
    "tflite-run": Target(_run, lambda: _models("tflite"), needs=_TFLITE, slow=True),
    "onnx-run": Target(_run, lambda: _models("onnx"), needs=("torch", "onnx", "onnxruntime"), slow=True),
    "origins": Target(_origins, _origins_seeds, text=True),
    "safetensors": Target(_weights("mine.safetensors"), _safetensors_seeds, needs=("torch", "safetensors")),
    "architecture": Target(_architecture, _architecture_seeds, text=True),
    "pickle": Target(_weights("mine.pth"), _pickle_seeds, needs=_TORCH),
    "program": Target(_program, _program_seeds, needs=_TORCH),
    "recipe": Target(_recipe, _recipe_seeds, text=True, needs=_TORCH),
    "coco": Target(_read_coco, _coco, text=True),
    "postprocess": Target(_read_postprocess, _postprocess, text=True),
    "preprocess": Target(_read_preprocess, _preprocess, text=True),
    "run": Target(_read_run, _run_seeds, text=True),
    "report-source": Target(_source, _source_seeds, text=True),
    "configuration": Target(_config, lambda: [_CONFIG], text=True, needs=_TORCH),
    "devices": Target(_devices, lambda: [b'[pi5]\naddress = "ssh://pi@pi5:22"\nroot = "/home/pi"\n'], text=True),
    "labels": Target(_labels, lambda: [b"cat\ndog\nfrog\n", "\ufeff0 cat\r\n1 dog\r\n2 frog".encode()], text=True),
    "zip": Target(_image_set, _zip_seeds),
    "picture": Target(_picture, _picture_seeds),
}
