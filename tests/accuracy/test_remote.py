"""`edgemobile eval --on`: the same counts as here, through a line that breaks, and never an image twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemobile.accuracy.evaluate import evaluate
from edgemobile.accuracy.evaluation import EvalRequest, Evaluation
from edgemobile.devices.host import job_client, profiles
from edgemobile.devices.host.local import LocalTransport
from edgemobile.devices.host.transport import DeviceUnreachable
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.util.hashing import sha256_hex

pytest.importorskip("onnxruntime")


@dataclass(frozen=True)
class _Device:
    name: str = "local"
    address: str = "local"
    scheme: str = "local"
    options: Any = None


class _Line(LocalTransport):
    """Every third call is lost, before it acts or after it did."""

    calls = 0
    lost = 0

    def _through(self, act: Callable[[], Any]) -> Any:
        self.calls += 1
        broken = self.calls > 3 and self.calls % 3 == 0
        if broken and self.calls % 2:
            self.lost += 1
            raise DeviceUnreachable("gone")
        result = act()
        if broken:
            self.lost += 1
            raise DeviceUnreachable("gone")
        return result

    def put(self, source: Any, target: str, **options: Any) -> None:
        self._through(lambda: LocalTransport.put(self, source, target, **options))

    def read(self, path: str, *, offset: int = 0, max_bytes: int) -> bytes | None:
        return self._through(lambda: LocalTransport.read(self, path, offset=offset, max_bytes=max_bytes))

    def start(self, argv: Any, **options: Any) -> None:
        self._through(lambda: LocalTransport.start(self, argv, **options))


@pytest.fixture
def request_(tmp_path: Path, colour_model: Callable[..., bytes], colour_photos: Path) -> EvalRequest:
    right, swapped = tmp_path / "right.onnx", tmp_path / "swapped.onnx"
    right.write_bytes(colour_model("bgr"))
    swapped.write_bytes(colour_model("brg"))
    return EvalRequest((str(swapped),), colour_photos, baseline=str(right))


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, request_: EvalRequest) -> Callable[[LocalTransport], Evaluation]:
    """The evaluation through a transport, in parts of 4 images and without long waits."""
    monkeypatch.setattr("edgemobile.accuracy.evaluate._PART", 4)
    nap = job_client.time.sleep
    monkeypatch.setattr(job_client.time, "sleep", lambda s: nap(min(s, 0.02)))

    def run(transport: LocalTransport) -> Evaluation:
        monkeypatch.setattr(profiles, "open_device", lambda name: (_Device(), transport))
        return evaluate(replace(request_, on="local"))

    return run


def _counts(found: Evaluation) -> Any:
    return [(file.count, file.correct, file.predicted.tolist(), file.rank.tolist()) for file in found.files]


def test_the_same_counts_as_here(
    tmp_path: Path, request_: EvalRequest, on: Callable[[LocalTransport], Evaluation]
) -> None:
    found = on(LocalTransport(tmp_path / "board"))
    here = evaluate(request_)
    assert _counts(found) == _counts(here)
    assert (found.images, found.files[1].paired) == (here.images, here.files[1].paired)
    assert found.files[0].classifier.found["runtime"].endswith(" on local")
    assert found.files[0].inference_s > 0


def test_a_line_that_breaks_loses_and_doubles_nothing(
    tmp_path: Path, request_: EvalRequest, on: Callable[[LocalTransport], Evaluation]
) -> None:
    line = _Line(tmp_path / "board")
    found = on(line)
    assert line.lost > 5
    assert _counts(found) == _counts(evaluate(request_))


def test_an_interrupted_one_takes_up_what_is_there(
    tmp_path: Path, request_: EvalRequest, on: Callable[[LocalTransport], Evaluation]
) -> None:
    sent: list[str] = []

    class Interrupted(LocalTransport):
        left = 4

        def put(self, source: Any, target: str, **options: Any) -> None:
            name = Path(target).name
            if name.startswith("input-"):
                sent.append(name)
                if len(sent) == self.left:
                    raise KeyboardInterrupt
            super().put(source, target, **options)

    with pytest.raises(KeyboardInterrupt):
        on(Interrupted(tmp_path / "board"))
    first = sent[:-1]
    del sent[:]
    again = Interrupted(tmp_path / "board")
    again.left = 99
    assert _counts(on(again)) == _counts(evaluate(request_))
    # Answered before, and so sent for the other file alone; the last two may not have been answered.
    assert sent.count(first[0]) == 1
    assert len(sent) < 2 * 5


def test_a_broken_image_is_skipped_there_too(
    tmp_path: Path, request_: EvalRequest, on: Callable[[LocalTransport], Evaluation], colour_photos: Path
) -> None:
    broken = colour_photos / "blue" / "broken.png"
    broken.write_bytes(b"no image")
    try:
        found = on(LocalTransport(tmp_path / "board"))
        assert [name for name, _ in found.skipped] == ["blue/broken.png"]
        assert found.files[0].count == 18
    finally:
        broken.unlink()


def test_what_a_device_cannot_run(request_: EvalRequest) -> None:
    with pytest.raises(EdgemobileError, match="workers are processes on this machine"):
        replace(request_, on="local", workers=2)
    pytest.importorskip("torch")
    from edgemobile.accuracy.classifier import Classifier
    from edgemobile.accuracy.remote import score_on

    class Torch:
        runtime = "torch"

    classifier = Classifier("v2", Torch(), None, None, 3, None, False, {}, ())  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="v2 is a checkpoint"):
        score_on(_Device(), LocalTransport, classifier, [], 1, lambda done, total=None: None)  # type: ignore[arg-type]


def test_another_number_of_outputs_is_refused(
    tmp_path: Path, on: Callable[[LocalTransport], Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "edgemobile.devices.host.remote_inference.infer", lambda *words, **options: iter([np.zeros((4, 7), np.float32)])
    )
    with pytest.raises(EdgemobileError, match=r"local returned 7 outputs for .*right.onnx, which has 3"):
        on(LocalTransport(tmp_path / "board"))


def test_another_file_is_not_sent_in_its_place(
    tmp_path: Path, request_: EvalRequest, on: Callable[[LocalTransport], Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgemobile.accuracy import remote

    infer, (file,) = remote.remote_inference, request_.files
    measured = sha256_hex(Path(file).read_bytes())

    def replaced(*args: object) -> object:
        Path(file).write_bytes(Path(file).read_bytes() + b"\x72\x00")
        return infer(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(remote, "remote_inference", replaced)
    evaluation = on(LocalTransport(tmp_path / "board"))
    assert measured in {one.classifier.sha256 for one in evaluation.files}
    assert sha256_hex(Path(file).read_bytes()) != measured
    assert {path.name for path in (tmp_path / "board" / "files").iterdir()} == {
        f"{one.classifier.sha256}.onnx" for one in evaluation.files
    }
