"""What `walk.py` knows of single commands of the docs: which are not run, and which exit code is right."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CODES", "NEEDS_A_CORE", "OUTPUT_DIFFERS", "SKIPPED", "SLOW", "SUBSTITUTES", "Row"]


@dataclass(frozen=True)
class Row:
    """A rule for the commands of `page` ("" for all pages) that begin with `starts`, and the reason."""

    page: str
    starts: str
    why: str
    codes: tuple[int, ...] = (0,)

    def applies(self, page: str, command: str) -> bool:
        return self.page in ("", page) and command.startswith(self.starts)


_INSTALLED = "installs packages, as .ci/run and the jobs of the wheel do"
_CI = ".ci/run runs it itself"
_SHELL = "the shell of a board; tests/pipeline runs predict.py on an emulated core"
_DOWNLOADED = "needs a file that must be downloaded"
_FAULTS = "tests/comparison makes these faults and reads what is said of them"
_TRAINS = "trains for minutes; tests/training trains small nets"
_TRAINED = "needs what training writes"
_ADAPTED = "needs what adapt writes"
_SEVERAL = "needs several boards of one kind; tests/fleet starts some"
_SWEPT = "exports a grid for hours; tests/commands/test_sweep.py sweeps small nets"
_BUSY = "0, or 5 on a machine that is busy"

SKIPPED = (
    Row("README.md", "pip install", _INSTALLED),
    Row("README.md", "python3 -m venv .venv &&", _CI),
    Row("docs/accuracy.md", "edgemobile eval mobilenet_v2_1.0_224_quant.tflite", _DOWNLOADED),
    Row("docs/accuracy.md", "edgemobile predict mobilenet_v2_1.0_224_quant.tflite", _DOWNLOADED),
    Row("docs/accuracy.md", "edgemobile eval v3-large-lraspp/", _DOWNLOADED),
    Row("docs/boards.md", "edgemobile bench int8.tflite --on pi5 --cooldown", "needs the thermometer of a board"),
    Row("docs/ci.md", "docker", "needs a Docker engine; tests/test_docker.py reads the Dockerfile"),
    Row("docs/detection.md", "python examples/train_detector.py", _TRAINS),
    Row("docs/detection.md", "edgemobile export", _DOWNLOADED),
    Row("docs/detection.md", "edgemobile predict", _DOWNLOADED),
    Row("docs/detection.md", "edgemobile eval", _DOWNLOADED),
    Row("docs/estimates.md", "sudo apt-get install", _INSTALLED),
    Row("docs/estimates.md", "git clone", _DOWNLOADED),
    Row("docs/estimates.md", "pip download", _DOWNLOADED),
    Row("docs/estimates.md", "python benchmarks/estimates.py", _DOWNLOADED),
    Row("docs/file-models.md", "edgemobile export theirs.keras", "tests/loading converts a file that Keras wrote"),
    Row("docs/own-model.md", "edgemobile export theirs.keras", "tests/loading converts a file that Keras wrote"),
    Row("docs/fleet.md", "", _SEVERAL),
    Row("README.md", "edgemobile eval int8.tflite --data images/ --on", _SEVERAL),
    Row("docs/get-a-file.md", "python3 -m venv .venv", _INSTALLED),
    Row("docs/get-a-file.md", ". .venv/bin/activate", _INSTALLED),
    Row("docs/get-a-file.md", "pip install", _INSTALLED),
    Row("docs/get-a-file.md", "scp", _SHELL),
    Row("docs/get-a-file.md", "ssh", _SHELL),
    Row("docs/get-a-file.md", "cd v3-large && python3 -m venv", _SHELL),
    Row("docs/get-a-file.md", "python predict.py", _SHELL),
    Row("", "edgemobile sweep", _SWEPT),
    Row("", "edgemobile finetune", _TRAINS),
    Row("", "edgemobile adapt", "measures 52 nets and searches for minutes; tests/adaptation adapts a small net"),
    Row("", "edgemobile search", "trains and measures tens of nets; tests/nas searches small ones"),
    Row("docs/search.md", "pip install", _INSTALLED),
    Row("docs/search.md", "edgemobile export found/", "needs what search writes"),
    Row("", "edgemobile export smaller/", _ADAPTED),
    Row("", "edgemobile models smaller/", _ADAPTED),
    Row("", "edgemobile export tuned/", _TRAINED),
    Row("docs/own-model.md", "edgemobile export v2 --weights mobilenet_v2_1.0_224_quant.tflite", _DOWNLOADED),
    Row("docs/own-model.md", "edgemobile export v2 --weights imagenet", _DOWNLOADED),
    Row("docs/own-model.md", "edgemobile export mobilenet_v1_1.0_224.tflite", _DOWNLOADED),
    Row("docs/report.md", "edgemobile report --since", "needs results of boards; tests/report fills a store"),
    Row("docs/parity.md", "edgemobile parity v3-large float32.onnx int8.tflite theirs.tflite", _FAULTS),
    Row("docs/parity.md", "edgemobile parity v3-small-int8.onnx swapped.tflite", _FAULTS),
)
# Also the commands that name an emulated core, where this machine has none.
NEEDS_A_CORE = (
    Row("docs/ci.md", "edgemobile ci", "its first command counts instructions"),
    Row("docs/report.md", "edgemobile report", "counts.json is of an emulated core"),
)
# Left out of a run without --all, so that it takes about four minutes on two quiet cores.
SLOW = (
    Row("README.md", "edgemobile export v2 --weights my.pth", "an export at 224 px"),
    Row("README.md", "edgemobile quantize v3-large --calib images/ --rank", "quantizes once for each tensor"),
    Row("docs/boards.md", "edgemobile parity v3-large int8.tflite --on", "layers on emulated cores"),
    Row("docs/boards.md", "edgemobile bench float.tflite fused.tflite", "three files on an emulated core"),
    Row("docs/boards.md", "edgemobile bench int8.tflite --on emulated:cortex-a72 --baseline", "needs what that writes"),
    Row("docs/boards.md", "edgemobile bench int8.tflite --on emulated:cortex-a72 --profile", "counts 133 cuts"),
    Row("docs/boards.md", "edgemobile report", "needs what that writes"),
    Row("docs/ci.md", "edgemobile ci --only", "an export that is not in the cache"),
    Row("docs/estimates.md", "edgemobile bench", "two files on an emulated core"),
    Row("docs/get-a-file.md", "edgemobile export v3-large --int8 --calib", "a second export"),
    Row("docs/ideas.md", "edgemobile models v3-large --explain --res 96 --on", "measures 13 nets on an emulated core"),
    Row("docs/get-a-file.md", "edgemobile export v3-small --width", "synthesizes images"),
    Row("docs/get-a-file.md", "edgemobile export v3-large --int8 --embed-preprocess", "a second export"),
    Row("docs/get-a-file.md", "edgemobile bench v3-large --on", "four files on an emulated core"),
    Row("docs/get-a-file.md", "edgemobile parity v3-large", "an emulated core"),
    Row("docs/hard-nets.md", "edgemobile export", "an export, as on other pages"),
    *(
        Row(
            "docs/hard-nets.md",
            f"edgemobile quantize v3-large --calib images/ --{option}",
            "one quantization is enough",
        )
        for option in ("explain", "rank", "max-drop", "recipe", "observer", "split-gates")
    ),
    Row("docs/own-model.md", "edgemobile export v2 --weights my.pth", "an export at 224 px"),
    Row("docs/file-models.md", "edgemobile quantize theirs.onnx", "quantizes once for each tensor"),
    Row("docs/get-a-file.md", "edgemobile export v3-large --int8 --overwrite", "a second export"),
    Row("docs/get-a-file.md", "edgemobile bench v3-large/v3-large-int8.tflite --on", "an emulated core"),
    Row("docs/get-a-file.md", "edgemobile export v3-large --int8 --keep-dead", "a second export"),
    Row("docs/get-a-file.md", "edgemobile bench v3-large/v3-large-int8.tflite kept", "needs what that writes"),
    Row("docs/own-model.md", "edgemobile export saved.pt2", "an export, as on other pages"),
    Row("docs/own-model.md", "edgemobile export theirs", "an export, as on other pages"),
    Row("docs/parity.md", "edgemobile parity v3-large int8.tflite int8.onnx --on", "two emulated cores"),
    Row("docs/reference/files.md", "edgemobile export v1", "an export, as on other pages"),
    Row("docs/reference/options.md", "EDGEMOBILE_EXPORT_INT8", "an export, as on other pages"),
)
# Commands whose exit code need not be 0.
CODES = (
    Row("", "edgemobile bench", _BUSY, (0, 5)),
    Row("", "EDGEMOBILE_BENCH_THREADS", _BUSY, (0, 5)),
    Row("docs/boards.md", "edgemobile compare", _BUSY, (0, 5)),
)
# Commands that print other words than the page shows.
OUTPUT_DIFFERS = (
    Row(
        "docs/boards.md",
        "edgemobile bench int8.tflite --on emulated:cortex-a72 --baseline",
        "shows a file that became slower; here it is the same",
    ),
)
# (part of a command, what runs in its place, why)
SUBSTITUTES = (
    ("ssh://pi@raspberrypi.local", "emulated:cortex-a76", "the core of a Raspberry Pi 5"),
    ("ssh://pi@pi4.local", "emulated:cortex-a72", "the core of a Raspberry Pi 4"),
    ("--on pi5 --threads 1,4 --memory", "--on local --threads 1,2 --memory", "an emulated core counts one thread"),
    ("--split val", "--split test", "the samples have train and test"),
    ("theirs.onnx --preprocess imagenet --res 224", "theirs.onnx --preprocess imagenet", "the file takes 96 px only"),
    ("--on pi5 --sustained 10m", "--on local --sustained 2s", "an emulated core has no time"),
)
