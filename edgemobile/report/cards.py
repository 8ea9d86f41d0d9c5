"""One model card per model file: what it is, its origin, accuracy and latency, and how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from edgemobile.graph.embed import outside
from edgemobile.report.findings import Artifact, Findings
from edgemobile.report.sources import Export
from edgemobile.report.words import device_words, megabytes, percent, value_words
from edgemobile.util.markdown import markdown_text

__all__ = ["card", "model_cards", "snippet"]

_MAX_LABELS = 20


def model_cards(found: Findings) -> dict[str, str]:
    """File name -> markdown, with safe and unique names."""
    cards: dict[str, str] = {}
    for artifact in found.artifacts:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", artifact.name).strip("-.") or "artifact"
        name = f"{stem}.md" if f"{stem}.md" not in cards else f"{stem}-{len(cards)}.md"
        cards[name] = card(artifact, found)
    return cards


def card(artifact: Artifact, found: Findings) -> str:
    """Unknown facts are omitted, or stated as not known."""
    parts = [
        f"# {markdown_text(artifact.name)}",
        "\n".join(_what(artifact)),
        "## Accuracy\n\n" + "\n".join(_accuracy(artifact)),
        "## Latency\n\n" + "\n".join(_latency(artifact, found)),
        "## Use\n\n" + "\n".join(_use(artifact)),
    ]
    return "\n\n".join(parts) + "\n"


def _classes(export: Export) -> str:
    return "no classifier" if export.classes is None else f"{export.classes} classes"


def _what(one: Artifact) -> Iterator[str]:
    export, exported = one.export, one.exported
    yield f"- sha256: {one.sha256 or 'not known'}"
    yield f"- format: {markdown_text(one.format)}, {markdown_text(one.precision) or 'precision not known'}"
    if one.bytes is not None:
        yield f"- size: {megabytes(one.bytes)} ({one.bytes} bytes)"
    if export is None or exported is None:
        yield "- origin: not known; add the folder of its export to the report"
        return
    yield f"- model: {markdown_text(export.name)}, {_classes(export)}, {export.input_px} px"
    yield f"- weights: {markdown_text(export.weights_source)}, sha256 {markdown_text(export.weights_sha256)}"
    yield f"- exported by: edgemobile {markdown_text(str(export.facts.get('edgemobile')))}"
    if exported.hswish:
        yield f"- hard-swish: {markdown_text(exported.hswish)}"
    if one.precision == "int8":
        yield from _quantized(export.facts)
    target = export.facts.get("target")
    if one.precision == "int8" and one.format == "onnx" and isinstance(target, dict):
        yield f"- target: {markdown_text(str(target.get('name')))}; {markdown_text(str(target.get('why')))}"
    if export.labels is not None:
        shown = ", ".join(export.labels[:_MAX_LABELS]) + (", ..." if len(export.labels) > _MAX_LABELS else "")
        yield f"- labels, in the order of the outputs: {markdown_text(shown)}"
    pixels = export.preprocess
    how = f"to {pixels.input_px} x {pixels.input_px} px ({pixels.resize}, {pixels.interpolation})"
    channels = f"mean {list(pixels.mean)}, std {list(pixels.std)}"
    if export.preprocess_embedded:
        yield f"- preprocessing: {how}, raw pixels uint8 NHWC; mean and std are inside the file ({channels})"
    else:
        yield f"- preprocessing: {how}, pixels from 0 to 1, {channels}"


def _quantized(facts: object) -> Iterator[str]:
    assert isinstance(facts, dict)
    recipe, calibration = facts.get("recipe"), facts.get("calibration")
    if isinstance(recipe, dict):
        settings = ", ".join(
            f"{key} {value}" for key, value in recipe.items() if key not in ("version", "name", "rules")
        )
        yield f"- quantized: recipe {markdown_text(str(recipe.get('name')))} ({markdown_text(settings)})"
    if isinstance(calibration, dict):
        yield "- calibrated on: " + markdown_text(", ".join(f"{key} {value}" for key, value in calibration.items()))


def _accuracy(one: Artifact) -> Iterator[str]:
    for accuracy in one.accuracies:
        on = f", on {markdown_text(accuracy.on)}" if accuracy.on else ""
        interval = f"{100 * accuracy.low:.2f} to {100 * accuracy.high:.2f}"
        yield f"- top-1 {percent(accuracy.top1)} (95 % interval {interval}) on {markdown_text(accuracy.data)}{on}"
    if not one.accuracies:
        yield "Not known."
    for compared in one.compared:
        file = compared.file
        verdict = "holds" if file.passed else f"{'REFUSED' if file.refused else 'FAILS'}: {'; '.join(file.reasons)}"
        verdict += f" ({file.not_compared})" if file.passed and file.not_compared else ""
        yield f"- parity with {markdown_text(compared.report.reference)} {markdown_text(verdict)}"


def _latency(one: Artifact, found: Findings) -> Iterator[str]:
    rows = 0
    for line in found.lines:
        for artifact, timing in line.points:
            if artifact is one:
                case = timing.case
                doubt = f"; UNSTABLE: {'; '.join(timing.reasons)}" if timing.reasons else ""
                when = f"{found.sources.measured(timing.run)} UTC"
                words = f"{device_words(line)}, {case.runtime} {case.version}, {when}: {value_words(timing)}{doubt}"
                yield f"- {markdown_text(words)}"
                rows += 1
    if not rows:
        yield "Not measured: `edgemobile bench`."


def _use(one: Artifact) -> Iterator[str]:
    code = snippet(one)
    if code is None:
        yield "The preprocessing is not known; add the folder of its export to the report."
        return
    name = one.exported.file if one.exported else one.name
    if re.fullmatch(r"[\w.-]+", name):
        yield f"From the command line: `edgemobile predict {name} photo.jpg`\n"
    yield "From Python:\n"
    yield f"```python\n{code}```"


def snippet(one: Artifact) -> str | None:
    """A program that classifies photo.jpg; None if the preprocessing is not known."""
    if one.export is None or one.format not in _RUN:
        return None
    preprocess, labels, embedded = one.export.preprocess, one.export.labels, one.export.preprocess_embedded
    literal = json.dumps(json.dumps((outside(preprocess) if embedded else preprocess).to_json()))
    end = "labels[best]" if labels else "best"
    lines = [
        "import numpy as np",
        "from PIL import Image",
        _IMPORT[one.format],
        "from edgemobile.preprocess import Preprocess",
        "",
        f"preprocess = Preprocess.from_json({literal})",
        'image = preprocess(Image.open("photo.jpg"))[None]',
        *([_PIXELS] if embedded else ["image = image.transpose(0, 3, 1, 2)"] if one.format == "onnx" else []),
        _RUN[one.format].format(file=json.dumps(one.exported.file if one.exported else one.name)),
        *([f"labels = {json.dumps(labels)}"] if labels else []),
        "best = int(np.argmax(scores))",
        f"print({end}, float(scores[best]))",
    ]
    return "\n".join(lines) + "\n"


_IMPORT = {
    "onnx": "import onnxruntime",
    "tflite": "from ai_edge_litert.interpreter import Interpreter",
}
_PIXELS = "image = np.clip(np.rint(image), 0, 255).astype(np.uint8)"
_RUN = {
    "onnx": """session = onnxruntime.InferenceSession({file})
scores = session.run(None, {{session.get_inputs()[0].name: image}})[0][0]""",
    "tflite": """model = Interpreter({file})
model.allocate_tensors()
given, result = model.get_input_details()[0], model.get_output_details()[0]
if given["dtype"] == np.int8:
    scale, zero_point = given["quantization"]
    image = np.clip(np.round(image / scale) + zero_point, -128, 127).astype(np.int8)
model.set_tensor(given["index"], image)
model.invoke()
scores = model.get_tensor(result["index"])[0].astype(np.float32)
if result["dtype"] == np.int8:
    scale, zero_point = result["quantization"]
    scores = (scores - zero_point) * scale""",
}
