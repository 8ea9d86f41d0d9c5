"""edgemobile from Python: commands are functions, options are keywords, and results are records.

Every function returns a frozen record that prints like its command, shows as a table in a notebook and has a
`plot()`. A file that misses a bound is recorded (`.passed`), not raised. The result of `export` can be passed on in
place of its files. All raise EdgemobileError for bad input, and MissingExtra for a dependency that is not installed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from math import inf
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

from edgemobile.api.arguments import PathText, Texts, check_arguments, optional_path, optional_text, texts
from edgemobile.api.records import (
    Adapted,
    Benched,
    Compared,
    CostTable,
    Detected,
    Evaluated,
    Explained,
    Exported,
    Finetuned,
    Searched,
    Segmented,
)
from edgemobile.errors import EdgemobileError
from edgemobile.pipeline.export import explanation
from edgemobile.pipeline.export import export as _export
from edgemobile.pipeline.folder import expanded
from edgemobile.pipeline.request import ExportRequest, default_out, recipe_of, refuse_unused
from edgemobile.preprocess import Preprocess
from edgemobile.quant.recipe import Recipe, Rule
from edgemobile.quant.targets import DEFAULT_TARGET, suited
from edgemobile.util.progress import Progress

__all__ = [
    "Adapted",
    "Benched",
    "Compared",
    "CostTable",
    "Detected",
    "Evaluated",
    "Explained",
    "Exported",
    "Finetuned",
    "Searched",
    "Segmented",
    "adapt",
    "bench",
    "cost_table",
    "evaluate",
    "evaluate_detection",
    "evaluate_segmentation",
    "explain",
    "export",
    "finetune",
    "parity",
    "quantize",
    "search",
]

Files = PathText | Exported | Iterable[PathText]
AnyRecipe = PathText | Recipe | Mapping[str, Any]
AnyPreprocess = PathText | Preprocess | Mapping[str, Any]
Hswish = Literal["auto", "delegated", "fused", "relu"]

_NETS = "Pass a net in memory as the code that builds it, 'package.module:factory', or save it first as FILE.pt2"


@check_arguments(model=_NETS)
def export(
    model: PathText,
    *,
    int8: bool = False,
    fp16: bool = False,
    weight_only: bool = False,
    to: Texts | None = None,
    backend: str = "native",
    embed_preprocess: bool = False,
    weights: PathText | None = None,
    width: float | None = None,
    res: int | None = None,
    classes: int | None = None,
    labels: PathText | None = None,
    preprocess: AnyPreprocess | None = None,
    batch: int = 1,
    keep_dead: bool = False,
    calib: PathText | None = None,
    calib_images: int = 128,
    unchecked_calib: bool = False,
    check_images: int = 200,
    recipe: AnyRecipe | None = None,
    minutes: float | None = None,
    hswish: Hswish = "auto",
    target: str = DEFAULT_TARGET,
    keep_float: Texts = (),
    max_drop: float | None = None,
    search: bool = False,
    out: PathText | None = None,
    overwrite: bool = False,
    threads: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Exported:
    """Export `model` to the folder `out`, run every file written and compare it with `model`: `edgemobile export`.

    `model` is a reference model's name, `package.module:factory`, a saved program, FILE.pt2, or a model file of any
    exporter, FILE.onnx or FILE.tflite. `out` None is ./MODEL.
    `recipe` is a Recipe, its JSON object, or a name or file as for the command; likewise `preprocess` (a Preprocess).
    """
    asked = {
        "recipe": recipe is not None,
        "hswish": hswish != "auto",
        "target": target != DEFAULT_TARGET,
        "keep_float": bool(keep_float),
        "unchecked_calib": unchecked_calib,
        "max_drop": max_drop is not None,
        "calib_images": calib_images != 128,
    }
    refuse_unused([name for name, given in asked.items() if given], int8=int8, backend=backend)
    chosen = {"float32": True, "float16": fp16, "weight-only": weight_only, "int8": int8}
    images = {"calib": optional_path(calib), "calib_images": calib_images}
    return _exported(
        model,
        out,
        progress,
        recipe=_recipe(recipe, hswish, target, keep_float, images),
        target=target,
        use_trained=not (asked["recipe"] or asked["hswish"] or asked["keep_float"] or search),
        formats=None if to is None else texts(to),
        precisions=tuple(name for name, wanted in chosen.items() if wanted),
        backend=backend,
        embed_preprocess=embed_preprocess,
        weights=optional_text(weights),
        width=width,
        res=res,
        classes=classes,
        labels=optional_path(labels),
        preprocess=_preprocess(preprocess),
        batch=batch,
        keep_dead=keep_dead,
        **images,
        unchecked_calib=unchecked_calib,
        check_images=check_images,
        max_drop=max_drop,
        search=search,
        minutes=minutes,
        overwrite=overwrite,
        threads=threads,
        seed=seed,
    )


@check_arguments(model=_NETS)
def quantize(
    model: PathText,
    *,
    to: Texts | None = None,
    weights: PathText | None = None,
    width: float | None = None,
    res: int | None = None,
    classes: int | None = None,
    labels: PathText | None = None,
    preprocess: AnyPreprocess | None = None,
    batch: int = 1,
    keep_dead: bool = False,
    calib: PathText | None = None,
    calib_images: int = 128,
    unchecked_calib: bool = False,
    check_images: int = 200,
    recipe: AnyRecipe | None = None,
    minutes: float | None = None,
    hswish: Hswish = "auto",
    target: str = DEFAULT_TARGET,
    keep_float: Texts = (),
    observer: Literal["mse", "minmax", "moving_average", "percentile", "entropy"] | None = None,
    granularity: Literal["per_channel", "per_tensor"] | None = None,
    equalize: float | None = None,
    noise_optimal_scaling: bool | None = None,
    split_gates: Literal["none", "stem", "highest_cost", "all"] | None = None,
    refit: float | None = None,
    clip_weights: bool | None = None,
    adaround: bool | None = None,
    bias_correction: bool | None = None,
    max_drop: float | None = None,
    search: bool = False,
    out: PathText | None = None,
    overwrite: bool = False,
    threads: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Exported:
    """Write only int8 files of `model`, with every parameter of the recipe: `edgemobile quantize`. A parameter
    that is None has the recipe's value.
    """
    whole = (Rule(observer=observer, weights=granularity),) if observer or granularity else None
    images = {"calib": optional_path(calib), "calib_images": calib_images}
    knobs = {
        "rules": whole,
        "equalize": equalize,
        "noise_optimal_scaling": noise_optimal_scaling,
        "split_gates": split_gates,
        "refit": refit,
        "clip_weights": clip_weights,
        "adaround": adaround,
        "bias_correction": bias_correction,
    }
    return _exported(
        model,
        out,
        progress,
        recipe=_recipe(recipe, hswish, target, keep_float, images, **knobs),
        target=target,
        use_trained=False,
        formats=None if to is None else texts(to),
        precisions=("int8",),
        weights=optional_text(weights),
        width=width,
        res=res,
        classes=classes,
        labels=optional_path(labels),
        preprocess=_preprocess(preprocess),
        batch=batch,
        keep_dead=keep_dead,
        **images,
        unchecked_calib=unchecked_calib,
        check_images=check_images,
        max_drop=max_drop,
        search=search,
        minutes=minutes,
        overwrite=overwrite,
        threads=threads,
        seed=seed,
    )


@check_arguments(model=_NETS)
def explain(
    model: PathText,
    *,
    to: Texts | None = None,
    weights: PathText | None = None,
    width: float | None = None,
    res: int | None = None,
    classes: int | None = None,
    labels: PathText | None = None,
    preprocess: AnyPreprocess | None = None,
    batch: int = 1,
    keep_dead: bool = False,
    calib: PathText | None = None,
    calib_images: int = 128,
    recipe: AnyRecipe | None = None,
    hswish: Hswish = "auto",
    target: str = DEFAULT_TARGET,
    keep_float: Texts = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> Explained:
    """Say which tensors make the noise of int8, why, and what can be done: `edgemobile quantize --explain`. Writes no
    files.

    The keywords for the model, the images and the recipe are those of `quantize`. `to` is the format whose runtime
    measures int8, "onnx" if None.
    """
    images: dict[str, Any] = {"calib": optional_path(calib), "calib_images": calib_images}
    request = ExportRequest(
        model=fspath(model),
        out=default_out(fspath(model)),
        formats=None if to is None else texts(to),
        precisions=("int8",),
        weights=optional_text(weights),
        width=width,
        res=res,
        classes=classes,
        labels=optional_path(labels),
        preprocess=_preprocess(preprocess),
        batch=batch,
        keep_dead=keep_dead,
        recipe=_recipe(recipe, hswish, target, keep_float, images),
        target=target,
        use_trained=False,
        seed=seed,
        **images,
    )
    return Explained.of(explanation(request, progress))


@check_arguments()
def finetune(
    model: PathText,
    data: PathText,
    out: PathText,
    *,
    int8: bool = False,
    epochs: int = 3,
    float_epochs: int = 0,
    batch: int = 64,
    lr: float = 3e-4,
    int8_lr: float = 0.004,
    teacher: PathText | None = None,
    teacher_share: float | None = None,
    weights: PathText | None = None,
    width: float | None = None,
    res: int | None = None,
    preprocess: AnyPreprocess | None = None,
    calib_images: int = 512,
    check_images: int = 1000,
    overwrite: bool = False,
    resume: bool = False,
    threads: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Finetuned:
    """Train `model` on the images of `data`, one folder per class, and write a checkpoint to the folder `out`:
    `edgemobile finetune`."""
    from edgemobile.training.request import FinetuneRequest
    from edgemobile.training.run import finetune as train

    request = FinetuneRequest(
        fspath(model),
        Path(data),
        Path(out),
        weights=optional_text(weights),
        width=width,
        res=res,
        preprocess=_preprocess(preprocess),
        int8=int8,
        epochs=epochs,
        float_epochs=float_epochs,
        batch=batch,
        lr=lr,
        int8_lr=int8_lr,
        teacher=optional_text(teacher),
        teacher_share=teacher_share,
        calib_images=calib_images,
        check_images=check_images,
        threads=threads,
        seed=seed,
        overwrite=overwrite,
        resume=resume,
    )
    return Finetuned.of(train(request, progress))


@check_arguments()
def adapt(
    model: PathText,
    data: PathText,
    out: PathText,
    *,
    on: Texts = "emulated:cortex-a72",
    budget: str | float = 0.6,
    unit: Literal["instructions", "ms"] | None = None,
    weights: PathText | None = None,
    res: int | None = None,
    images: int = 512,
    steps: int = 8,
    candidates: int = 8,
    epochs: int = 0,
    batch: int = 64,
    lr: float = 3e-4,
    compare: bool = True,
    check_images: int = 1000,
    overwrite: bool = False,
    resume: bool = False,
    threads: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Adapted:
    """Make `model` smaller until its int8 file is within `budget` on every device of `on`, and write a checkpoint to
    the folder `out`: `edgemobile adapt`.

    `budget` is a share of the cost, or text as for the command: "12ms", "20M-instructions".
    """
    from edgemobile.adaptation.request import AdaptRequest
    from edgemobile.adaptation.run import adapt as shrink

    request = AdaptRequest(
        fspath(model),
        Path(data),
        Path(out),
        on=texts(on),
        budget=str(budget),
        unit=unit,
        weights=optional_text(weights),
        res=res,
        images=images,
        steps=steps,
        candidates=candidates,
        epochs=epochs,
        batch=batch,
        lr=lr,
        compare=compare,
        check_images=check_images,
        threads=threads,
        seed=seed,
        overwrite=overwrite,
        resume=resume,
    )
    return Adapted.of(shrink(request, progress))


@check_arguments()
def search(
    model: PathText,
    data: PathText,
    out: PathText,
    *,
    on: str = "emulated:cortex-a72",
    unit: Literal["instructions", "ms"] | None = None,
    weights: PathText | None = None,
    res: int | Iterable[int] = (),
    trials: int = 40,
    population: int = 10,
    epochs: int = 1,
    batch: int = 32,
    lr: float = 1e-3,
    train_images: int = 2000,
    images: int = 1000,
    check_images: int = 2000,
    overwrite: bool = False,
    resume: bool = False,
    threads: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Searched:
    """Search nets that are cut from `model` and cheaper on a device, and write a checkpoint of each net of the Pareto
    front to the folder `out`: `edgemobile search`. Needs the extra [search]."""
    from edgemobile.nas.request import SearchRequest
    from edgemobile.nas.run import search as find

    request = SearchRequest(
        fspath(model),
        Path(data),
        Path(out),
        on=on,
        unit=unit,
        weights=optional_text(weights),
        res=tuple(sorted(set(res))) if isinstance(res, Iterable) else (res,),
        trials=trials,
        population=population,
        epochs=epochs,
        batch=batch,
        lr=lr,
        train_images=train_images,
        images=images,
        check_images=check_images,
        threads=threads,
        seed=seed,
        overwrite=overwrite,
        resume=resume,
    )
    return Searched.of(find(request, progress))


@check_arguments(ref=_NETS)
def parity(
    ref: PathText,
    others: Files,
    *,
    weights: PathText | None = None,
    arch: str | None = None,
    width: float | None = None,
    classes: int | None = None,
    layers: bool = False,
    data: PathText | None = None,
    images: int = 32,
    seed: int = 0,
    runtimes: Texts = (),
    on: Texts = (),
    minimums: Mapping[str, float] | str | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Compared:
    """Compare files with a reference on the same images, and layer by layer with `layers`: `edgemobile parity`.

    `minimums` is metric -> bound, or text like "sqnr_db=20,top1_agree=0.95".
    """
    from edgemobile.comparison.run import ParityRequest
    from edgemobile.comparison.run import parity as compare
    from edgemobile.devices.runtimes.table import runtime_called
    from edgemobile.metrics.tolerances import parse_bounds

    if minimums is not None and not isinstance(minimums, str):
        minimums = ",".join(f"{name}={least}" for name, least in minimums.items())
    request = ParityRequest(
        fspath(ref),
        _models(others),
        weights=optional_text(weights),
        arch=arch,
        width=width,
        classes=classes,
        data=optional_path(data),
        images=images,
        seed=seed,
        layers=layers,
        minimums=parse_bounds(minimums or ""),
        on=texts(on),
        runtimes=tuple(map(runtime_called, texts(runtimes))),
        threads=threads,
    )
    return Compared.of(compare(request, progress))


@check_arguments()
def bench(
    files: Files,
    *,
    on: str = "local",
    threads: int | Iterable[int] = 1,
    cores: str | None = None,
    runtime: str | None = None,
    runs: int | None = None,
    seconds: float | None = None,
    processes: int | None = None,
    sustained_s: float | None = None,
    cooldown_c: float | None = None,
    memory: bool = False,
    profile: bool = False,
    shapes: Mapping[str, Iterable[int]] | None = None,
    clock_mhz: float | None = None,
    baseline: PathText | None = None,
    max_regress: float | None = None,
    progress: Progress | None = None,
) -> Benched:
    """Measure the latency of files on a device, or count instructions on an emulated one: `edgemobile bench`.

    `baseline` is a saved run; `max_regress` is relative to it, 0.05 for 5 %. `shapes` is input -> full shape, for
    inputs with dynamic dimensions. `clock_mhz` is for the estimated time of an emulated core.
    """
    from edgemobile.devices.host.records import Settings, load_run
    from edgemobile.devices.runtimes.table import RUNTIMES, runtime_called
    from edgemobile.exporters.model_files import read_model_file
    from edgemobile.latency.compare import compare
    from edgemobile.latency.run import BenchRequest, advice
    from edgemobile.latency.run import bench as measure

    if max_regress is not None and baseline is None:
        raise EdgemobileError("max_regress needs a baseline to compare with: add baseline='run.json'")
    if max_regress is not None and not 0 <= max_regress < inf:
        raise EdgemobileError(f"max_regress is relative to the baseline, 0.05 for 5 %; found {max_regress:g}")
    try:
        settings = Settings(
            threads=tuple(threads) if isinstance(threads, Iterable) else (threads,),
            cores=cores,
            runtime=None if runtime is None else runtime_called(runtime),
            runs=runs,
            seconds=seconds,
            processes=processes,
            sustained_s=sustained_s,
            cooldown_c=cooldown_c,
            memory=memory,
            profile=profile,
            shapes={name: tuple(shape) for name, shape in (shapes or {}).items()},
            clock_mhz=clock_mhz,
        )
    except ValueError as error:
        raise EdgemobileError(str(error)) from error
    reference = None if baseline is None else load_run(Path(baseline))
    row = RUNTIMES.get(settings.runtime or "")
    opened = tuple(map(read_model_file, _paths(files, None if row is None else (row.format,))))
    run = measure(BenchRequest(opened, on, settings), progress)
    compared = None if reference is None else compare(reference, run)
    return Benched(run, compared, max_regress, tuple(advice(run, opened)))


@check_arguments()
def cost_table(
    file: PathText,
    *,
    on: str = "emulated:cortex-a72",
    runtime: str | None = None,
    runs: int | None = None,
    shapes: Mapping[str, Iterable[int]] | None = None,
    clock_mhz: float | None = None,
    progress: Progress | None = None,
) -> CostTable:
    """The instructions of every layer of a file on an emulated core, and its estimated cycles if llvm is installed:
    `edgemobile bench FILE --on emulated:cortex-a72 --profile`.

    `runs` is how often the instructions of the whole file are counted; each cut of it is counted at most 3 times.
    Instructions are counted and cycles are estimated: nothing is timed.
    """
    from edgemobile.devices.host.emulation import CORES
    from edgemobile.devices.host.profiles import find_device

    if not find_device(on).address.startswith("emulated:"):
        cores = ", ".join(f"emulated:{cpu}" for cpu in CORES)
        raise EdgemobileError(f"layers are counted on an emulated core, and {on} is not one. Allowed: {cores}")
    benched = bench(
        file, on=on, runtime=runtime, runs=runs, shapes=shapes, clock_mhz=clock_mhz, profile=True, progress=progress
    )
    if len(benched.run.cases) != 1:
        names = ", ".join(Path(case.file).name for case in benched.run.cases)
        raise EdgemobileError(f"a cost table is of one file, but {file} has several: {names}. Pass one of them")
    return CostTable(benched.run)


@check_arguments()
def evaluate(
    files: Files,
    data: PathText,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    baseline: PathText | None = None,
    max_drop: float | None = None,
    arch: str | None = None,
    res: int | None = None,
    preprocess: AnyPreprocess | None = None,
    labels: PathText | None = None,
    on: str | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Evaluated:
    """Measure the accuracy of files on a folder or zip of images, one folder per class: `edgemobile eval`.

    `max_drop` is how many points of top-1 a file may lose to the `baseline`. `on` is a device, or several of one kind
    that share the images (names, patterns, tags: "pi-*"), which may be workers of a Dask `scheduler`. `preprocess` is a
    Preprocess, its JSON's object, or a name or file as for the command. Processes (`workers` above 1) need an
    `if __name__ == "__main__"` guard in scripts, as everywhere in Python.
    """
    from edgemobile.accuracy.classifier import ClassifierOptions
    from edgemobile.accuracy.evaluate import evaluate as count
    from edgemobile.accuracy.evaluation import EvalRequest
    from edgemobile.metrics.measures import checked_max_drop

    if max_drop is not None and baseline is None:
        raise EdgemobileError("max_drop needs a baseline to compare with: add baseline='float.tflite'")
    if max_drop is not None:
        checked_max_drop(max_drop)
    request = EvalRequest(
        files=_models(files),
        data=Path(data),
        split=split,
        limit=limit,
        seed=seed,
        baseline=optional_text(baseline),
        options=ClassifierOptions(
            arch=arch,
            preprocess=_preprocess(preprocess),
            labels=optional_path(labels),
            threads=threads,
            res=res,
        ),
        workers=workers,
        on=on,
        scheduler=scheduler,
    )
    return Evaluated.of(count(request, progress), max_drop=max_drop)


def evaluate_detection(
    files: Files,
    data: PathText,
    annotations: PathText,
    *,
    limit: int | None = None,
    seed: int = 0,
    preprocess: AnyPreprocess | None = None,
    labels: PathText | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Detected:
    """Measure the average precision of detectors on the images of a COCO json, in the folder `data`: `edgemobile eval
    --annotations`.

    `files` are detectors written by `edgemobile export`. Needs the extra [coco].
    """
    from edgemobile.accuracy.classifier import ClassifierOptions
    from edgemobile.accuracy.detection import evaluate_detection as measure
    from edgemobile.accuracy.pictures import PicturesRequest

    request = PicturesRequest(
        files=_models(files),
        data=Path(data),
        truth=Path(annotations),
        limit=limit,
        seed=seed,
        options=ClassifierOptions(preprocess=_preprocess(preprocess), labels=optional_path(labels), threads=threads),
    )
    return Detected.of(measure(request, progress))


def evaluate_segmentation(
    files: Files,
    data: PathText,
    masks: PathText,
    *,
    limit: int | None = None,
    seed: int = 0,
    threads: int = 1,
    progress: Progress | None = None,
) -> Segmented:
    """Measure the mean intersection over union of nets that classify pixels, on the images in the folder `data` and the
    masks of the same names in another folder: `edgemobile eval --masks`."""
    from edgemobile.accuracy.classifier import ClassifierOptions
    from edgemobile.accuracy.pictures import PicturesRequest
    from edgemobile.accuracy.segmentation import evaluate_segmentation as measure

    options = ClassifierOptions(threads=threads)
    request = PicturesRequest(_models(files), Path(data), Path(masks), limit, seed, options)
    return Segmented.of(measure(request, progress))


def _exported(model: PathText, out: PathText | None, progress: Progress | None, **options: Any) -> Exported:
    name = fspath(model)
    folder = default_out(name) if out is None else Path(out)
    return Exported.of(_export(ExportRequest(model=name, out=folder, **options), progress))


def _recipe(
    recipe: AnyRecipe | None, hswish: str, target: str, keep_float: Texts, images: dict[str, Any], **knobs: Any
) -> Recipe:
    if isinstance(recipe, Mapping):
        recipe = Recipe.from_json({"version": 1, **recipe})
    if isinstance(recipe, Recipe):
        if hswish != "auto" or keep_float or any(value is not None for value in knobs.values()):
            raise EdgemobileError(
                "a Recipe contains all values: change it with dataclasses.replace, or pass the name of one"
            )
        return suited(recipe, target)
    return recipe_of(optional_text(recipe), hswish, target, texts(keep_float), images, **knobs)


def _preprocess(given: AnyPreprocess | None) -> str | None:
    """As for `edgemobile eval --preprocess`: a name, a JSON file, or JSON."""
    if isinstance(given, Preprocess):
        return json.dumps(given.to_json())
    return json.dumps(dict(given)) if isinstance(given, Mapping) else optional_text(given)


def _paths(files: Files, formats: Collection[str] | None) -> tuple[Path, ...]:
    """Files on disk. The folder of an export is replaced by its files in `formats`, or by all its files if None."""
    if isinstance(files, Exported):
        return files.paths
    return tuple(map(Path, expanded(map(Path, _several(files)), formats)))


def _models(files: Files) -> tuple[str, ...]:
    """The models as `edgemobile eval` takes them: files, folders of exports and names of models."""
    return tuple(map(str, files.paths)) if isinstance(files, Exported) else expanded(_several(files))


def _several(files: PathText | Iterable[PathText]) -> tuple[PathText, ...]:
    return (files,) if isinstance(files, str | PathLike) else tuple(files)
