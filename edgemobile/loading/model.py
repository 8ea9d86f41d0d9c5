"""What goes in at the top: a traced model with its weights, and what is known of it.

Three roads lead here: a reference model by name, `package.module:factory`, and a saved torch.export program (.pt2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemobile.devices.runtimes.sessions import Port
from edgemobile.errors import EdgemobileError, Unsupported, first_line, require
from edgemobile.images.class_labels import find_labels
from edgemobile.loading.checkpoint import Checkpoint, build, load_into, load_weights
from edgemobile.loading.model_spec import is_factory, is_program
from edgemobile.loading.own_model import load_factory, load_program
from edgemobile.loading.presets import PRESETS, chosen_preprocess
from edgemobile.models.arch import get_arch
from edgemobile.preprocess import IMAGENET, Preprocess, at_resolution
from edgemobile.util.progress import Report

if TYPE_CHECKING:
    import torch

__all__ = ["Model", "load_model"]

_FACTORY_PX = 224
_REFERENCE_BATCH = 32


@dataclass(frozen=True)
class Model:
    """A model ready to lower. `net` is what computes the reference: f32[N,3,H,W] -> f32[N,classes].

    `batch` is the program's. `labels` are class names where known; `facts` describe the model in the manifest.
    `notes` is what a reader should be told; `assumption` is the note that nobody says `preprocess`, and that it is the
    usual one of such models.
    """

    name: str
    net: torch.nn.Module
    program: torch.export.ExportedProgram
    batch: int
    classes: int
    preprocess: Preprocess
    source: str
    sha256: str
    labels: tuple[str, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    assumption: str | None = None

    def logits(self, images: np.ndarray) -> np.ndarray:
        """PyTorch's own f32[N,classes] for preprocessed images f32[N,H,W,3], any N.

        Raises Unsupported where the net cannot be run on the batch it was traced for.
        """
        # A net takes any batch, and larger ones are several times faster; a saved program its own only, as does a net
        # with x.view(1, -1) in it.
        with suppress(Exception):
            return self._logits(images, _REFERENCE_BATCH)
        try:
            return self._logits(images, self.batch)
        except Exception as error:
            raise Unsupported(f"{self.name} cannot be run on a batch of {self.batch}: {first_line(error)}") from error

    def _logits(self, images: np.ndarray, batch: int) -> np.ndarray:
        import torch

        rows = []
        with torch.no_grad():
            for start in range(0, len(images), batch):
                part = images[start : start + batch]
                padded = np.pad(part, ((0, batch - len(part)), (0, 0), (0, 0), (0, 0)))
                logits = self.net(torch.from_numpy(np.ascontiguousarray(padded.transpose(0, 3, 1, 2))))
                if logits.shape != (batch, self.classes):
                    raise ValueError(f"it gives {list(logits.shape)}, not {[batch, self.classes]}")
                rows.append(logits.numpy()[: len(part)])
        return np.concatenate(rows)


def load_model(
    spec: str,
    weights: str | None = None,
    *,
    width: float | None = None,
    res: int | None = None,
    classes: int | None = None,
    batch: int = 1,
    seed: int = 0,
    labels: Path | None = None,
    preprocess: str | None = None,
    on_download: Report | None = None,
) -> Model:
    """The model `spec` names, with its weights, traced for `batch` images of `res` pixels.

    `weights` is "bundled", "imagenet", "random" or a file; None is "bundled" for a reference model, and what a model of
    one's own brings along for the others. `labels` is a list of class names, one a line, and `preprocess` what
    loading.presets takes. None elsewhere takes the checkpoint's or the model's own value. `on_download` hears of
    public weights being fetched. Raises EdgemobileError.
    """
    require("torch", "export")
    if res is not None and res < 1:
        raise EdgemobileError(f"res must be at least 1 pixel, found {res}")
    if is_program(spec):
        _refuse(spec, "is traced already", {"--weights": weights, "--width": width, "--res": res, "--classes": classes})
        model = _saved(Path(spec), preprocess)
    elif is_factory(spec):
        _refuse(spec, "decides that itself", {"--width": width, "--classes": classes})
        model = _from_factory(spec, weights, res, batch, seed, preprocess)
    else:
        arch = get_arch(spec)
        checkpoint = load_weights(
            weights or "bundled", arch, width=width, classes=classes, seed=seed, on_progress=on_download
        )
        checkpoint = _preprocessed(checkpoint, preprocess, res or _px(checkpoint) or arch.input_px)
        arch, net = build(arch, checkpoint, input_px=res)
        facts = {"paper": arch.paper, "width": arch.width}
        model = _traced(arch.name, net, checkpoint, arch.input_px, batch, facts)
    if labels is None:
        return model
    return replace(model, labels=find_labels(Path(spec), model.classes, {}, labels).names)


def _from_factory(
    spec: str, weights: str | None, res: int | None, batch: int, seed: int, preprocess: str | None
) -> Model:
    import torch

    # A factory that draws its weights draws the same ones for every command.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = load_factory(spec)
    others = sorted({str(value.dtype) for value in net.state_dict().values() if value.is_floating_point()})
    net = net.float()
    if weights is None:
        _check_state(spec, net.state_dict())
        digest = hashlib.sha256(
            b"".join(value.cpu().numpy().tobytes() for value in net.state_dict().values())
        ).hexdigest()
        checkpoint = Checkpoint(net.state_dict(), f"the weights {spec} made", digest)
    else:
        checkpoint = load_weights(weights, wanted=net.state_dict().keys())
        load_into(net, checkpoint)
    input_px = res or _px(checkpoint)
    if input_px is None and preprocess in (None, *PRESETS):
        note = f"{checkpoint.source} says nothing of a resolution: {_FACTORY_PX} px is assumed; --res takes another"
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, note))
    if others not in ([], ["torch.float32"]):
        note = f"{spec} makes a net of {' and '.join(others)}: taken as float32, as `net.float()` has it"
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, note))
    checkpoint = _preprocessed(checkpoint, preprocess, input_px or _FACTORY_PX)
    input_px = res or _px(checkpoint) or _FACTORY_PX
    return _traced(spec.partition(":")[2], net, checkpoint, input_px, batch, {"factory": spec})


def _traced(
    name: str, net: torch.nn.Module, checkpoint: Checkpoint, input_px: int, batch: int, facts: Mapping[str, Any]
) -> Model:
    from edgemobile.lower import export_program

    preprocess = at_resolution(checkpoint.preprocess or IMAGENET, input_px)
    program = export_program(net, (batch, 3, input_px, input_px))
    classes = _classes(name, program)
    if checkpoint.labels is not None and len(checkpoint.labels) != classes:
        raise EdgemobileError(
            f"{checkpoint.source} has {len(checkpoint.labels)} labels, and the model {classes} outputs"
        )
    return Model(
        name,
        _answering(net, program),
        program,
        batch,
        classes,
        preprocess,
        f"{checkpoint.source} weights",
        checkpoint.sha256,
        checkpoint.labels,
        facts,
        checkpoint.notes,
        _assumption(checkpoint.source) if checkpoint.preprocess is None else checkpoint.assumption,
    )


def _saved(path: Path, preprocess: str | None) -> Model:
    program = load_program(path)
    _check_state(path.name, program.state_dict)
    shape = _only_input(path.name, program)
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise Unsupported(f"{path} takes an input of shape {list(shape)}. Supported: square RGB images [N, 3, H, H]")
    chosen = IMAGENET if preprocess is None else _chosen(preprocess, shape[2])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Model(
        path.stem,
        _answering(program.module(), program),
        program,
        shape[0],
        _classes(path.name, program),
        at_resolution(chosen, shape[2]),
        f"{path.name} as saved",
        digest,
        facts={"program": str(path)},
        assumption=_assumption(path.name) if preprocess is None else None,
    )


def _px(checkpoint: Checkpoint) -> int | None:
    """The resolution a checkpoint was trained at, where it says so."""
    return checkpoint.preprocess.input_px if checkpoint.preprocess else None


def _preprocessed(checkpoint: Checkpoint, preprocess: str | None, usual_px: int) -> Checkpoint:
    """`checkpoint` with the preprocessing asked for; at `usual_px` where that says no resolution."""
    if preprocess is None:
        return checkpoint
    return replace(checkpoint, preprocess=_chosen(preprocess, usual_px), assumption=None)


def _chosen(preprocess: str, usual_px: int) -> Preprocess:
    port = Port("image", (1, 3, usual_px, usual_px), "float32", "NCHW")
    return chosen_preprocess(preprocess, port, None, usual_px)[0]


def _assumption(source: str) -> str:
    return f"{source} says nothing of preprocessing: ImageNet's mean and deviation are assumed"


def _check_state(source: str, state: Mapping[str, torch.Tensor]) -> None:
    import torch

    for key, value in state.items():
        if value.is_floating_point() and value.dtype != torch.float32:
            raise Unsupported(f"{source}: {key} is {value.dtype}. Supported: float32; save the program of net.float()")
        if not value.isfinite().all():
            raise EdgemobileError(f"{source}: {key} holds values that are not finite; the training may have diverged")


def _answering(net: torch.nn.Module, program: torch.export.ExportedProgram) -> torch.nn.Module:
    """`net`, giving its one tensor also where that comes in a tuple or a dict."""
    import torch
    from torch.utils import _pytree as pytree

    if program.call_spec.out_spec.is_leaf():
        return net

    class Answering(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return next(leaf for leaf in pytree.tree_leaves(self.net(images)) if isinstance(leaf, torch.Tensor))

    return Answering()


def _refuse(spec: str, because: str, options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise Unsupported(f"{spec} {because}: leave out {', '.join(given)}")


def _only_input(name: str, program: torch.export.ExportedProgram) -> tuple[int, ...]:
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise Unsupported(f"{name} takes {len(inputs)} inputs. Supported: models of one image input")
    shape = tuple(inputs[0].meta["val"].shape)
    if not all(isinstance(size, int) for size in shape):
        raise Unsupported(f"{name} was traced with dynamic shapes {list(map(str, shape))}. Trace it with fixed ones")
    return shape


def _classes(name: str, program: torch.export.ExportedProgram) -> int:
    """The size of the one output [N, classes]; None beside it does not count."""
    import torch

    (output,) = (node for node in program.graph.nodes if node.op == "output")
    shapes = [tuple(value.meta["val"].shape) for value in output.args[0] if isinstance(value, torch.fx.Node)]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise Unsupported(
            f"{name} gives outputs of shapes {[list(shape) for shape in shapes]}. Supported: one, [N, classes]"
        )
    return shapes[0][1]
