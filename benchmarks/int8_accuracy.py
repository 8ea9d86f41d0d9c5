"""The accuracy loss of int8: our recipes and, with --peers, the libraries' own quantizers, on the same images.

    python benchmarks/int8_accuracy.py --data cifar10.zip [--limit N] [--peers] [--torture] [--data-free]
    python benchmarks/int8_accuracy.py --data imagenet.zip --model efficientnet-lite0 --weights FILE.pth

Every row is a file run in its real runtime, image by image. `drop` is in points of top-1 against PyTorch, `agree` the
share of images with PyTorch's own answer, SQNR that of the logits. Where the data set has no splits, calibration
images are drawn first and the others tested on. --torture first multiplies channels of the weights
by 2^-4 to 2^4 and divides them out in the next layer: the same function, hard on int8.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import Pipe, get_context
from pathlib import Path

import numpy as np
from peers import ai_edge_quantizer

from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.exporters import tensorflow, tflite, torch_onnx
from edgemobile.graph import Graph
from edgemobile.images.samples import from_dataset
from edgemobile.loading.model import Model, load_model
from edgemobile.lower import lower
from edgemobile.lower.dead_channels import without_dead_channels
from edgemobile.metrics.measures import sqnr_db, top1_agree
from edgemobile.quant.equalize import rescale_randomly
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe, Rule
from edgemobile.quant.recipes import RECIPES
from edgemobile.quant.synthesize import enough_images, synthesize
from edgemobile.quant.torch_graph import TorchGraph

_BATCH = 32
_NAIVE = replace(RECIPES["minmax"], name="naive per tensor", rules=(Rule(observer="minmax", weights="per_tensor"),))
_RECIPES = {
    **RECIPES,
    "channels alike": Recipe(noise_optimal_scaling=False),
    "no refit": Recipe(refit=0),
    "no refit or bias correction": Recipe(refit=0, bias_correction=False),
    "neither gates nor equalization": Recipe(split_gates="none", equalize=0),
    "percentile": Recipe(rules=(Rule(observer="percentile"),)),
    "mse": Recipe(rules=(Rule(observer="mse"),)),
    "entropy": Recipe(rules=(Rule(observer="entropy"),)),
    "fused": Recipe(hswish="fused"),
    _NAIVE.name: _NAIVE,
}
_TORTURED = (_NAIVE.name, "per-tensor", "few-images", "default")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="an ImageFolder with train and test")
    parser.add_argument("--model", default="v3-large")
    parser.add_argument("--weights", help="as edgemobile export takes them [default: bundled]")
    parser.add_argument("--calib-images", type=int, default=512)
    parser.add_argument("--limit", type=int, default=10_000, help="test images to run, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipes", help=f"comma-separated, of: {', '.join(_RECIPES)} [default: all]")
    parser.add_argument("--peers", action="store_true", help="also TFLiteConverter and onnxruntime's quantizer")
    parser.add_argument("--aeq-python", help="also ai-edge-quantizer, by a Python that has it")
    parser.add_argument("--data-free", action="store_true", help="also ours on synthesized images")
    parser.add_argument("--torture", action="store_true", help="rescale channels first, and compare the results")
    options = parser.parse_args()

    model = load_model(options.model, options.weights)
    graph = without_dead_channels(lower(model.program, model.name))
    samples = from_dataset(
        options.data,
        model.preprocess,
        model.labels,
        calibration=options.calib_images,
        check=options.limit,
        seed=options.seed,
        outputs=model.classes,
    )
    if samples.labels is None:
        raise SystemExit(f"this needs labelled images: {'; '.join(samples.notes)}")
    calibration, images, labels = samples.calibration, samples.check, samples.labels
    reference = float_logits(graph, images)
    accuracy = float(np.mean(reference.argmax(axis=1) == labels))
    px = model.preprocess.input_px
    print(f"{model.name} at {px} px, {len(calibration)} calibration images, {len(images)} test images")
    print(f"| {'recipe':32} |  top-1 |  drop |   agree |    SQNR | seconds to make |")
    print(f"|{'-' * 34}|-------:|------:|--------:|--------:|----------------:|")
    print(f"| {'PyTorch, float':32} | {accuracy:6.2%} |       |         |         |                 |")
    if options.torture:
        graph = rescale_randomly(graph, np.random.default_rng(options.seed))
    for name, make in _makers(options, model, graph, calibration):
        started = time.monotonic()
        data = make()
        seconds = time.monotonic() - started
        logits = answers(data, images)
        if logits is None:
            print(f"| {name:32} | the runtime aborts on this file |", flush=True)
            continue
        top1 = float(np.mean(logits.argmax(axis=1) == labels))
        print(
            f"| {name:32} | {top1:6.2%} | {100 * (accuracy - top1):5.2f} | {top1_agree(reference, logits):7.2%} "
            f"| {sqnr_db(reference, logits):4.1f} dB | {seconds:15.1f} |",
            flush=True,
        )


def answers(data: bytes, images: np.ndarray) -> np.ndarray | None:
    """Logits f32[N,classes] of a file, from a separate process; None if the runtime crashes that process."""
    receiver, sender = Pipe(duplex=False)
    process = get_context("fork").Process(target=lambda: sender.send(open_session(data, threads=1).run(images)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode is not None and process.exitcode < 0:
            return None
        raise SystemExit("the runtime refuses the file; its error is above") from None
    finally:
        process.join()


def float_logits(graph: Graph, images: np.ndarray) -> np.ndarray:
    import torch

    network = TorchGraph(graph)
    with torch.no_grad():
        return np.concatenate([network(batch)[0].numpy() for batch in _batches(images)])


def _batches(images: np.ndarray) -> Iterator[np.ndarray]:
    return (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))


def _makers(
    options: argparse.Namespace, model: Model, graph: Graph, calibration: np.ndarray
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name, function that makes the file) for each row of the table."""
    chosen = _TORTURED if options.torture else _RECIPES
    for name in options.recipes.split(",") if options.recipes else chosen:
        yield name, lambda name=name: _ours(graph, calibration, _RECIPES[name])
    if options.data_free:
        yield "few-images, synthesized", lambda: _ours(graph, _synthesized(model), _RECIPES["few-images"])
    if options.aeq_python:
        yield "ai-edge-quantizer", lambda: ai_edge_quantizer(options.aeq_python, graph, calibration)
    if options.peers:
        yield "TFLiteConverter", lambda: tensorflow.to_bytes(graph, representative=list(_batches(calibration)))
        yield "onnxruntime, per channel", lambda: _onnxruntime(model, calibration)


def _ours(graph: Graph, calibration: np.ndarray, recipe: Recipe) -> bytes:
    return tflite.to_bytes(ptq(graph, _batches(calibration), recipe).graph, metadata={})


def _synthesized(model: Model) -> np.ndarray:
    """The same number of images as `edgemobile export` synthesizes without --calib."""
    return synthesize(model.net, model.preprocess, images=enough_images(model.preprocess.input_px))


def _onnxruntime(model: Model, calibration: np.ndarray) -> bytes:
    px = model.preprocess.input_px
    data = torch_onnx.to_bytes(model.program, (1, 3, px, px))
    return torch_onnx.quantize_static(data, calibration.transpose(0, 3, 1, 2)[:, None])


if __name__ == "__main__":
    main()
