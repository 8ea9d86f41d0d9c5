"""An evaluation on boards that fail, and how much faster several are than one, with boards on this machine.

    python benchmarks/boards.py failing int8.onnx --data cifar10.zip --images 10000
    python benchmarks/boards.py scaling int8.onnx --data cifar10.zip --images 500

Each board is an sshd on loopback with a real worker and a real onnxruntime, whose inference of an image takes
--image-ms longer than it does here: mostly a wait, so that eight fit on two cores. Needs a checkout, sshd and
edgemobile[fleet].

failing: eight boards; in the middle three are killed, one becomes ten times slower, and one begins to give wrong
    outputs. Prints what became of each, the accuracy beside that of this machine alone, and the time beside the ideal
    for the boards that were left. The exit code is 1 if one image has another result.
scaling: --images per board on 1, 2, 4 and 8 boards, and the throughput beside that of one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from loopback_boards import LoopbackBoard, WhenDone, loopback_boards

from edgemobile.accuracy.evaluate import evaluate
from edgemobile.accuracy.evaluation import EvalRequest, Evaluation

_BOARDS = 8
_SLOWER = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("failing", "scaling"))
    parser.add_argument("file", help="an .onnx file")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--image-ms", type=float, default=50.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgemobile-boards-") as made:
        folder = Path(made)
        os.environ.update({"EDGEMOBILE_DEVICES": str(folder / "devices.toml"), "XDG_CACHE_HOME": str(folder / "cache")})
        names = [f"pi-{number}" for number in range(1, _BOARDS + 1)]
        with loopback_boards(folder, names, given.image_ms / 1e3) as boards:
            (folder / "devices.toml").write_text("\n".join(board.row for board in boards), encoding="utf-8")
            run: Callable[[argparse.Namespace, list[LoopbackBoard]], int] = _RUNS[given.what]
            return run(given, boards)


def _failing(given: argparse.Namespace, boards: list[LoopbackBoard]) -> int:
    here = evaluate(EvalRequest((given.file,), given.data, limit=given.images))
    image_s, at_s = given.image_ms / 1e3, 0.0
    began = time.monotonic()

    def happen() -> None:
        nonlocal at_s
        at_s = time.monotonic() - began
        for board in boards[:3]:
            board.kill()
        boards[3].does(image_s=_SLOWER * image_s)
        boards[4].does(image_s=image_s, lies=True)
        print(f"after {at_s:.1f} s: pi-1 to pi-3 killed, pi-4 {_SLOWER} times slower, pi-5 lies", flush=True)

    request = EvalRequest((given.file,), given.data, limit=given.images, on="pi-*")
    found = evaluate(request, WhenDone(given.images // 5, happen))
    for share in found.files[0].boards:
        print(f"{share.board}  {share.images:5} images  {share.set_aside or ''}")
    left = [share for share in found.files[0].boards if share.set_aside is None]
    # The share of the board that lies counts for nothing.
    before = given.images // 5 * (_BOARDS - 1) / _BOARDS
    ideal = at_s + (given.images - before) * image_s / len(left)
    print(f"{found.wall_s:.1f} s; ideal for the boards left: {ideal:.1f} s; ratio {found.wall_s / ideal:.2f}")
    print(f"top-1 {_top1(found)} on boards, {_top1(here)} here")
    same = found.images == here.images and (found.files[0].predicted == here.files[0].predicted).all()
    print("the same answer to every image" if same else "DIFFERENT ANSWERS")
    return 0 if same else 1


def _top1(found: Evaluation) -> str:
    return f"{found.files[0].correct} of {found.files[0].count}"


def _scaling(given: argparse.Namespace, boards: list[LoopbackBoard]) -> int:
    one = 0.0
    for count in (1, 2, 4, 8):
        on = ",".join(board.name for board in boards[:count])
        found = evaluate(EvalRequest((given.file,), given.data, limit=count * given.images, on=on))
        per_s = len(found.images) / found.wall_s
        one = one or per_s
        shown = f"{count} boards  {len(found.images):5} images in {found.wall_s:6.1f} s  {per_s:6.1f} images/s"
        print(f"{shown}  {per_s / one:.2f} times one board", flush=True)
    return 0


_RUNS = {"failing": _failing, "scaling": _scaling}

if __name__ == "__main__":
    sys.exit(main())
