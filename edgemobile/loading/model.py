"""The input of an export: a model with its weights, and what is known about it.

Of models in PyTorch there are three kinds: a reference model by name, `package.module:factory`, and a saved
torch.export program (.pt2). A model file is another one (loading.file_model).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemobile.devices.runtimes.sessions import Port
from edgemobile.errors import EdgemobileError, Unsupported, first_line, require
from edgemobile.graph import Graph
from edgemobile.images.class_labels import find_labels
from edgemobile.loading.checkpoint import (
    ARCHITECTURE,
    NAMED,
    RANDOM,
    Checkpoint,
    build,
    identify,
    load_into,
    load_weights,
)
from edgemobile.loading.model_spec import is_checkpoint, is_factory, is_program
from edgemobile.loading.own_model import load_factory, load_program
from edgemobile.loading.presets import chosen_preprocess, says_resolution
from edgemobile.lower.hints import GREY, check_not_quantized, training_branches
from edgemobile.lower.module_trace import ModuleTrace, Program, trace_modules
from edgemobile.metrics.outputs import Output, channels_last, is_classifier, most_images, not_a_classifier, rows_of
from edgemobile.models.arch import Arch, get_arch
from edgemobile.models.ssdlite import postprocess
from edgemobile.postprocess import Postprocess
from edgemobile.preprocess import IMAGENET, Preprocess, at_resolution
from edgemobile.util.progress import Report

if TYPE_CHECKING:
    import torch

__all__ = ["Model", "TorchModel", "load_model", "refuse_given"]

_FACTORY_PX = 224
_REFERENCE_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Model(ABC):
    """A model ready to lower, and what is known about it.

    `outputs` are its own by name, with channels last; the only one that has no name is "output". `batch` is that of its
    files. `postprocess` is how the outputs of a detector become boxes. `labels` are class names if known; `facts`
    describe the model in the manifest. `notes` are for the user; `assumption` is the note that no source states
    `preprocess`, so the usual one of such models is used. `px_assumed` is the same for the resolution.
    `source_preprocess` is set for a file that scales its pixels itself: what comes before its own input. `random`
    weights were never trained: requested as random, or recognized by batch norms that never saw an image. `reference`
    is what computes `rows`, in words. `is_quantized` models round their values themselves, so a float file cannot agree
    with them better than an int8 file does.
    """

    name: str
    batch: int
    outputs: tuple[Output, ...]
    preprocess: Preprocess
    source: str
    sha256: str
    labels: tuple[str, ...] | None = None
    postprocess: Postprocess | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    assumption: str | None = None
    px_assumed: bool = False
    source_preprocess: Preprocess | None = None
    random: bool = False
    reference: str = "PyTorch"
    is_quantized: bool = False

    @property
    def is_classifier(self) -> bool:
        """Whether it has a single output [N, classes]."""
        return is_classifier(self.outputs)

    @property
    def classes(self) -> int | None:
        """The number of classes; None for a net that is not a classifier."""
        return self.outputs[0].size if self.is_classifier else None

    @property
    def label_count(self) -> int | None:
        """The number of names in `labels`; the first label of a detector is the background."""
        if self.postprocess is None:
            return self.classes
        return next(output.shape[-1] for output in self.outputs if output.name == self.postprocess.logits)

    def classified(self) -> int:
        """The number of classes. Raises Unsupported for a net that is not a classifier."""
        if self.classes is None:
            raise Unsupported(not_a_classifier(self.name, [output.words for output in self.outputs]))
        return self.classes

    @abstractmethod
    def rows(self, images: np.ndarray) -> np.ndarray:
        """Its own outputs as rows f32[N,values] for preprocessed images f32[N,H,W,3], any N; see metrics.outputs.

        The rows of a classifier are its logits.
        """

    @abstractmethod
    def graph(self) -> Graph:
        """What it computes. Raises Unsupported, naming the op, for an op that a Graph does not have."""


@dataclass(frozen=True, kw_only=True)
class TorchModel(Model):
    """A model in PyTorch. `net` computes the reference: f32[N,3,H,W] -> f32[N,classes], or a tuple of all its `outputs`
    with channels first if it is not a classifier. `traced` is its program for `batch` images: torch.export's, or the
    faster trace of its modules. `arch` is the table of a reference model, else None."""

    net: torch.nn.Module
    traced: Program
    arch: Arch | None = None

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """torch.export's program for `batch` images."""
        from edgemobile.lower import export_program

        px = self.preprocess.input_px
        if isinstance(self.traced, ModuleTrace):
            return export_program(self.net, (self.batch, 3, px, px))
        return self.traced

    def graph(self) -> Graph:
        from edgemobile.lower import lower

        return lower(self.traced, self.name)

    def rows(self, images: np.ndarray) -> np.ndarray:
        """As PyTorch computes them. Raises Unsupported if the net cannot be run on the batch that it was traced for."""
        # A net takes any batch, and larger ones are several times faster. A saved program takes only its own, as does a
        # net with x.view(1, -1) in it.
        with suppress(Exception):
            return self._rows(images, min(_REFERENCE_BATCH, most_images(self.outputs, _REFERENCE_BATCH)))
        try:
            return self._rows(images, self.batch)
        except Exception as error:
            raise Unsupported(f"{self.name} cannot be run on a batch of {self.batch}: {first_line(error)}") from error

    def _rows(self, images: np.ndarray, batch: int) -> np.ndarray:
        import torch

        rows, wanted = [], [output.shape for output in self.outputs]
        with torch.no_grad():
            for start in range(0, len(images), batch):
                part = images[start : start + batch]
                padded = np.pad(part, ((0, batch - len(part)), (0, 0), (0, 0), (0, 0)))
                made = self.net(torch.from_numpy(np.ascontiguousarray(padded.transpose(0, 3, 1, 2))))
                arrays = [value.numpy() for value in ((made,) if isinstance(made, torch.Tensor) else made)]
                found = [channels_last(array.shape) for array in arrays]
                if found != [(batch, *shape) for shape in wanted]:
                    raise ValueError(f"its outputs are {list(map(list, found))}, for a batch of {batch}")
                rows.append(rows_of(arrays, channels_first=True)[: len(part)])
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
) -> TorchModel:
    """Load the model `spec` with its weights, traced for `batch` images of `res` pixels.

    `spec` may also be a checkpoint of a reference model, FILE.pth: the model is found from its shapes.

    `weights` is "bundled", "imagenet", "random" or a file. None is "bundled" for a reference model, and the weights
    that a custom model comes with. "random" states that a factory's own weights were never trained. `labels` is a file
    of class names, one per line, and `preprocess` is what loading.presets takes. For the other arguments, None takes
    the checkpoint's or the model's own value. `on_download` is called while public weights are downloaded. Raises
    EdgemobileError.
    """
    require("torch", "export")
    if res is not None and res < 1:
        raise EdgemobileError(f"res must be at least 1 pixel, found {res}")
    if is_program(spec):
        refuse_given(
            spec, "is traced already", {"--weights": weights, "--width": width, "--res": res, "--classes": classes}
        )
        model = _saved(Path(spec), preprocess)
    elif is_factory(spec):
        refuse_given(spec, "decides that itself", {"--width": width, "--classes": classes})
        model = _from_factory(spec, weights, res, batch, seed, preprocess)
    else:
        if is_checkpoint(spec):
            refuse_given(spec, "contains weights itself", {"--weights": weights})
            arch, weights = identify(Path(spec)), spec
        else:
            arch = get_arch(spec)
        checkpoint = load_weights(
            weights or "bundled", arch, width=width, classes=classes, seed=seed, on_progress=on_download
        )
        assumed = not checkpoint.random and _px_assumed(checkpoint, res, preprocess)
        checkpoint = _preprocessed(checkpoint, preprocess, res or _px(checkpoint) or arch.input_px)
        arch, net = build(arch, checkpoint, input_px=res)
        facts: dict[str, Any] = {"paper": arch.paper, "width": arch.width}
        if checkpoint.table is not None:
            facts[ARCHITECTURE] = checkpoint.table.to_json()
        boxes = postprocess(arch) if arch.head == "ssdlite" else None
        model = _traced(arch.name, net, checkpoint, arch.input_px, batch, facts, boxes, px_assumed=assumed, arch=arch)
    if labels is None:
        return model
    return replace(model, labels=find_labels(Path(spec), model.label_count or model.classified(), {}, labels).names)


def _from_factory(
    spec: str, weights: str | None, res: int | None, batch: int, seed: int, preprocess: str | None
) -> TorchModel:
    import torch

    # A factory with random weights draws the same ones for every command.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = load_factory(spec)
    check_not_quantized(spec, net.state_dict())
    if weights in NAMED and weights != RANDOM:
        raise Unsupported(
            f"--weights {weights} is for reference models: {spec} creates its own weights; omit it, use random if "
            "they were never trained, or give a file"
        )
    others = sorted({str(value.dtype) for value in net.state_dict().values() if value.is_floating_point()})
    net = net.float()
    if weights in (None, RANDOM):
        _check_state(spec, net.state_dict())
        digest = hashlib.sha256(
            b"".join(value.cpu().numpy().tobytes() for value in net.state_dict().values())
        ).hexdigest()
        random = weights == RANDOM or _untrained(net.state_dict())
        checkpoint = Checkpoint(net.state_dict(), f"{spec}'s own", digest, random=random)
    else:
        checkpoint = load_weights(weights, wanted=net.state_dict().keys())
        load_into(net, checkpoint)
    assumed = _px_assumed(checkpoint, res, preprocess)
    if others not in ([], ["torch.float32"]):
        note = f"{spec} returns a net of {' and '.join(others)}: it is converted to float32, as by `net.float()`"
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, note))
    if note := training_branches(net):
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, note))
    checkpoint = _preprocessed(checkpoint, preprocess, res or _px(checkpoint) or _FACTORY_PX)
    input_px = res or _px(checkpoint) or _FACTORY_PX
    return _traced(spec.partition(":")[2], net, checkpoint, input_px, batch, {"factory": spec}, px_assumed=assumed)


def _traced(
    name: str,
    net: torch.nn.Module,
    checkpoint: Checkpoint,
    input_px: int,
    batch: int,
    facts: Mapping[str, Any],
    boxes: Postprocess | None = None,
    *,
    px_assumed: bool,
    arch: Arch | None = None,
) -> TorchModel:
    """`arch` is given for a net of ours, whose program follows from its modules."""
    from edgemobile.lower import export_program

    preprocess = at_resolution(checkpoint.preprocess or IMAGENET, input_px)
    shape = (batch, 3, input_px, input_px)
    program = (trace_modules(net, shape) if arch else None) or export_program(net, shape)
    outputs = _outputs(name, program)
    model = TorchModel(
        name=name,
        net=_answering(net, program),
        traced=program,
        batch=batch,
        outputs=outputs,
        preprocess=preprocess,
        source=f"{checkpoint.source} weights",
        sha256=checkpoint.sha256,
        labels=checkpoint.labels,
        postprocess=boxes,
        facts=facts,
        notes=(*checkpoint.notes, *([checkpoint.assumed_px(input_px)] if px_assumed else [])),
        assumption=_assumption(checkpoint.source) if checkpoint.preprocess is None else checkpoint.assumption,
        px_assumed=px_assumed,
        random=checkpoint.random,
        arch=arch,
    )
    if checkpoint.labels is not None and len(checkpoint.labels) != model.label_count:
        found = f"{model.label_count} classes" if model.label_count else f"no classes but {_listed(outputs)}"
        raise EdgemobileError(f"{checkpoint.source} has {len(checkpoint.labels)} labels, and the model {found}")
    return model


def _saved(path: Path, preprocess: str | None) -> TorchModel:
    program, digest = load_program(path)
    check_not_quantized(path.name, program.state_dict)
    _check_state(path.name, program.state_dict)
    shape = _only_input(path.name, program)
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        grey = f". {GREY}" if len(shape) == 4 and shape[1] == 1 else ""
        raise Unsupported(
            f"{path} takes an input of shape {list(shape)}. Supported: square RGB images [N, 3, H, H]{grey}"
        )
    chosen = IMAGENET if preprocess is None else _chosen(preprocess, shape[2])
    try:
        net = program.module()
    except Exception as error:
        raise EdgemobileError(
            f"{path} is damaged: torch cannot create a module from it: {first_line(error)}"
        ) from error
    return TorchModel(
        name=path.stem,
        net=_answering(net, program),
        traced=program,
        batch=shape[0],
        outputs=_outputs(path.name, program),
        preprocess=at_resolution(chosen, shape[2]),
        source=f"{path.name} as saved",
        sha256=digest,
        facts={"program": str(path)},
        assumption=_assumption(path.name) if preprocess is None else None,
        random=_untrained(program.state_dict),
    )


def _px(checkpoint: Checkpoint) -> int | None:
    """The resolution a checkpoint was trained at, if it states it."""
    return checkpoint.preprocess.input_px if checkpoint.preprocess else None


def _px_assumed(checkpoint: Checkpoint, res: int | None, preprocess: str | None) -> bool:
    """Whether no source states the resolution: neither the checkpoint, nor --res, nor --preprocess."""
    said = preprocess is not None and says_resolution(preprocess)
    return res is None and checkpoint.stated_px is None and not said


def _untrained(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether all batch norms have their initial statistics: the net never saw an image. False without batch norms."""
    fresh = {"running_mean": (0,), "running_var": (1,), "weight": (0, 1), "bias": (0,)}
    norms = [key.removesuffix("running_mean") for key in state if key.endswith("running_mean")]
    values = [(state.get(f"{norm}{name}"), starts) for norm in norms for name, starts in fresh.items()]
    return bool(norms) and all(
        value is None or any(bool((value == start).all()) for start in starts) for value, starts in values
    )


def _preprocessed(checkpoint: Checkpoint, preprocess: str | None, usual_px: int) -> Checkpoint:
    """`checkpoint` with the requested preprocessing; at `usual_px` if that has no resolution."""
    if preprocess is None:
        return checkpoint
    return replace(checkpoint, preprocess=_chosen(preprocess, usual_px), assumption=None)


def _chosen(preprocess: str, usual_px: int) -> Preprocess:
    port = Port("image", (1, 3, usual_px, usual_px), "float32", "NCHW")
    return chosen_preprocess(preprocess, port, None, usual_px)[0]


def _assumption(source: str) -> str:
    return f"{source} does not state preprocessing: ImageNet's mean and standard deviation are assumed"


def _check_state(source: str, state: Mapping[str, torch.Tensor]) -> None:
    import torch

    for key, value in state.items():
        if value.is_floating_point() and value.dtype != torch.float32:
            raise Unsupported(f"{source}: {key} is {value.dtype}. Supported: float32; save the program of net.float()")
        if not value.isfinite().all():
            raise EdgemobileError(
                f"{source}: {key} contains values that are not finite; the training may have diverged"
            )


def _answering(net: torch.nn.Module, program: Program) -> torch.nn.Module:
    """`net`, with its one output tensor unpacked from a tuple or a dict, or all of several as a flat tuple."""
    import torch
    from torch.utils import _pytree as pytree

    if program.call_spec.out_spec.is_leaf():
        return net

    class Answering(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
            tensors = [leaf for leaf in pytree.tree_leaves(self.net(images)) if isinstance(leaf, torch.Tensor)]
            return tensors[0] if len(tensors) == 1 else tuple(tensors)

    return Answering()


def refuse_given(spec: str, because: str, options: Mapping[str, object]) -> None:
    """Raises Unsupported for options that the kind of model `spec` does not take; None is not given."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise Unsupported(f"{spec} {because}: omit {', '.join(given)}")


def _only_input(name: str, program: Program) -> tuple[int, ...]:
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise Unsupported(f"{name} takes {len(inputs)} inputs. Supported: models with one image input")
    shape = tuple(inputs[0].meta["val"].shape)
    if not all(isinstance(size, int) for size in shape):
        raise Unsupported(f"{name} was traced with dynamic shapes {list(map(str, shape))}. Trace it with fixed ones")
    return shape


def _outputs(name: str, program: Program) -> tuple[Output, ...]:
    """What the program returns, channels last. Raises Unsupported for nothing, and for outputs that are not one value
    or more for each image."""
    from edgemobile.lower.output_names import named_outputs

    named = [(label or "output", tuple(node.meta["val"].shape)) for label, node in named_outputs(program)]
    if not named:
        raise Unsupported(f"{name} returns no tensor. Supported: a tensor, or a dict, a tuple or a list of them")
    batch = _only_input(name, program)[0]
    for label, shape in named:
        if shape[:1] != (batch,) or not all(isinstance(size, int) and size for size in shape[1:]):
            raise Unsupported(
                f"{name} returns {label} of shape {list(shape)} for a batch of {batch}. Supported: one row per image, "
                f"[{batch}, ...]"
            )
    return tuple(Output(label, channels_last(shape)[1:]) for label, shape in named)


def _listed(outputs: Sequence[Output]) -> str:
    return ", ".join(output.words for output in outputs)
