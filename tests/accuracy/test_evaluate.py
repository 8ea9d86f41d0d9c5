"""Accuracy of models whose right answers are known, on images whose classes are plain."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgemobile.accuracy.evaluate as evaluate_module
from edgemobile.accuracy.classifier import ClassifierOptions
from edgemobile.accuracy.evaluate import evaluate
from edgemobile.accuracy.evaluation import EvalRequest, Evaluation
from edgemobile.errors import EdgemobileError
from edgemobile.images.dataset import open_dataset
from edgemobile.util.hashing import sha256_hex
from edgemobile.util.progress import Silent

pytest.importorskip("onnxruntime")


@pytest.fixture
def models(tmp_path: Path, colour_model: Callable[..., bytes]) -> Callable[..., str]:
    """Writes a model of colours and gives its path."""

    def write(order: str, **options: object) -> str:
        path = tmp_path / f"{order[:8]}{len(options)}.onnx"
        path.write_bytes(colour_model(order, **options))
        return str(path)

    return write


def counts(result: Evaluation) -> list[int]:
    return [file.correct for file in result.files]


def test_files_are_counted_and_compared_image_by_image(models: Callable[..., str], colour_photos: Path) -> None:
    right, swapped = models("bgr"), models("brg")
    result = evaluate(EvalRequest((swapped, right), colour_photos, baseline=right))
    # The baseline comes first, and once. Green and red are swapped: 12 of 18 are wrong.
    assert [file.classifier.file for file in result.files] == [right, swapped]
    assert counts(result) == [18, 6]
    paired = result.files[1].paired
    assert paired is not None
    assert (paired.only_baseline, paired.only_other) == (12, 0)
    assert paired.drop_points == pytest.approx(100 * 12 / 18)
    assert paired.p_exact == pytest.approx(2 / 2**12)
    assert [file.classifier.file for file in result.exceeding(66.6)] == [swapped]
    assert result.exceeding(100 * 12 / 18) == ()
    # The same bound, rounded otherwise: a float below the drop.
    assert result.exceeding(100 * (12 / 18)) == ()
    with pytest.raises(EdgemobileError, match="0 to 100; found nan"):
        result.exceeding(float("nan"))
    assert result.files[0].top5_correct is None


def test_json_has_the_raw_counts(models: Callable[..., str], colour_photos: Path) -> None:
    result = evaluate(EvalRequest((models("brg"),), colour_photos)).to_json()
    (file,) = result["files"]
    assert file["sha256"] == sha256_hex(Path(file["file"]).read_bytes())
    assert (file["correct"], file["incorrect"], file["count"]) == (6, 12, 18)
    assert file["confusion"] == [
        {"true": 0, "predicted": 0, "count": 6},
        {"true": 1, "predicted": 2, "count": 6},
        {"true": 2, "predicted": 1, "count": 6},
    ]
    assert [(one["folder"], one["correct"]) for one in file["per_class"]] == [("blue", 6), ("green", 0), ("red", 0)]
    assert result["images"][0] == "blue/0.png"
    assert file["predicted"] == [0] * 6 + [2] * 6 + [1] * 6
    assert sum(rank == 0 for rank in file["rank"]) == 6


@pytest.mark.parametrize(
    ("order", "options"),
    [
        ("bgr", {"shape": (1, 32, 32, 3), "dtype": "UINT8"}),
        ("bgr", {"shape": (4, 3, 32, 32)}),
        ("bgr", {"softmax": True}),
    ],
)
def test_every_form_of_file_is_read(
    models: Callable[..., str], colour_photos: Path, order: str, options: dict[str, object]
) -> None:
    assert counts(evaluate(EvalRequest((models(order, **options),), colour_photos))) == [18]


def test_indexed_folders_and_background(models: Callable[..., str], colour_photos: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for folder, index in (("blue", 4), ("green", 0), ("red", 999)):
        shutil.copytree(colour_photos / folder, photos / f"{index:04}_{folder}")
    wide = models("_g___b" + "_" * 994 + "r")
    result = evaluate(EvalRequest((wide,), photos))
    assert (counts(result), result.files[0].top5_correct) == ([18], 18)
    assert sorted(set(result.files[0].truth.tolist())) == [1, 5, 1000]


def test_the_sixth_place_is_not_among_the_first_five(
    models: Callable[..., str], colour_photos: Path, tmp_path: Path
) -> None:
    for index in (4, 5):
        shutil.copytree(colour_photos / "blue", tmp_path / "photos" / f"{index}_blue")
    # Six outputs are alike, and come in their order.
    (file,) = evaluate(EvalRequest((models("bbbbbbgr"),), tmp_path / "photos")).to_json()["files"]
    assert (file["correct"], file["top5_correct"]) == (0, 6)
    assert [(one["folder"], one["top5_correct"]) for one in file["per_class"]] == [("4_blue", 6), ("5_blue", 0)]


def test_processes_change_nothing(models: Callable[..., str], colour_photos: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("blue", "green", "red"):
        for copy in range(4):
            shutil.copytree(colour_photos / name, photos / name / str(copy))
    (photos / "green" / "0" / "3.png").write_bytes(b"\x89PNG no more")
    files = (models("bgr"), models("brg"))
    alone, shared = (evaluate(EvalRequest(files, photos, workers=workers)) for workers in (1, 2))
    assert (alone.workers, shared.workers) == (1, 2)
    changing = {"workers", "wall_s", "files"}
    assert {k: v for k, v in alone.to_json().items() if k not in changing} == {
        k: v for k, v in shared.to_json().items() if k not in changing
    }
    for one, other in zip(alone.files, shared.files, strict=True):
        assert one.count == 71
        assert (one.rank == other.rank).all()
        assert (one.predicted == other.predicted).all()


class _Interrupted(Silent):
    """Ctrl-C once the first part is done."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        def report(done: int) -> None:
            raise KeyboardInterrupt

        yield report


def test_an_interrupt_leaves_no_process_behind(
    models: Callable[..., str], colour_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgemobile.accuracy.evaluate._PART", 2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(EvalRequest((models("bgr"),), colour_photos, workers=2), _Interrupted())
    assert active_children() == []


def test_a_file_replaced_meanwhile_does_not_get_the_accuracy_of_another(
    models: Callable[..., str], colour_photos: Path
) -> None:
    right, swapped = Path(models("bgr")), Path(models("brg"))
    measured = sha256_hex(right.read_bytes())
    result = evaluate(EvalRequest((str(right),), colour_photos))
    right.write_bytes(swapped.read_bytes())
    (file,) = result.to_json()["files"]
    assert (file["sha256"], file["correct"]) == (measured, 18)


def test_processes_run_the_bytes_that_were_read_first(
    models: Callable[..., str], colour_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, swapped = Path(models("bgr")), Path(models("brg"))
    measured = sha256_hex(right.read_bytes())
    start = evaluate_module.ProcessPoolExecutor

    def replaced(*args: object) -> object:
        right.write_bytes(swapped.read_bytes())
        return start(*args)

    monkeypatch.setattr(evaluate_module, "_PART", 4)
    monkeypatch.setattr(evaluate_module, "ProcessPoolExecutor", replaced)
    result = evaluate(EvalRequest((str(right),), colour_photos, workers=2))
    assert right.read_bytes() == swapped.read_bytes()
    (file,) = result.to_json()["files"]
    assert (result.workers, file["sha256"], file["correct"]) == (2, measured, 18)


def test_a_checkpoint_that_another_process_read_otherwise_is_refused(
    models: Callable[..., str], colour_photos: Path
) -> None:
    """Processes read checkpoints themselves, and say what they read by its sha256."""
    file = models("bgr")
    dataset, request = open_dataset(colour_photos, None), EvalRequest((file,), colour_photos)
    evaluate_module._Scorer(dataset, request, [sha256_hex(Path(file).read_bytes())])
    with pytest.raises(EdgemobileError, match=r"bgr0\.onnx was replaced while it was evaluated"):
        evaluate_module._Scorer(dataset, request, ["0" * 64])


def test_a_sample_is_drawn_by_its_seed(models: Callable[..., str], colour_photos: Path) -> None:
    def drawn(seed: int, limit: int = 9) -> tuple[str, ...]:
        return evaluate(EvalRequest((models("bgr"),), colour_photos, limit=limit, seed=seed)).images

    assert drawn(0) == drawn(0) != drawn(1)
    assert len({name.partition("/")[0] for name in drawn(0)}) == 3  # the first nine are of two classes
    assert len(drawn(0, limit=100)) == 18


def test_broken_images_are_named_and_not_fatal(models: Callable[..., str], colour_photos: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(colour_photos, photos)
    whole = (photos / "red" / "0.png").read_bytes()
    (photos / "red" / "0.png").write_bytes(whole[: len(whole) // 2])
    (photos / "blue" / "9.jpg").write_bytes(b"")
    Image.new("RGB", (30_000, 1)).save(photos / "blue" / "strip.png")
    result = evaluate(EvalRequest((models("bgr"),), photos))
    assert [name for name, _ in result.skipped] == ["blue/9.jpg", "blue/strip.png", "red/0.png"]
    assert all(reason and "cannot read" not in reason for _, reason in result.skipped)
    assert (result.files[0].count, counts(result)) == (17, [17])
    for image in photos.rglob("*.*"):
        image.write_bytes(b"")
    with pytest.raises(EdgemobileError, match=r"no image of .* can be read; the first: blue/0.png"):
        evaluate(EvalRequest((models("bgr"),), photos))


def test_outputs_that_are_not_finite_are_wrong_and_said(models: Callable[..., str], colour_photos: Path) -> None:
    result = evaluate(EvalRequest((models("bgr", gain=float("nan")),), colour_photos))
    assert (counts(result), result.files[0].not_finite) == ([0], 18)
    assert any("18 outputs are not finite" in note for note in result.notes)


def test_what_is_not_finite_never_passes_a_bound(models: Callable[..., str], colour_photos: Path) -> None:
    right, wrong, broken = models("bgr"), models("___"), models("rgb", gain=np.nan)
    with pytest.raises(EdgemobileError, match="the baseline has no finite output for any image"):
        evaluate(EvalRequest((broken,), colour_photos, baseline=models("grb", gain=np.nan))).exceeding(0)
    # Nothing is lost where there was nothing.
    for baseline in (right, wrong):
        result = evaluate(EvalRequest((broken,), colour_photos, baseline=baseline))
        assert [file.classifier.file for file in result.exceeding(100)] == [broken]


def test_guessing_is_pointed_out(models: Callable[..., str], colour_photos: Path) -> None:
    # One never right, and one that always says blue: 6 of 18, which is what chance gives.
    for order, right in (("grb", 0), ("b__", 6)):
        result = evaluate(EvalRequest((models(order),), colour_photos))
        assert counts(result) == [right]
        assert any("no better than guessing" in note for note in result.notes)
    assert evaluate(EvalRequest((models("bgr"),), colour_photos)).notes == ()


def test_test_is_the_split_unless_another_is_asked_for(
    models: Callable[..., str], colour_photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(colour_photos, tmp_path / "set" / "train")
    shutil.copytree(colour_photos / "red", tmp_path / "set" / "test" / "red")
    file = models("bgr")
    assert evaluate(EvalRequest((file,), tmp_path / "set")).files[0].count == 6
    assert evaluate(EvalRequest((file,), tmp_path / "set", split="train")).files[0].count == 18
    (tmp_path / "set" / "test").rename(tmp_path / "set" / "eval")
    assert evaluate(EvalRequest((file,), tmp_path / "set")).dataset.split == "eval"


def test_what_cannot_be_evaluated_says_why(models: Callable[..., str], colour_photos: Path) -> None:
    file = models("bgr")
    with pytest.raises(EdgemobileError, match=r"has no class folders .* edgemobile predict"):
        evaluate(EvalRequest((file,), colour_photos / "red"))
    with pytest.raises(EdgemobileError, match="nothing to evaluate: give at least one file"):
        EvalRequest((), colour_photos, baseline=file)
    with pytest.raises(EdgemobileError, match="seed must be at least 0, found -1"):
        EvalRequest((file,), colour_photos, seed=-1)
    with pytest.raises(EdgemobileError, match="limit must be at least 1, found 0"):
        EvalRequest((file,), colour_photos, limit=0)
    with pytest.raises(EdgemobileError, match="threads must be at least 1, found 0"):
        EvalRequest((file,), colour_photos, options=ClassifierOptions(threads=0))


def test_googles_quantized_mobilenet_is_as_good_as_published(shared_data: Path) -> None:
    file = shared_data / "models" / "mobilenet_v1_0.25_128_quant.tflite"
    photos = shared_data / "imagenet-sample.zip"
    if not (file.is_file() and photos.is_file()):
        pytest.skip(f"no {file.name} or no {photos.name} in {shared_data}")
    pytest.importorskip("ai_edge_litert")
    (result,) = evaluate(EvalRequest((str(file),), photos, limit=200)).files
    # 39.5 % and 64.4 % on the whole validation set; the sample's images are chosen, and easier.
    assert 0.36 < result.correct / result.count < 0.56
    assert result.top5_correct is not None
    assert 0.62 < result.top5_correct / result.count < 0.82
    assert result.classifier.labels is not None
    assert result.classifier.label(int(np.min(result.truth))).startswith("tench") or np.min(result.truth) > 1
