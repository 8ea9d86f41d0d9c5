"""`edgemobile eval --scheduler`: a real Dask scheduler and its workers, each a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("distributed")
pytest.importorskip("onnxruntime")

from loopback_boards import Shelf, WhenDone

from edgemobile.accuracy.evaluate import evaluate
from edgemobile.accuracy.evaluation import EvalRequest
from edgemobile.devices.fleet import cluster
from edgemobile.devices.host.transport import DeviceUnreachable
from edgemobile.errors import EdgemobileError


class _Dask:
    """A scheduler, and workers."""

    def __init__(self, processes: ExitStack, folder: Path) -> None:
        self._processes, self._folder = processes, folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        port = self.address.rpartition(":")[2]
        self._start("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")

    def worker(self, name: str, threads: int = 1) -> None:
        options = ["--name", name, "--nthreads", str(threads), "--no-nanny", "--no-dashboard"]
        self._start("worker", self.address, *options, "--local-directory", str(self._folder))

    def _start(self, what: str, *words: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        argv = [sys.executable, "-m", "dask", what, *words]
        log = self._processes.enter_context((self._folder / "dask.log").open("ab"))
        process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        self._processes.callback(process.wait)
        self._processes.callback(process.kill)
        self.running[words[2] if what == "worker" else what] = process


@pytest.fixture
def dask(tmp_path: Path, shelf: Shelf) -> Iterator[_Dask]:
    # After `shelf`: the workers read its devices.toml.
    with ExitStack() as processes:
        yield _Dask(processes, tmp_path)


def test_a_running_cluster(
    shelf: Shelf, dask: _Dask, photos: Path, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of its workers is killed in the middle; then the scheduler is, and another one goes on from the disk."""
    from distributed import Client

    shelf("pi-1", "pi-2", image_s=0.005)
    request = EvalRequest((str(colours),), photos, on="pi-*", scheduler=dask.address)
    dask.worker("pi-1")
    with Client(dask.address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
    with pytest.raises(EdgemobileError, match=r"has no worker for pi-2. .*: dask worker .* --name pi-2 --nthreads 1"):
        evaluate(request)
    dask.worker("pi-2")
    with Client(dask.address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    with monkeypatch.context() as later:
        later.setattr(cluster, "__version__", "9.9")
        with pytest.raises(
            EdgemobileError, match=r"need edgemobile 9.9; found: 0\..* pip install 'edgemobile\[fleet\]==9.9'"
        ):
            evaluate(request)
    here = evaluate(EvalRequest((str(colours),), photos))
    found = evaluate(request)
    assert found.files[0].rank.tolist() == here.files[0].rank.tolist()
    assert all(share.images and share.set_aside is None for share in found.files[0].boards)

    found = evaluate(request, WhenDone(32, dask.running["pi-1"].kill))
    assert found.files[0].rank.tolist() == here.files[0].rank.tolist()
    assert [share.set_aside for share in found.files[0].boards] == ["its Dask worker is gone", None]
    only = EvalRequest((str(colours),), photos, on="pi-2", scheduler=dask.address)
    began = time.monotonic()
    with pytest.raises(DeviceUnreachable, match=r"scheduler does not answer|no board is left"):
        evaluate(only, WhenDone(32, dask.running["scheduler"].kill))
    assert time.monotonic() - began < 60


def test_a_scheduler_that_is_not_there(
    shelf: Shelf, photos: Path, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_S", 1)
    shelf("pi-1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(DeviceUnreachable, match=r"no Dask scheduler answers at tcp://.* Start one: dask scheduler"):
        evaluate(EvalRequest((str(colours),), photos, on="pi-1", scheduler=address))
    with pytest.raises(EdgemobileError, match=r"tls://.* needs certificates, and Dask's settings name none"):
        evaluate(EvalRequest((str(colours),), photos, on="pi-1", scheduler=address.replace("tcp", "tls")))
    with pytest.raises(EdgemobileError, match="name them with --on"):
        EvalRequest((str(colours),), photos, scheduler=address)
