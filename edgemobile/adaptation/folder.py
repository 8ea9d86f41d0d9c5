"""The folder of an adaptation: what --resume reads from it, and the checkpoints in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgemobile.adaptation.pruning import Weights
from edgemobile.adaptation.request import AdaptRequest, Step
from edgemobile.adaptation.search import Search
from edgemobile.errors import EdgemobileError
from edgemobile.loading.checkpoint import ARCHITECTURE
from edgemobile.models.arch import Arch
from edgemobile.models.table import read_table, table_of
from edgemobile.preprocess import Preprocess
from edgemobile.training.folder import saved_state, write_bytes, write_state
from edgemobile.util.strict_json import decode, encode
from edgemobile.util.writing import write_whole

__all__ = ["PROGRESS_FILE", "save_search", "saved_search", "write_checkpoint"]

# What --resume reads; removed at the end.
PROGRESS_FILE = "adaptation.pt"
_STEPS_FILE = "steps.jsonl"


def saved_search(request: AdaptRequest, full: Arch) -> Search | None:
    """The search that `request` resumes, None for a new run. Raises EdgemobileError for an `out` that exists, and for a
    state of other options or of another net than `full`."""
    state = saved_state(request, PROGRESS_FILE, "adaptation")
    if not state:
        return None
    path = request.out / PROGRESS_FILE
    try:
        arch = read_table(state[ARCHITECTURE], str(path)).arch()
        steps = tuple(decode(Step, value, path.name) for value in json.loads(state["steps"]))
        return Search(Weights(replace(arch, input_px=full.input_px, classes=full.classes), state["weights"]), steps)
    except (EdgemobileError, KeyError, TypeError, ValueError) as error:
        raise EdgemobileError(f"{path} cannot be read: {error}. Begin again with --overwrite") from error


def save_search(request: AdaptRequest, search: Search) -> None:
    """Save the search for --resume, and its steps as JSON lines for the reader."""
    steps = [encode(step) for step in search.steps]
    state = {
        "request": request.decisive,
        ARCHITECTURE: table_of(search.net.arch).to_json(),
        "steps": json.dumps(steps),
        "weights": dict(search.net.state),
    }
    write_state(request.out / PROGRESS_FILE, state)
    write_whole(request.out / _STEPS_FILE, "".join(f"{json.dumps(step)}\n" for step in steps))


def write_checkpoint(
    path: Path, net: Weights, labels: Sequence[str] | None, preprocess: Preprocess, origin: Mapping[str, str]
) -> None:
    """Write a .safetensors file that needs no other: its metadata has the architecture, the labels and the
    preprocessing, and `origin` says where the weights came from."""
    from safetensors.torch import save

    metadata = {
        ARCHITECTURE: table_of(net.arch).to_json(),
        "preprocess": preprocess.to_json(),
        **({} if labels is None else {"labels": list(labels)}),
        "from": dict(origin),
    }
    tensors = {key: value.contiguous() for key, value in net.state.items()}
    write_bytes(path, save(tensors, {key: json.dumps(value) for key, value in metadata.items()}))
