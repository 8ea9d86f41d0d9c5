"""A small synthetic board run, evaluation, parity report and export; and a real Chromium."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_runs
import pytest

from edgemobile.comparison.layers import LayerParity
from edgemobile.comparison.report import FileParity, ParityReport
from edgemobile.devices.host.records import Case, Conditions, Core, Facts, OpTime, Run, Sample
from edgemobile.report.findings import Findings, join
from edgemobile.report.sources import read_sources

FLOAT, INT8 = "a" * 64, "b" * 64


def make_case(file: str, sha256: str, ms: float | None, **given: Any) -> Case:
    """`ms` None is an emulated case, of `given["millions"]` of instructions."""
    fields = {"sha256": sha256, "bytes": 4 * 2**20, "input": "f32[1,3,64,64]", **given}
    millions = fields.pop("millions", 8)
    if ms is None:
        return made_runs.make_counted(file, [int(millions * 1e6)] * 5, counts={"dot": 10**6}, **fields)
    return made_runs.make_case(file, ms, rounds_per_process=(2,) * 5, **fields)


def make_run(*cases: Case, **given: Any) -> Run:
    facts = Facts(
        *("Raspberry Pi 5", "BCM2712", "aarch64", (Core(0, "Cortex-A76", 2400.0),), ("dotprod",), 8000.0),
        *("Debian", "6.6", "3.11", 64, {"litert": "2.3.0"}),
    )
    before = Sample("before", 0.0, Conditions("performance", (2400.0,), 50.0, None, 0.1, 6000.0))
    return made_runs.make_run(*cases, **{"facts": facts, "conditions": (before,), **given})


def make_scores(**top1: tuple[str | None, float]) -> dict[str, Any]:
    """The output of `edgemobile eval --json` on 100 images; a file's key is its name with `_` instead of the dot."""
    files = [
        {
            "file": name.replace("_", "."),
            "sha256": sha256,
            "count": 100,
            "top1": share,
            "top5": None,
            "top1_interval95": [share - 0.05, share + 0.05],
            "runtime": "litert 2.3.0",
            "preprocess": "0 to 1",
        }
        for name, (sha256, share) in top1.items()
    ]
    facts = {"version": 1, "data": "photos.zip", "split": "test", "limit": None, "seed": 0, "on": None}
    return {**facts, "images": ["1.png"], "classes": ["cat", "dog"], "files": files, "notes": []}


def make_manifest(labels: tuple[str, ...] = ("cat", "dog")) -> dict[str, Any]:
    preprocess = {"version": 1, "input_px": 32, "resize": "exact", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    files = [
        {
            "file": file,
            "format": "onnx",
            "precision": precision,
            "bytes": size,
            "sha256": sha256,
            "ops": {"Conv": 3},
            "hswish": "",
            "runtime": "onnxruntime 1",
            "metrics": {"sqnr_db": None},
            "top1": 0.75,
            "missed": [],
            "latency_ns": [1, 2],
        }
        for file, precision, size, sha256 in (
            ("float.onnx", "float32", 2**24, FLOAT),
            ("int8.onnx", "int8", 2**22, INT8),
        )
    ]
    return {
        "version": 1,
        "edgemobile": "0.1.0",
        "command": "edgemobile export v3-large --int8",
        "backend": "native",
        "model": {
            "name": "v3-large",
            "classes": len(labels),
            "input_px": 32,
            "labels": list(labels),
            "preprocess": preprocess,
        },
        "weights": {"source": "bundled", "sha256": "c" * 64},
        "calibration": {"source": "photos.zip", "images": 128},
        "recipe": {"version": 1, "name": "default", "refit": 3.0},
        "target": {"name": "arm", "why": "fewer instructions", "onnx": {"weights": "int8"}},
        "checked_on": {"images": "200 images of photos.zip", "float_top1": 0.76},
        "files": files,
        "notes": [],
        "tools": {"onnx": "1"},
    }


def make_parity(*layers: LayerParity, sha256: str = INT8, file: str = "out/int8.onnx") -> ParityReport:
    metrics = {"sqnr_db": 30.0, "max_abs": 0.2, "cosine": 0.99, "top1_agree": 1.0, "kl_nats": 0.001}
    missed = tuple("layer diverges" for layer in layers if layer.diverges_in)
    one = FileParity(file, "onnx", "int8", "onnxruntime", "x86_64", metrics, {}, missed, layers=layers, sha256=sha256)
    return ParityReport("v3-large", "32 images", (one,))


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., Findings]:
    """The sources of a report, written to files and read back: runs, parity reports and JSON."""

    def join_all(*records: object) -> Findings:
        paths = []
        for index, record in enumerate(records):
            json_of = getattr(record, "to_json", lambda record=record: record)
            text = record.to_text() if isinstance(record, Run) else json.dumps(json_of())
            paths.append(tmp_path / f"{index}.json")
            paths[-1].write_text(text)
        return join(read_sources(paths))

    return join_all


@pytest.fixture
def everything(found: Callable[..., Findings]) -> Findings:
    """Two files of one export on a board and on an emulated core, scored and compared."""
    shaky = make_case("int8.onnx", INT8, 2.0, rounds_ns=((10**6, 3 * 10**6),) * 10)
    ops = (OpTime("conv1", "Conv", 9e5), OpTime("gate", "HardSigmoid", 1e5))
    steady = make_case("float.onnx", FLOAT, 5.0, precision="float32", profile=ops, bytes=2**24)
    counted = [
        make_case("int8.onnx", INT8, None, millions=8),
        make_case("float.onnx", FLOAT, None, millions=20, bytes=2**24),
    ]
    layers = [
        LayerParity("features.0", "conv2d", 40.0, 0.1, 1.0),
        LayerParity("features.1", "conv2d", 5.0, 1, 0.9, diverges_in="arithmetic"),
    ]
    return found(
        make_manifest(),
        make_run(steady, shaky),
        make_run(*counted, device="emulated:cortex-a76"),
        make_scores(float_onnx=(FLOAT, 0.8), int8_onnx=(INT8, 0.82)),
        make_parity(*layers),
    )


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if (found := shutil.which(name))), None)


class Browser:
    """One tab. `events` are (method, params) of everything that it reported."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # The browser reads its commands at 3 and answers at 4; the shell puts them there.
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
        command = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", program, *flags, "--remote-debugging-pipe", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._id, self._rest, self._session = 0, b"", ""
        self.events: list[tuple[str, dict[str, Any]]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._id += 1
        message = {"id": self._id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._id:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self, seconds: float = 20) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], seconds)
            if not ready:
                raise TimeoutError("the browser does not answer")
            self._rest += os.read(self._read, 1 << 20) or b""
        data, _, self._rest = self._rest.partition(b"\0")
        answer = json.loads(data)
        if "method" in answer:
            self.events.append((answer["method"], answer["params"]))
        return answer

    def view(self, width_px: int, height_px: int, *, dark: bool = False, media: str = "screen") -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width_px,
            height=height_px,
            deviceScaleFactor=1,
            mobile=width_px < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def open(self, path: Path) -> None:
        before = len(self.events)
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + 20
        while not any(method == "Page.loadEventFired" for method, _ in self.events[before:]):
            assert time.monotonic() < deadline
            self._next()

    def js(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def hover(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path, *, full: bool = True) -> None:
        data = self.call("Page.captureScreenshot", captureBeyondViewport=full)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"])

    def complaints(self) -> list[str]:
        """Console errors, exceptions, and refusals of the page's policy."""
        found = [json.dumps(params) for method, params in self.events if method == "Runtime.exceptionThrown"]
        found += [json.dumps(p) for m, p in self.events if m == "Runtime.consoleAPICalled" and p["type"] == "error"]
        return found + [
            json.dumps(p) for m, p in self.events if m == "Log.entryAdded" and p["entry"]["level"] == "error"
        ]

    def requests(self) -> list[str]:
        return [params["request"]["url"] for method, params in self.events if method == "Network.requestWillBeSent"]

    def close(self) -> None:
        try:
            self._session = ""
            self.call("Browser.close")
            self._process.wait(10)
        except (AssertionError, OSError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = _chromium()
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    browser = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
