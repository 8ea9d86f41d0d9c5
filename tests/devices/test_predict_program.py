"""predict.py of an export on an emulated Arm core, with the packages that its README names."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import PIL
import pytest
from PIL import Image

from edgemobile.commands.predict import predict
from edgemobile.devices.host.emulation import Emulation
from edgemobile.devices.host.wheels import Target, fetch_wheels
from edgemobile.errors import EdgemobileError

_PILLOW = f"pillow=={PIL.__version__}"


@pytest.fixture(scope="module")
def arm(emulation: Callable[[str], Emulation], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs the userland's own Python with numpy, Pillow and both runtimes for aarch64; gives standard output."""
    core = emulation("cortex-a72")

    def python(*words: object, path: Path | None = None) -> str:
        environment = {**core.environment, **({} if path is None else {"PYTHONPATH": str(path)})}
        command = core.command(["python3", *map(str, words)])
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    facts = "import platform, sys; print(sys.version_info[1], *platform.libc_ver()[1].split('.'), platform.machine())"
    minor, *glibc, machine = python("-c", facts).split()
    target = Target(machine, (3, int(minor)), (int(glibc[0]), int(glibc[1])))
    site, downloads = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("wheels")
    platforms = [word for platform in target.platforms for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", *platforms]
    done = subprocess.run(
        [*command, "--python-version", f"3.{minor}", "-d", str(downloads), _PILLOW], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"{_PILLOW} for aarch64 cannot be downloaded: {done.stderr.decode()[-200:]}")
    try:
        wheels = {wheel for runtime in ("litert", "onnxruntime") for wheel in fetch_wheels(runtime, target)}
    except EdgemobileError as error:
        pytest.skip(str(error))
    for wheel in (*wheels, *downloads.iterdir()):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    return lambda *words: python(*words, path=site)


@pytest.mark.parametrize("file", ["int8.tflite", "int8.onnx", "float32.tflite", "float32.onnx"])
def test_an_arm_board_answers_as_this_machine(
    arm: Callable[..., str],
    bundled_export: Callable[[str], Path],
    sideways: Image.Image,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
) -> None:
    export = bundled_export("normalised outside")
    sideways.resize((200, 100)).save(tmp_path / "turned.png")
    words = list(map(str, (export / f"v3-small-{file}", export / "sample.png", tmp_path / "turned.png", "--json")))
    found = json.loads(arm(export / "predict.py", *words))
    assert predict.main(words, standalone_mode=False) == 0
    expected = json.loads(capsys.readouterr().out)
    for here, there in zip(expected["images"], found["images"], strict=True):
        assert here["top"][0]["label"] == there["top"][0]["label"]
        shares = {one["label"]: one["probability"] for one in there["top"]}
        # Another core adds floats in another order, and rounds a tie of int8 the other way.
        for one in here["top"][:2]:
            assert shares[one["label"]] == pytest.approx(one["probability"], abs=0.02 if "int8" in file else 1e-4)
