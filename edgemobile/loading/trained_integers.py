"""The int8 graph that `edgemobile finetune` trained, next to the checkpoint it belongs to.

FILE.json names it: {"int8": {"file": "v3-small-int8.tflite", "sha256": ...}}. A TFLite file states every integer, scale
and zero point, so it is read back as the graph that was trained.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePath

from edgemobile.errors import EdgemobileError
from edgemobile.exporters.model_files import read_model_file
from edgemobile.graph import Graph
from edgemobile.graph.ir import with_origins
from edgemobile.graph.origins_entry import read_origins
from edgemobile.loading.checkpoint_facts import beside

__all__ = ["ENTRY", "trained_integers"]

# The entry of FILE.json.
ENTRY = "int8"


def trained_integers(checkpoint: Path, sha256: str, name: str) -> tuple[Graph, str] | None:
    """(the int8 graph trained for the `checkpoint` of this sha256, called `name`; its file); None if there is none.

    Raises EdgemobileError if the file is missing, damaged or another one.
    """
    entry = beside(checkpoint, sha256).get(ENTRY)
    if entry is None:
        return None
    if not (isinstance(entry, dict) and isinstance(file := entry.get("file"), str) and PurePath(file).name == file):
        raise EdgemobileError(f"the {ENTRY} entry of the JSON beside {checkpoint} must name a file next to it")
    found = read_model_file(checkpoint.with_name(file))
    if found.sha256 != entry.get("sha256"):
        raise EdgemobileError(
            f"{found.path} is not the file that was trained for {checkpoint.name}: their sha256 differ. Train again, "
            f"or remove the {ENTRY} entry from the JSON beside the checkpoint"
        )
    from edgemobile.exporters.tflite_graph import read_graph

    graph = read_graph(found.data)
    if not graph.is_quantized:
        raise EdgemobileError(f"{found.path} is not an int8 file")
    origins = {
        tensor: origin for tensor, origin in read_origins(found.metadata, file).items() if tensor in graph.tensors
    }
    return replace(graph, name=name, tensors=with_origins(graph.tensors, origins)), file
