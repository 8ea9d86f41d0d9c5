"""Loads a model's weights: from the package, torchvision's public files, a seed, or any file.

    load_weights(spec, arch) -> Checkpoint      "bundled", "imagenet", "random", or a .pt, .pth, .safetensors or
                                                .tflite file
    build(arch, checkpoint)  -> (arch, net)     the reference model those weights belong to
    load_into(net, checkpoint)                  the same for a custom model (edgemobile.loading.own_model)

edgemobile.loading.checkpoint_facts finds the labels and the preprocessing. A .safetensors file whose metadata has an
architecture (models.table) is a net of that, whatever its family's own table has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgemobile.errors import EdgemobileError, first_few, require
from edgemobile.loading import checkpoint_facts as facts
from edgemobile.loading.files import Content, described, existing, read
from edgemobile.loading.key_layouts import Layout, check_complete, known_keys, recognised, translated
from edgemobile.loading.model_spec import CHECKPOINT_SUFFIXES
from edgemobile.loading.public import SPECS, PublicWeights, fetch, public_weights
from edgemobile.loading.wrappers import unwrapped
from edgemobile.models.arch import ARCHS, Arch, get_arch, scaled
from edgemobile.models.layers import class_layers, layers
from edgemobile.models.table import Table, read_table
from edgemobile.preprocess import Preprocess, at_resolution
from edgemobile.util.progress import Report

if TYPE_CHECKING:
    import torch

__all__ = [
    "ARCHITECTURE",
    "CHECK_IMAGES",
    "NAMED",
    "RANDOM",
    "Checkpoint",
    "arch_of",
    "build",
    "bundled",
    "identify",
    "load_into",
    "load_weights",
]

# The entry of a checkpoint's metadata with the rows of its net.
ARCHITECTURE = "architecture"

# What `load_weights` takes besides files. Checkpoint.random states that weights are random, whatever their source.
RANDOM = "random"
NAMED = ("bundled", RANDOM, *SPECS)
_BUNDLED = Path(__file__).parent.parent / "bundled"
# An ImageFolder for all weights in the package, from examples/bundled_images.py.
CHECK_IMAGES = _BUNDLED / "check_images.zip"
# The papers' multipliers come first, then every step of 0.05: two widths may round to the same channels.
_WIDTHS = (1.0, 0.75, 0.5, 0.25, 0.35, 1.4, 1.3, 1.25, 1.5, 2.0, *(step / 20 for step in range(1, 41)))


@dataclass(frozen=True)
class Checkpoint:
    """Weights and what is known about them.

    `state_dict` contains f32 tensors (integers are kept), under the keys of models.nets for a reference model. `arch`,
    `width` and `classes` are inferred from the shapes; `labels` and `preprocess` come from files next to it. None: not
    known. `table` is the architecture that the file itself contains. `sha256` is of the file, or of the tensors if
    there is no file. `bn_eps` and `padding` are those of the source library if they differ from ours. `notes` are for
    the user; `assumption` is the note that no source states `preprocess`, so the usual one of such files is used.
    `random` weights were never trained.
    """

    state_dict: Mapping[str, torch.Tensor]
    source: str
    sha256: str
    arch: str | None = None
    width: float | None = None
    classes: int | None = None
    labels: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    bn_eps: float | None = None
    padding: Literal["both", "same"] | None = None
    notes: tuple[str, ...] = ()
    assumption: str | None = None
    random: bool = False
    table: Table | None = None

    @property
    def stated_px(self) -> int | None:
        """The resolution it was trained at; None if unknown."""
        return None if self.preprocess is None or self.assumption else self.preprocess.input_px

    def assumed_px(self, px: int) -> str:
        """The note that no source states a resolution, so `px` is assumed."""
        return f"{self.source} does not state a resolution: {px} px is assumed; set another with --res"


def bundled() -> tuple[str, ...]:
    """The reference models with weights in the package."""
    return tuple(sorted(path.stem for path in _BUNDLED.glob("*.safetensors")))


def load_weights(
    spec: str | Path,
    arch: Arch | None = None,
    *,
    wanted: Collection[str] = (),
    width: float | None = None,
    classes: int | None = None,
    seed: int = 0,
    on_progress: Report | None = None,
) -> Checkpoint:
    """Load the weights `spec`, for the reference model `arch` or for any model (None: only from a file).

    `wanted` are the state_dict keys of a custom model, which separate a wrapper's prefix of a key from the model's
    part. `width` and `classes` are required values; None takes the file's, or the model's for random weights.
    `on_progress` is called during a download (edgemobile.loading.public). Raises EdgemobileError if the file cannot be
    read or does not contain what is required.
    """
    require("torch", "export")
    if spec in NAMED and arch is None:
        raise EdgemobileError(f"{spec} weights are for reference models only. Known: {', '.join(ARCHS)}")
    if spec == RANDOM:
        assert arch is not None
        return _random(scaled(arch, width=width, classes=classes), seed)
    if spec in SPECS:
        assert arch is not None
        return _public(arch, public_weights(arch.name, str(spec)), width, classes, on_progress)
    path = _bundled_path(arch) if spec == "bundled" and arch else Path(spec)
    if path.suffix.lower() == ".tflite":
        return _of_tflite(path, arch, width, classes)
    source = f"bundled {path.name}" if spec == "bundled" else str(path)
    content = read(path)
    table = _table_in(content, source)
    if table is not None and arch is not None:
        arch = _arch_of(table, arch, source)
    checkpoint = Checkpoint(content.state, source + content.entry, content.sha256, notes=content.notes, table=table)
    checkpoint = _bare(checkpoint, known_keys(arch) if arch else wanted)
    checkpoint = _with_facts(checkpoint, {**facts.inside(content.whole), **facts.beside(path, content.sha256)})
    return checkpoint if arch is None else _fitted(checkpoint, arch, width, classes)


def load_into(net: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Load all weights into `net`. Raises EdgemobileError with the first keys and shapes that do not fit."""
    wanted, found = _shapes(net.state_dict()), _shapes(checkpoint.state_dict)
    # Checkpoints from before PyTorch 0.4 have no count of batches, and inference does not need it.
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    left_over = [key for key in found if key not in wanted]
    reshaped = [
        f"{key} (found {list(found[key])}, needed {list(wanted[key])})"
        for key in wanted
        if key in found and found[key] != wanted[key]
    ]
    problems = {"missing": missing, "left over": left_over, "of another shape": reshaped}
    if any(problems.values()):
        said = "; ".join(f"{len(keys)} {what}: {first_few(keys)}" for what, keys in problems.items() if keys)
        raise EdgemobileError(f"{checkpoint.source} does not fit {type(net).__name__}: {said}")
    net.load_state_dict(checkpoint.state_dict, strict=False)


def build(arch: Arch, checkpoint: Checkpoint, *, input_px: int | None = None) -> tuple[Arch, torch.nn.Module]:
    """(`arch` at the checkpoint's width and classes, its net in eval mode with those weights).

    The resolution is `input_px`, else what the checkpoint was trained at, else that of `arch`.
    """
    import torch

    from edgemobile.models.nets import build_net

    arch = _built_arch(arch, checkpoint, input_px)
    with torch.random.fork_rng(devices=[]):
        net = build_net(arch)
    load_into(net, checkpoint)
    return arch, net.eval()


def arch_of(path: str) -> Arch:
    """The net of a checkpoint of a reference model. Raises EdgemobileError if it is of none, or does not fit."""
    arch = identify(Path(path))
    return _built_arch(arch, load_weights(path, arch), None)


def _built_arch(arch: Arch, checkpoint: Checkpoint, input_px: int | None) -> Arch:
    trained_px = checkpoint.preprocess.input_px if checkpoint.preprocess else None
    if checkpoint.table is not None:
        arch = _arch_of(checkpoint.table, arch, checkpoint.source)
    arch = scaled(arch, width=checkpoint.width, classes=checkpoint.classes, input_px=input_px or trained_px)
    return replace(arch, bn_eps=checkpoint.bn_eps or arch.bn_eps, padding=checkpoint.padding or arch.padding)


# ---- what is known about them ---------------------------------------------------------------------------------------


def _table_in(content: Content, source: str) -> Table | None:
    """The architecture in a checkpoint, if it contains one. Raises EdgemobileError for a damaged one."""
    given = content.whole.get(ARCHITECTURE) if isinstance(content.whole, Mapping) else None
    if not isinstance(given, Mapping) or "blocks" not in given:
        return None
    return read_table(given, source)


def _arch_of(table: Table, arch: Arch, source: str) -> Arch:
    """The net of `table`, for a model called `arch`. Raises EdgemobileError if that is of another family."""
    if table.model != arch.name:
        raise EdgemobileError(f"{source} holds an adapted {table.model}, not {arch.name}")
    own = table.arch()
    return replace(own, input_px=arch.input_px, classes=arch.classes)


def _bare(checkpoint: Checkpoint, wanted: Collection[str]) -> Checkpoint:
    """`checkpoint` without a wrapper's prefixes, and without the other contents of the wrapper."""
    state, where = unwrapped(checkpoint.state_dict, wanted)
    notes = checkpoint.notes
    if where.left_out:
        notes += (
            f"{checkpoint.source}: only the weights under {where.prefix!r} are used; "
            f"entries that are ignored ({len(where.left_out)}): {first_few(where.left_out)}",
        )
    return replace(checkpoint, state_dict=state, notes=notes)


def _with_facts(checkpoint: Checkpoint, known: dict[str, Any]) -> Checkpoint:
    """`checkpoint` with the labels and preprocessing of edgemobile.loading.checkpoint_facts, checked."""
    labels, preprocess, notes = known.get("labels"), known.get("preprocess"), checkpoint.notes
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise EdgemobileError(f"the labels of {checkpoint.source} must be a list of names; found {described(labels)}")
    if isinstance(preprocess, dict) and "version" not in preprocess:
        notes += (
            f"the preprocess next to {checkpoint.source} is not edgemobile's (it has no version), so it is not used",
        )
        preprocess = None
    return replace(
        checkpoint,
        labels=tuple(labels) if labels else None,
        preprocess=Preprocess.from_json(preprocess) if preprocess else None,
        bn_eps=known.get("bn_eps"),
        padding=known.get("padding"),
        notes=notes,
    )


def _fitted(checkpoint: Checkpoint, arch: Arch, width: float | None, classes: int | None) -> Checkpoint:
    """`checkpoint` with our keys, arch, width and classes, checked against the required values."""
    layout = recognised(checkpoint.state_dict, arch)
    state = translated(checkpoint.state_dict, arch, layout) if layout else checkpoint.state_dict
    shapes = _shapes(state)
    found_width = _width(shapes, arch, first=width)
    if found_width is None and checkpoint.table is not None:
        raise EdgemobileError(f"{checkpoint.source} does not fit the architecture in its own metadata: it is damaged")
    if found_width is None and (other := _identify(checkpoint.state_dict)):
        its_name, its_width = other
        raise EdgemobileError(
            f"{checkpoint.source} contains weights of {its_name} (width {its_width:g}), not of {arch.name}"
        )
    if layout:
        checkpoint = _as_laid_out(checkpoint, state, arch, layout)
    if width is not None and found_width not in (None, width):
        raise EdgemobileError(
            f"{checkpoint.source} is {arch.name} at width {found_width:g}, but --width is {width:g}. "
            "Omit --width, or give other weights (--weights FILE or random)"
        )
    found_classes = _classes(shapes, arch)
    if classes is not None and found_classes not in (None, classes):
        raise EdgemobileError(
            f"{checkpoint.source} has {found_classes} classes, but --classes is {classes}. "
            "Omit --classes, or give other weights (--weights FILE or random)"
        )
    if checkpoint.labels and found_classes not in (None, len(checkpoint.labels)):
        raise EdgemobileError(
            f"{checkpoint.source} has {found_classes} classes, and the labels next to it have {len(checkpoint.labels)}"
        )
    # If the shapes do not show the classes, the required value is kept, and load_into reports what does not fit.
    known_width = width if found_width is None else found_width
    name = arch.name if found_width is not None else None
    return replace(checkpoint, arch=name, width=known_width, classes=found_classes or classes)


def _as_laid_out(checkpoint: Checkpoint, state: Mapping[str, torch.Tensor], arch: Arch, layout: Layout) -> Checkpoint:
    """`checkpoint` with the translated `state`, and the layout's facts about such files."""
    notes = []
    if layout.keys != arch.keys:
        check_complete(checkpoint.state_dict, arch, layout, checkpoint.source)
        bn_eps = checkpoint.bn_eps or layout.bn_eps
        eps = f", with batch norm's eps {bn_eps:g}" if bn_eps else ""
        notes.append(f"{checkpoint.source} has {layout.source} keys: they are translated{eps}")
        notes += [layout.caution] if layout.caution and checkpoint.padding is None else []
    assumption = (
        f"{checkpoint.source} does not state preprocessing: that of {layout.source} checkpoints is assumed "
        f"({layout.preprocess.interpolation}, mean {layout.preprocess.mean}, std {layout.preprocess.std})"
    )
    return replace(
        checkpoint,
        state_dict=state,
        bn_eps=checkpoint.bn_eps or layout.bn_eps,
        padding=checkpoint.padding or layout.padding,
        preprocess=checkpoint.preprocess or at_resolution(layout.preprocess, arch.input_px),
        notes=(*checkpoint.notes, *notes),
        assumption=assumption if checkpoint.preprocess is None else None,
    )


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def _width(shapes: Mapping[str, tuple[int, ...]], arch: Arch, first: float | None = None) -> float | None:
    """The width multiplier at which every layer of `arch` has the found shape; `first` is tried first."""
    for width in dict.fromkeys((first or arch.width, arch.width, *_WIDTHS)):
        if _weight_shapes(scaled(arch, width=width)) <= shapes.items():
            return width
    return None


def _weight_shapes(arch: Arch) -> set[tuple[str, tuple[int, ...]]]:
    """(key, shape) of every layer's weight but the classifiers', whose classes are the checkpoint's own."""
    shapes = set()
    of_classes = class_layers(arch)
    for layer in layers(arch):
        inputs = 1 if layer.op == "depthwise" else layer.in_shape[0]
        kernel = () if layer.op == "linear" else (layer.kernel, layer.kernel)
        if layer.op != "mean" and layer.name not in of_classes:
            shapes.add((f"{layer.name}.weight", (layer.out_shape[0], inputs, *kernel)))
    return shapes


def _classes(shapes: Mapping[str, tuple[int, ...]], arch: Arch) -> int | None:
    """The number of classes in the shapes of a state_dict; None where they do not show it."""
    name, times = next(iter(class_layers(arch).items()))
    found = shapes.get(f"{name}.weight")
    return found[0] // times if found else None


def identify(path: Path) -> Arch:
    """The reference model whose weights a file contains. Raises EdgemobileError if it is none of them."""
    content = read(path)
    table = _table_in(content, str(path))
    if table is not None:
        return table.arch()
    found = _identify(content.state)
    if found is None:
        raise EdgemobileError(f"{path} does not contain weights of a reference model. Known: {', '.join(ARCHS)}")
    return get_arch(found[0])


def _identify(state: Mapping[str, torch.Tensor]) -> tuple[str, float] | None:
    """(the reference model these weights belong to, its width)."""
    for arch in ARCHS.values():
        bare, _ = unwrapped(state, known_keys(arch))
        layout = recognised(bare, arch)
        width = _width(_shapes(translated(bare, arch, layout) if layout else bare), arch)
        if width is not None:
            return arch.name, width
    return None


def _of_tflite(path: Path, arch: Arch | None, width: float | None, classes: int | None) -> Checkpoint:
    """The weights in a TFLite file of `arch`, from any exporter."""
    if arch is None:
        raise EdgemobileError(
            f"{path}: a TFLite file is read as weights of a reference model. Known: {', '.join(ARCHS)}"
        )
    from edgemobile.loading.tflite_checkpoint import read_tflite_weights

    held = read_tflite_weights(existing(path, "weights", (*CHECKPOINT_SUFFIXES, ".tflite")), arch)
    note = (
        f"{path.name} is a TFLite file: its weights are dequantized, batch norm is folded, padding as {held.padding!r}"
    )
    checkpoint = Checkpoint(
        held.state, str(path), held.sha256, preprocess=held.preprocess, padding=held.padding, notes=(note,)
    )
    return _fitted(checkpoint, arch, width, classes)


# ---- weights without a file of the user -----------------------------------------------------------------------------


def _public(
    arch: Arch, public: PublicWeights, width: float | None, classes: int | None, on_progress: Report | None
) -> Checkpoint:
    """torchvision's checkpoint, downloaded if it is not on this machine. It contains no class names."""
    content = read(fetch(public, on_progress=on_progress))
    source = f"torchvision's ImageNet {public.file}"
    checkpoint = Checkpoint(content.state, source, content.sha256, preprocess=public.preprocess)
    return _fitted(checkpoint, arch, width, classes)


def _bundled_path(arch: Arch) -> Path:
    path = _BUNDLED / f"{arch.name}.safetensors"
    if not path.is_file():
        raise EdgemobileError(
            f"no weights of {arch.name} are bundled; bundled are: {', '.join(bundled())}. "
            "Use --weights random, imagenet (v2, v3) or the path of a checkpoint"
        )
    return path


def _keep_size(net: torch.nn.Module, images: tuple[int, int, int, int]) -> None:
    """Set the statistics of every batch norm to those of its input on `images` of noise, as training would.

    In a fresh net batch norms divide by 1, and after 50 layers the logits are 1e-17: int8 results and latencies on such
    numbers are meaningless.
    """
    import torch

    def settle(norm: torch.nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        assert norm.running_var is not None
        norm.running_var.copy_(inputs[0].square().mean(dim=(0, 2, 3)))

    hooks = [
        module.register_forward_pre_hook(settle) for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)
    ]
    with torch.no_grad():
        net.eval()(torch.randn(images))
    for hook in hooks:
        hook.remove()


def _random(arch: Arch, seed: int) -> Checkpoint:
    import torch

    from edgemobile.models.nets import build_net

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_net(arch)
        # In the last levels of SSDLite, one pixel corresponds to 512 pixels of the image.
        _keep_size(net, (4, 3, 320, 320) if arch.head == "ssdlite" else (2, 3, 64, 64))
        state = net.state_dict()
    digest = hashlib.sha256()
    for key, value in state.items():
        digest.update(key.encode() + value.numpy().tobytes())
    source, sha256 = f"random, seed {seed}", digest.hexdigest()
    # A detector's boxes are fractions of the whole image, so nothing is cropped.
    layout = recognised(state, arch) if arch.head == "ssdlite" else None
    preprocess = at_resolution(layout.preprocess, arch.input_px) if layout else None
    return Checkpoint(
        state,
        source,
        sha256,
        arch.name,
        arch.width,
        arch.classes,
        preprocess=preprocess,
        random=True,
    )
