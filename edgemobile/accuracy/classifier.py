"""Any model as a classifier: what its input wants and what its outputs mean, with where each of these facts is from.

An .onnx or .tflite file, ours or anyone's; a checkpoint of a reference model; a reference model's name, which is its
bundled weights; or a model of one's own, as package.module:factory or a saved program (.pt2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from edgemobile.devices.runtimes.sessions import Port, Session, open_session
from edgemobile.devices.runtimes.table import RUNTIMES
from edgemobile.errors import EdgemobileError, Unsupported, in_a_line
from edgemobile.exporters import FORMATS
from edgemobile.images.class_labels import Labels, find_labels, has_background
from edgemobile.loading.checkpoint import Checkpoint, build, bundled, identify, load_weights
from edgemobile.loading.files import SUFFIXES
from edgemobile.loading.model_spec import is_factory, is_program
from edgemobile.loading.presets import chosen_preprocess, default_preprocess, described
from edgemobile.model_file.metadata import preprocess_in, whole
from edgemobile.models.arch import Arch, get_arch
from edgemobile.preprocess import Channels, Preprocess, at_resolution
from edgemobile.util.quiet import quiet_stderr

__all__ = ["Classifier", "ClassifierOptions", "Prediction", "classify", "is_probability", "open_classifier"]

_FREE_PX = 224
# A Port counts a free dimension as 1.
_FREE_SIDE = 1
_TORCH_BATCH = 8
# The TFLite specification fixes these for the output of SOFTMAX.
_SOFTMAX_SCALE, _SOFTMAX_ZERO_POINTS = 1 / 256, (0, -128)


@dataclass(frozen=True)
class ClassifierOptions:
    """What the user knows better than the file; None takes the file's word, or a stated default.

    `res` is the resolution of a model that takes any. `beside` is what the files beside it want: of a model in PyTorch
    that says nothing itself it is the better guess.
    """

    arch: str | None = None
    preprocess: str | None = None
    labels: Path | None = None
    threads: int = 1
    res: int | None = None
    beside: Preprocess | None = None


@dataclass(frozen=True)
class Classifier:
    """A model ready to classify. `labels` name all `outputs`; `found` says in words what was found, and where.

    `stated` is the preprocessing it states itself, with what the file does of it; None: assumed, or asked for.
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

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Preprocessed images f32[N,px,px,3], any N -> f32[N,outputs]: logits, or probabilities where it says so."""
        return self.session.run(images).reshape(len(images), self.outputs)

    def label(self, output: int) -> str:
        return f"class {output}" if self.labels is None else self.labels[output]


class Prediction(NamedTuple):
    """One class of an image; `probability` is from 0 to 1."""

    output: int
    label: str
    probability: float


def open_classifier(file: str, options: ClassifierOptions) -> Classifier:
    """The model at `file`, run once so that what it gives is known. Raises EdgemobileError with the reason."""
    session, checkpoint, usual_px = _opened(file, options)
    path = Path(file)
    metadata = {} if checkpoint else _metadata(path, session)
    input_px = _image_px(file, session.input) or options.res
    stated, source = _stated(metadata, checkpoint)
    usual_px = stated.input_px if stated else usual_px
    notes = [*checkpoint.notes] if checkpoint else []
    assumption = checkpoint.assumption if checkpoint else None
    if options.preprocess is not None:
        preprocess, source = chosen_preprocess(options.preprocess, session.input, input_px, usual_px)
    elif assumption and options.beside:
        preprocess = at_resolution(options.beside, input_px or options.beside.input_px)
        source = "as the file beside it has it"
    elif stated is not None:
        preprocess = at_resolution(stated, input_px or usual_px)
        notes += [assumption] if assumption else []
    else:
        preprocess, source = default_preprocess(session.input, input_px or usual_px, _normalisation(path, session))
    own = whole(stated, metadata) if stated and options.preprocess is None and not assumption else None
    session.settle(preprocess.input_px)
    with quiet_stderr():
        first = _first_output(file, session)
    session.output = replace(session.output, shape=first.shape)
    outputs = first[0].size
    labels = _labels(path, outputs, metadata, checkpoint, options.labels)
    probabilities = _is_softmax(session.output) or is_probability(session.run(_zeros(session)).reshape(-1, outputs))
    found = {
        "runtime": f"{session.runtime} {session.version}",
        "input": _port_words(session.input),
        "preprocess": f"{described(preprocess)}; {source}",
        "outputs": _output_words(labels.names, outputs, probabilities),
        "labels": labels.source,
    }
    notes += labels.notes
    return Classifier(file, session, preprocess, own, outputs, labels.names, probabilities, found, tuple(notes))


def is_probability(scores: np.ndarray) -> bool:
    """Whether all rows of f[N,C] are a softmax already: not negative, of sum 1; 8-bit steps let it stray."""
    return bool(len(scores) and (scores >= 0).all() and (np.abs(scores.sum(axis=-1) - 1) < 0.02).all())


def classify(classifier: Classifier, image: Image.Image, top: int) -> list[Prediction]:
    """The `top` most likely classes of an image of any size and mode, best first. Raises BrokenImage."""
    scores = classifier.scores(classifier.preprocess(image)[None])
    (shares,) = scores if classifier.probabilities else _softmax(scores)
    best = np.argsort(-shares, kind="stable")[:top]
    return [Prediction(int(output), classifier.label(output), float(shares[output])) for output in best]


def _softmax(logits: np.ndarray) -> np.ndarray:
    # Without the largest taken off first, exp overflows at logits of 89.
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# ---- sessions -------------------------------------------------------------------------------------------------------


class _TorchSession(Session):
    """A model in PyTorch behind the same interface as the files: `run` is images f32[N,3,H,W] -> f32[N,classes].

    It takes images of `px` pixels a side, or of any.
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
        import torch

        # It is one number for all of the process, which may have other uses of torch.
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            return self._run(prepared)
        finally:
            torch.set_num_threads(before)


def _opened(file: str, options: ClassifierOptions) -> tuple[Session, Checkpoint | None, int]:
    """(the session, its checkpoint where it has one, the resolution to take where neither says one)."""
    path = Path(file)
    if is_program(file) or (is_factory(file) and not path.is_file()):
        return _own_session(file, options)
    if not path.suffix and not path.is_file():
        return _reference_session("bundled", _in_the_package(file), options.threads)
    if path.suffix.lower() in SUFFIXES:
        arch = get_arch(options.arch) if options.arch else identify(path)
        return _reference_session(file, arch, options.threads)
    return open_session(path, threads=options.threads), None, _FREE_PX


def _in_the_package(name: str) -> Arch:
    arch = get_arch(name)
    if name not in bundled():
        raise EdgemobileError(
            f"no weights of {name} are bundled; bundled are: {', '.join(bundled())}. Give a file: a checkpoint of "
            f"{name}, or what `edgemobile export {name} --weights FILE` writes"
        )
    return arch


def _reference_session(weights: str, arch: Arch, threads: int) -> tuple[Session, Checkpoint, int]:
    """(the session, where its weights are from, the resolution the model is usually used at)."""
    import torch

    checkpoint = load_weights(weights, arch)
    arch, net = build(arch, checkpoint)

    @torch.inference_mode()
    def run(images: np.ndarray) -> np.ndarray:
        return net(torch.from_numpy(images)).numpy()

    return _TorchSession(run, arch.classes, threads), checkpoint, arch.input_px


def _own_session(spec: str, options: ClassifierOptions) -> tuple[Session, Checkpoint, int]:
    """(the session of a model of one's own, what is known of it, its resolution)."""
    from edgemobile.loading.model import load_model

    res = options.res or (options.beside.input_px if options.beside else None)
    model = load_model(spec, res=None if is_program(spec) else res)
    px = model.preprocess.input_px
    known = Checkpoint(
        {},
        model.source,
        model.sha256,
        labels=model.labels,
        preprocess=model.preprocess,
        notes=model.notes,
        assumption=model.assumption,
    )
    session = _TorchSession(
        lambda images: model.logits(images.transpose(0, 2, 3, 1)), model.classes, options.threads, px
    )
    return session, known, px


def _image_px(file: str, port: Port) -> int | None:
    """The side of the square RGB image the input takes; None where the file leaves it open."""
    shape = port.shape if port.layout != "NCHW" else (*port.shape[:1], *port.shape[2:], port.shape[1])
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
        raise Unsupported(
            f"{file} takes {port.dtype} {port.layout}{list(port.shape)}. "
            "Supported: square RGB images, [N,3,H,H] or [N,H,H,3]"
        )
    return shape[1] if shape[1] != _FREE_SIDE else None


def _first_output(file: str, session: Session) -> np.ndarray:
    """What the model gives for zeros, raw [N,...]; the file itself need not tell its shape."""
    batch = session.input.shape[0]
    prepared = session.prepare(_zeros(session))
    try:
        raw = session.invoke(prepared)
    except Exception as error:
        raise EdgemobileError(f"{session.runtime} cannot run {file}: {in_a_line(error)}") from error
    if raw.shape[0] != batch or raw[0].size < 2 or raw[0].size != max(raw.shape[1:], default=0):
        raise Unsupported(f"{file} gives {list(raw.shape)}. Supported: classifiers, [N, classes]")
    return raw


def _zeros(session: Session) -> np.ndarray:
    """A batch of images f32[N,H,W,3] of nothing."""
    shape = session.input.shape
    sides = shape[2:] if session.input.layout == "NCHW" else shape[1:3]
    return np.zeros((shape[0], *sides, 3), np.float32)


# ---- what is known of them ------------------------------------------------------------------------------------------


def _metadata(path: Path, session: Session) -> Mapping[str, str]:
    if session.metadata:
        return session.metadata
    return FORMATS[RUNTIMES[session.runtime].format].load().read_metadata(path.read_bytes())


def _normalisation(path: Path, session: Session) -> tuple[Channels, Channels] | None:
    """What TFLite's official metadata, which most files not of ours have, says of the input."""
    if session.runtime not in RUNTIMES or RUNTIMES[session.runtime].format != "tflite":
        return None
    from edgemobile.exporters.tflite_file import read_normalisation

    return read_normalisation(path.read_bytes())


def _stated(metadata: Mapping[str, str], checkpoint: Checkpoint | None) -> tuple[Preprocess | None, str]:
    """(the preprocessing the model itself states, where)."""
    if checkpoint is not None:
        return (
            checkpoint.preprocess,
            "assumed: nothing says it" if checkpoint.assumption else "as its checkpoint has it",
        )
    stated = preprocess_in(metadata)
    return stated, "in its metadata" if stated else ""


def _labels(
    path: Path, outputs: int, metadata: Mapping[str, str], checkpoint: Checkpoint | None, explicit: Path | None
) -> Labels:
    if checkpoint and checkpoint.labels and explicit is None:
        return Labels(checkpoint.labels, "as its checkpoint has them")
    return find_labels(path, outputs, metadata, explicit)


def _is_softmax(port: Port) -> bool:
    return port.scale == _SOFTMAX_SCALE and port.zero_point in _SOFTMAX_ZERO_POINTS


def _port_words(port: Port) -> str:
    quantized = f", scale {port.scale:.6g}, zero point {port.zero_point}" if port.scale is not None else ""
    return f"{port.dtype} {port.layout}{list(port.shape)}{quantized}"


def _output_words(names: tuple[str, ...] | None, outputs: int, probabilities: bool) -> str:
    first = ", the first is background" if has_background(names, outputs) else ""
    return f"{outputs} {'probabilities' if probabilities else 'logits'}{first}"
