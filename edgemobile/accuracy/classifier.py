"""Any model as a classifier: its preprocessing and the meaning of its outputs, with the source of each of these facts.

An .onnx or .tflite file from any exporter; a checkpoint of a reference model; a reference model's name, for its
bundled weights; or a custom model, as package.module:factory or a saved program (.pt2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from edgemobile.devices.host.saturation import note_on_target, open_on_target
from edgemobile.devices.runtimes.isolated import open_isolated
from edgemobile.devices.runtimes.sessions import Port, Session, open_session
from edgemobile.errors import EdgemobileError, Unsupported, in_a_line
from edgemobile.exporters.model_files import read_model_file
from edgemobile.images.class_labels import Labels, find_labels, has_background, printable
from edgemobile.loading.checkpoint import Checkpoint, build, bundled, identify, load_weights
from edgemobile.loading.model_spec import CHECKPOINT_SUFFIXES, is_factory, is_program
from edgemobile.loading.presets import (
    ASSUMED,
    chosen_preprocess,
    default_preprocess,
    described,
    says_resolution,
    stated_normalisation,
)
from edgemobile.metrics.outputs import not_a_classifier
from edgemobile.model_file.metadata import TARGET, preprocess_in, whole
from edgemobile.model_file.model_file import ModelFile
from edgemobile.models.arch import Arch, get_arch
from edgemobile.preprocess import Preprocess, at_resolution
from edgemobile.util.quiet import quiet_stderr
from edgemobile.util.torch_threads import torch_threads

__all__ = [
    "Classifier",
    "ClassifierOptions",
    "Prediction",
    "classify",
    "is_probability",
    "open_classifier",
    "open_model_file",
]

_FREE_PX = 224
# A Port counts a dynamic dimension as 1.
_FREE_SIDE = 1
_TORCH_BATCH = 8
# The TFLite specification requires these for the output of SOFTMAX.
_SOFTMAX_SCALE, _SOFTMAX_ZERO_POINTS = 1 / 256, (0, -128)


@dataclass(frozen=True)
class ClassifierOptions:
    """Values from the user that override the file's; None takes the file's value, or a documented default.

    `res` is the resolution of a model that takes any. `beside` is the preprocessing of the other files of the run: the
    better guess for a model in PyTorch that does not state its own. With `on_target` a file is run as its target
    computes it, even if this machine would not. A file of unknown origin is run `isolated`, in a separate process.
    """

    arch: str | None = None
    preprocess: str | None = None
    labels: Path | None = None
    threads: int = 1
    res: int | None = None
    beside: Preprocess | None = None
    on_target: bool = True
    isolated: bool = True


@dataclass(frozen=True)
class Classifier:
    """A model ready to classify. `labels` name all `outputs`; `found` describes what was detected, and its sources.

    `stated` is the preprocessing that the model states, plus what the file does itself; None if assumed or given by the
    user. `sha256` is of the opened bytes; None for a model that is not a file. `model_file` is the file that a runtime
    runs, None for a model in PyTorch. `preprocess_from` describes the source of `preprocess`.
    """

    file: str
    session: Session
    preprocess: Preprocess
    stated: Preprocess | None
    outputs: int
    labels: tuple[str, ...] | None
    probabilities: bool
    found: Mapping[str, str]
    notes: tuple[str, ...]
    sha256: str | None = None
    preprocess_from: str = ""
    model_file: ModelFile | None = None

    @property
    def is_assumed(self) -> bool:
        """Whether no source states the preprocessing: a low accuracy may come from the guess."""
        return self.preprocess_from.startswith(ASSUMED)

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Preprocessed images f32[N,px,px,3], any N -> f32[N,outputs]: logits, or probabilities if `probabilities`."""
        return self.session.rows(images)

    def label(self, output: int) -> str:
        return f"class {output}" if self.labels is None else self.labels[output]


class Prediction(NamedTuple):
    """One class of an image; `probability` is from 0 to 1."""

    output: int
    label: str
    probability: float


def open_classifier(file: str, options: ClassifierOptions, opened: ModelFile | None = None) -> Classifier:
    """Open the model at `file`, and run it once to find its output. Raises EdgemobileError with the reason.

    `opened` is the file, if it was read already.
    """
    session, checkpoint, usual_px, model_file = _opened(file, options, opened)
    path = Path(file)
    metadata = {} if model_file is None else session.metadata or model_file.metadata
    input_px = _image_px(file, session.input) or options.res
    stated, source = _stated(metadata, checkpoint)
    usual_px = stated.input_px if stated else usual_px
    notes = [*checkpoint.notes] if checkpoint else []
    assumption = checkpoint.assumption if checkpoint else None
    if options.preprocess is not None:
        preprocess, source = chosen_preprocess(options.preprocess, session.input, input_px, usual_px)
    elif checkpoint and checkpoint.stated_px is None and options.beside:
        preprocess = at_resolution(options.beside, input_px or options.beside.input_px)
        source = "from the file next to it"
    elif stated is not None:
        preprocess = at_resolution(stated, input_px or usual_px)
        notes += [assumption] if assumption else []
    else:
        stated_std = None if model_file is None else stated_normalisation(model_file)
        preprocess, source = default_preprocess(session.input, input_px or usual_px, stated_std)
    own = whole(stated, metadata) if stated and options.preprocess is None and not assumption else None
    session.settle(preprocess.input_px)
    with quiet_stderr():
        first = _first_output(file, session)
    session.output = replace(session.output, shape=first.shape)
    outputs = first[0].size
    labels = _labels(path, outputs, metadata, checkpoint, options.labels, model_file)
    probabilities = _is_softmax(session.output) or is_probability(session.rows(_zeros(session)))
    found = {
        "runtime": f"{session.runtime} {session.version}",
        "input": _port_words(session.input),
        "preprocess": f"{described(preprocess)}; {source}",
        "outputs": _output_words(labels.names, outputs, probabilities),
        "labels": labels.source,
    }
    notes += [*labels.notes, *_notes_of_here(path, session)]
    return Classifier(
        file,
        session,
        preprocess,
        own,
        outputs,
        labels.names,
        probabilities,
        found,
        tuple(notes),
        _sha256(path, checkpoint, model_file),
        source,
        model_file,
    )


def _notes_of_here(path: Path, session: Session) -> Iterator[str]:
    if session.config:
        here = "without this, its answers may differ (measured by `edgemobile parity`)"
        yield note_on_target(path.name, session.metadata[TARGET], here)


def is_probability(scores: np.ndarray) -> bool:
    """Whether all rows of f[N,C] are a softmax already: not negative, with sum 1 up to 8-bit rounding."""
    return bool(len(scores) and (scores >= 0).all() and (np.abs(scores.sum(axis=-1) - 1) < 0.02).all())


def classify(classifier: Classifier, image: Image.Image, top: int) -> list[Prediction]:
    """The `top` most likely classes of an image of any size and mode, best first.

    Raises BrokenImage, and EdgemobileError for outputs that are not finite.
    """
    scores = classifier.scores(classifier.preprocess(image)[None])
    if not np.isfinite(scores).all():
        raise EdgemobileError("the model's outputs are not finite: there is no result")
    (shares,) = scores if classifier.probabilities else _softmax(scores)
    best = np.argsort(-shares, kind="stable")[:top]
    return [Prediction(int(output), classifier.label(output), float(shares[output])) for output in best]


def _softmax(logits: np.ndarray) -> np.ndarray:
    # Subtract the maximum first: exp overflows at logits of 89.
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# ---- sessions -------------------------------------------------------------------------------------------------------


class _TorchSession(Session):
    """A model in PyTorch with the same interface as the files: `run` is images f32[N,3,H,W] -> f32[N,classes].

    It takes images of `px` x `px` pixels, or of any size.
    """

    runtime = "torch"

    def __init__(
        self, run: Callable[[np.ndarray], np.ndarray], classes: int, threads: int, px: int = _FREE_SIDE
    ) -> None:
        import torch

        self.version = torch.__version__
        self.input = Port("image", (_TORCH_BATCH, 3, px, px), "float32", "NCHW")
        self.output = Port("logits", (_TORCH_BATCH, classes), "float32")
        self._run, self._threads = run, threads

    def invoke(self, prepared: np.ndarray) -> np.ndarray:
        with torch_threads(self._threads):
            return self._run(prepared)


def _opened(
    file: str, options: ClassifierOptions, opened: ModelFile | None
) -> tuple[Session, Checkpoint | None, int, ModelFile | None]:
    """(the session, its checkpoint if it has one, the resolution if neither states one, the file if a runtime opens
    it)."""
    path = Path(file)
    if is_program(file) or (is_factory(file) and not path.is_file()):
        return *_own_session(file, options), None
    if not path.suffix and not path.is_file():
        return *_reference_session("bundled", _in_the_package(file), options), None
    if path.suffix.lower() in CHECKPOINT_SUFFIXES:
        arch = get_arch(options.arch) if options.arch else identify(path)
        return *_reference_session(file, arch, options), None
    model_file = opened or read_model_file(path)
    return open_model_file(model_file, file, options), None, _FREE_PX, model_file


def open_model_file(file: ModelFile, name: str, options: ClassifierOptions) -> Session:
    """A session of a model file, isolated and as its target computes if the options say so; `name` is for errors."""
    opening = open_isolated if options.isolated else open_session
    opener = partial(opening, file.data, threads=options.threads, name=name)
    return open_on_target(opener) if options.on_target else opener()


def _in_the_package(name: str) -> Arch:
    arch = get_arch(name)
    if arch.name not in bundled():
        raise EdgemobileError(
            f"no weights of {arch.name} are bundled; bundled are: {', '.join(bundled())}. Give a file: a checkpoint of "
            f"{arch.name}, or what `edgemobile export {arch.name} --weights FILE` writes"
        )
    return arch


def _reference_session(weights: str, arch: Arch, options: ClassifierOptions) -> tuple[Session, Checkpoint, int]:
    """(the session, its checkpoint, the usual resolution of the model)."""
    import torch

    checkpoint = load_weights(weights, arch)
    arch, net = build(arch, checkpoint)
    said = options.res or options.beside or (options.preprocess and says_resolution(options.preprocess))
    if checkpoint.stated_px is None and not said:
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, checkpoint.assumed_px(arch.input_px)))

    @torch.inference_mode()
    def run(images: np.ndarray) -> np.ndarray:
        return net(torch.from_numpy(images)).numpy()

    return _TorchSession(run, arch.classes, options.threads), checkpoint, arch.input_px


def _own_session(spec: str, options: ClassifierOptions) -> tuple[Session, Checkpoint, int]:
    """(the session of a custom model, what is known about it, its resolution)."""
    from edgemobile.loading.model import load_model

    res = options.res or (options.beside.input_px if options.beside else None)
    model = load_model(spec, res=None if is_program(spec) else res)
    px, classes = model.preprocess.input_px, model.classified()
    known = Checkpoint(
        {},
        model.source,
        model.sha256,
        labels=model.labels,
        preprocess=model.preprocess,
        notes=model.notes,
        assumption=model.assumption,
    )
    session = _TorchSession(lambda images: model.rows(images.transpose(0, 2, 3, 1)), classes, options.threads, px)
    return session, known, px


def _image_px(file: str, port: Port) -> int | None:
    """The side of the square RGB input image; None if it is dynamic."""
    shape = port.shape if port.layout != "NCHW" else (*port.shape[:1], *port.shape[2:], port.shape[1])
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
        raise Unsupported(
            f"{file} takes {port.dtype} {port.layout}{list(port.shape)}. "
            "Supported: square RGB images, [N,3,H,H] or [N,H,H,3]"
        )
    return shape[1] if shape[1] != _FREE_SIDE else None


def _first_output(file: str, session: Session) -> np.ndarray:
    """The model's output for zeros, raw [N,...]; the file need not contain its shape."""
    if len(session.outputs) != 1:
        raise Unsupported(not_a_classifier(file, [f"{port.name} {list(port.shape)}" for port in session.outputs]))
    batch = session.input.shape[0]
    prepared = session.prepare(_zeros(session))
    try:
        raw = session.invoke(prepared)
    except Exception as error:
        raise EdgemobileError(f"{session.runtime} cannot run {file}: {in_a_line(error)}") from error
    if raw.shape[0] != batch or raw[0].size < 2 or raw[0].size != max(raw.shape[1:], default=0):
        raise Unsupported(not_a_classifier(file, [f"{session.output.name} {list(raw.shape)}"]))
    return raw


def _zeros(session: Session) -> np.ndarray:
    """A batch of zero images f32[N,H,W,3]."""
    shape = session.input.shape
    sides = shape[2:] if session.input.layout == "NCHW" else shape[1:3]
    return np.zeros((shape[0], *sides, 3), np.float32)


# ---- what is known about them ---------------------------------------------------------------------------------------


def _sha256(path: Path, checkpoint: Checkpoint | None, file: ModelFile | None) -> str | None:
    """The sha256 of the opened bytes; None for a model by name, with weights in the package or created by code."""
    if file is not None:
        return file.sha256
    return checkpoint.sha256 if checkpoint is not None and path.is_file() else None


def _stated(metadata: Mapping[str, str], checkpoint: Checkpoint | None) -> tuple[Preprocess | None, str]:
    """(the preprocessing that the model itself states, its source)."""
    if checkpoint is not None:
        return (
            checkpoint.preprocess,
            f"{ASSUMED}: no source states it" if checkpoint.assumption else "from its checkpoint",
        )
    stated = preprocess_in(metadata)
    return stated, "in its metadata" if stated else ""


def _labels(
    path: Path,
    outputs: int,
    metadata: Mapping[str, str],
    checkpoint: Checkpoint | None,
    explicit: Path | None,
    file: ModelFile | None,
) -> Labels:
    if checkpoint and checkpoint.labels and explicit is None:
        return Labels(tuple(map(printable, checkpoint.labels)), "from its checkpoint")
    return find_labels(path, outputs, metadata, explicit, b"" if file is None else file.data)


def _is_softmax(port: Port) -> bool:
    return port.scale == _SOFTMAX_SCALE and port.zero_point in _SOFTMAX_ZERO_POINTS


def _port_words(port: Port) -> str:
    quantized = f", scale {port.scale:.6g}, zero point {port.zero_point}" if port.scale is not None else ""
    return f"{port.dtype} {port.layout}{list(port.shape)}{quantized}"


def _output_words(names: tuple[str, ...] | None, outputs: int, probabilities: bool) -> str:
    first = ", the first is background" if has_background(names, outputs) else ""
    return f"{outputs} {'probabilities' if probabilities else 'logits'}{first}"
