"""The precision of a file is one rule, by what the file stores, and every command goes by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_net import PX, make

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

from edgemobile.comparison.run import ParityRequest, parity
from edgemobile.devices.host.records import Settings
from edgemobile.devices.host.runner import bench_job
from edgemobile.exporters import FORMATS
from edgemobile.exporters.model_files import model_file, read_model_file
from edgemobile.gate.cache import Cache
from edgemobile.gate.load import load_gate
from edgemobile.gate.measured import written_files
from edgemobile.graph import Graph
from edgemobile.graph.embed import embed
from edgemobile.inspection import inspect_file
from edgemobile.lower import export_program, lower
from edgemobile.preprocess import IMAGENET, at_resolution
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe
from edgemobile.quant.weights_only import to_float16, to_int8_weights
from edgemobile.util.config_file import read_config
from edgemobile.util.progress import Silent

PREPROCESS = at_resolution(IMAGENET, PX)
PRECISIONS = ("float32", "float16", "weight-only", "int8")


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    graph = lower(export_program(make(), (1, 3, PX, PX)))
    images = np.random.default_rng(0).standard_normal((4, PX, PX, 3)).astype(np.float32)
    int8 = ptq(graph, [images], Recipe(refit=0, bias_correction=False, equalize=0)).graph
    return {"float32": graph, "float16": to_float16(graph), "weight-only": to_int8_weights(graph), "int8": int8}


def _write(folder: Path, form: str, graph: Graph, **options: Any) -> Path:
    path = folder / f"model.{form}"
    path.write_bytes(FORMATS[form].load().to_bytes(graph, metadata={}, **options))
    return path


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("pixels", [False, True], ids=["real", "pixels"])
def test_of_our_own_files(graphs: dict[str, Graph], form: str, precision: str, pixels: bool, tmp_path: Path) -> None:
    """uint8 pixels at the input are no quantization."""
    graph = embed(graphs[precision], PREPROCESS) if pixels else graphs[precision]
    assert read_model_file(_write(tmp_path, form, graph)).precision == precision


@pytest.mark.parametrize("weights", ["int8", "uint8"])
def test_of_an_onnx_file_for_any_target(graphs: dict[str, Graph], weights: str, tmp_path: Path) -> None:
    assert read_model_file(_write(tmp_path, "onnx", graphs["int8"], weights=weights)).precision == "int8"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_a_file_states_decides_nothing(graphs: dict[str, Graph], precision: str) -> None:
    for form in FORMATS:
        data = FORMATS[form].load().to_bytes(graphs[precision], metadata={"edgemobile.precision": "int4"})
        file = model_file(Path("stated"), data)
        assert (file.precision, file.stated_precision) == (precision, "int4")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_command_goes_by_it(graphs: dict[str, Graph], form: str, precision: str, tmp_path: Path) -> None:
    path = _write(tmp_path, form, graphs[precision])
    file = read_model_file(path)
    (told,) = bench_job([file], Settings(), [], emulated=False)["files"]
    (row,) = parity(ParityRequest(str(path), (str(path),), images=1)).files
    config = tmp_path / "edgemobile.toml"
    config.write_text(f"[models.small]\nmodel = '{path.name}'\nfiles = ['{path.name}']\n")
    gate = load_gate(read_config(config))
    model = written_files(gate.models[0], gate, Cache(tmp_path / "kept"), Silent())
    found = {
        "bench": told["precision"],
        "parity": row.precision,
        "gate": model.precision(model.files[0]),
        "inspect": inspect_file(path).precision,
    }
    assert found == dict.fromkeys(found, precision)
