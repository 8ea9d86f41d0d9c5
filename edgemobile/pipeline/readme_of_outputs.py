"""README.md of an export that is not a classifier: its outputs, and code that runs one of the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgemobile.loading.model import Model
from edgemobile.model_file.model_file import ModelFile
from edgemobile.pipeline.artifact import ManifestEntry
from edgemobile.preprocess import IMAGENET

__all__ = ["readme_of_outputs"]

_PAGE = """# {title}

The files compute these outputs, in this order, for images of {px} x {px} pixels:

| output | TFLite | ONNX |
|---|---|---|
{outputs}
{boxes}
## Run a file

It needs Python 3.9 or later, and `pip install numpy Pillow {runtime}`:

```python
import numpy as np
from PIL import Image
{imports}

picture = Image.open("photo.jpg").convert("RGB").resize(({px}, {px}))
image = (np.asarray(picture, np.float32) / 255 - {mean}) / {std}
images = np.stack([image] * {batch}).astype(np.float32)
{run}
```

This takes the whole picture; `manifest.json` has the resize and crop that the model was trained with.

## Files

| file | size | runtime |
|---|---:|---|
{files}

`manifest.json` contains the preprocessing, the origin of everything, and the comparison of each output of each file
with PyTorch; `edgemobile verify` checks the folder against it.
"""

_BOXES = """
They are the raw outputs of a detector: {count} anchors, of which `{boxes}` has the offsets and `{logits}` the logits,
class 0 being the background. `predict.py` prints the boxes, in pixels: left, top, right and bottom. It needs Python 3.9
or later, numpy, Pillow and the file's runtime, and not edgemobile:

    python predict.py {file} photo.jpg

The same in your own program:

    from edgemobile.postprocess import Postprocess

    record = json.load(open("manifest.json"))["model"]["postprocess"]
    boxes, scores, classes = Postprocess.from_json(record)(offsets[0], logits[0])
"""

# Format -> (imports, code). Integers without a scale are raw pixels.
_CODE = {
    "tflite": (
        "from ai_edge_litert.interpreter import Interpreter",
        """
net = Interpreter(model_path="{file}")
net.allocate_tensors()
given = net.get_input_details()[0]
scale, zero_point = given["quantization"]
if scale:
    limits = np.iinfo(given["dtype"])
    images = np.clip(np.rint(images / scale) + zero_point, limits.min, limits.max)
net.set_tensor(given["index"], images.astype(given["dtype"]))
net.invoke()
for output in net.get_output_details():
    values = net.get_tensor(output["index"])
    scale, zero_point = output["quantization"]
    if scale:
        values = (values.astype(np.float32) - zero_point) * scale
    print(output["name"], values.shape, values.min(), values.max())""",
    ),
    "onnx": (
        "import onnxruntime",
        """
net = onnxruntime.InferenceSession("{file}")
given = net.get_inputs()[0]
if given.type == "tensor(uint8)":
    images = np.clip(np.rint(images), 0, 255).astype(np.uint8)
else:
    images = images.transpose(0, 3, 1, 2)
for output, values in zip(net.get_outputs(), net.run(None, {{given.name: images}})):
    print(output.name, values.shape, values.min(), values.max())""",
    ),
}


def readme_of_outputs(
    model: Model, ordered: Sequence[ManifestEntry], written: Mapping[str, ModelFile], runtimes: Sequence[str]
) -> str:
    """The text. `runtimes` are the packages that run the files of `ordered`; the code in it runs the first one."""
    first, file = ordered[0], written[ordered[0].file]
    imports, run = _CODE[first.format]
    preprocess = file.preprocess or IMAGENET
    rows = [
        f"| `{one.file}` | {one.bytes / 2**20:.2f} MiB | `{runtime}` |"
        for one, runtime in zip(ordered, runtimes, strict=True)
    ]
    return _PAGE.format(
        title=model.name,
        px=model.preprocess.input_px,
        outputs="\n".join(_output_rows(model, file)),
        boxes=_boxes(model, first.file),
        runtime=runtimes[0],
        imports=imports,
        mean=list(preprocess.mean),
        std=list(preprocess.std),
        batch=model.batch,
        run=run.format(file=first.file),
        files="\n".join(rows),
    )


def _boxes(model: Model, file: str) -> str:
    how = model.postprocess
    return "" if how is None else _BOXES.format(file=file, count=how.count, boxes=how.boxes, logits=how.logits)


def _output_rows(model: Model, file: ModelFile) -> list[str]:
    rows = []
    for name, output in zip(file.contents.outputs, model.outputs, strict=True):
        last = [model.batch, *output.shape]
        first = [last[0], last[-1], *last[1:-1]] if len(last) == 4 else last
        rows.append(f"| `{name}` | {last} | {first} |")
    return rows
