"""The Dask workers of boards: workers in this process, or those of a scheduler that is already running."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from edgemobile import __version__
from edgemobile.devices.fleet.board import installed_version
from edgemobile.devices.host.transport import DeviceUnreachable
from edgemobile.errors import EdgemobileError, in_a_line, require

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["dask_client", "worker_names"]

_CONNECT_S = 15
_CLOSE_S = 5
# No HTTP server. Images are sent with their task, which Dask would warn of as a large graph: images sent ahead of it
# would be lost if their worker died.
_SETTINGS = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.admin.large-graph-warning-threshold": "1TB",
}


@contextmanager
def dask_client(boards: Sequence[str], scheduler: str | None) -> Iterator[Client]:
    """A client of a scheduler with one worker per board, each with the name of its board.

    With `scheduler` None, a scheduler runs in this process until the context ends. Raises MissingExtra without Dask,
    DeviceUnreachable for a scheduler that does not answer, EdgemobileError for a board without a worker there.
    """
    require("distributed", "fleet")
    import dask

    with dask.config.set(_SETTINGS), _quiet():
        started = _local(boards) if scheduler is None else _connected(boards, scheduler)
        with started as client:
            yield client


def worker_names(client: Client) -> dict[str, int]:
    """The names of the workers, with their numbers of threads. Raises DeviceUnreachable if the scheduler is gone."""
    return {str(worker["name"]): int(worker["nthreads"]) for worker in _workers(client).values()}


def _workers(client: Client) -> Mapping[str, Any]:
    """Address of a worker -> the information that the scheduler has about it."""
    try:
        # client.scheduler_info() sometimes returns a periodically updated copy without the workers.
        assert client.scheduler is not None
        workers: Mapping[str, Any] = client.sync(client.scheduler.identity, callback_timeout=_CONNECT_S)["workers"]
    except OSError as error:
        raise DeviceUnreachable(f"the Dask scheduler does not answer any more: {error}") from error
    return workers


@contextmanager
def _local(boards: Sequence[str]) -> Iterator[Client]:
    from distributed import Client, Scheduler, SpecCluster, Worker

    class BoardWorker(Worker):
        """A worker that can be closed while its thread waits for a board that hangs."""

        async def close(self, *args: Any, **options: Any) -> Any:
            return await super().close(*args, **{**options, "executor_wait": False})

    # Every server of Dask opens an HTTP port, even without routes.
    http = {"dashboard_address": "127.0.0.1:0", "dashboard": False}
    with tempfile.TemporaryDirectory(prefix="edgemobile-dask-", ignore_cleanup_errors=True) as folder:
        options: dict[str, Any] = {**http, "nthreads": 1, "memory_limit": 0, "local_directory": folder}
        workers = {board: {"cls": BoardWorker, "options": {**options, "name": board}} for board in boards}
        cluster = SpecCluster(
            workers=workers,
            scheduler={"cls": Scheduler, "options": {**http, "protocol": "inproc://"}},
            silence_logs=logging.CRITICAL,
        )
        client = Client(cluster, set_as_default=False)
        try:
            yield client
        finally:
            client.close(timeout=_CLOSE_S)
            cluster.close(timeout=_CLOSE_S)


@contextmanager
def _connected(boards: Sequence[str], scheduler: str) -> Iterator[Client]:
    from distributed import Client, Security

    if scheduler.startswith("tls:") and Security().get_connection_args("client")["ssl_context"] is None:
        raise EdgemobileError(
            f"{scheduler} needs certificates, and Dask's settings name none (distributed.comm.tls.ca-file and "
            "distributed.comm.tls.client, or DASK_DISTRIBUTED__COMM__TLS__CA_FILE and so on)"
        )
    try:
        client = Client(scheduler, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise DeviceUnreachable(
            f"no Dask scheduler answers at {scheduler}: {error}. Start one: dask scheduler"
        ) from error
    try:
        threads = worker_names(client)
        if absent := [board for board in boards if board not in threads]:
            raise EdgemobileError(
                f"the scheduler at {scheduler} has no worker for {', '.join(absent)}. On a machine that reaches the "
                f"board: dask worker {scheduler} --name {absent[0]} --nthreads 1 --no-nanny"
            )
        if several := [board for board in boards if threads[board] != 1]:
            raise EdgemobileError(
                f"the worker {several[0]} at {scheduler} has {threads[several[0]]} threads; a board does one thing at "
                "a time. Start it with --nthreads 1"
            )
        _check_versions(client, scheduler, boards)
        yield client
    finally:
        # One that lost its scheduler may not end in time; it is not used any more.
        with suppress(TimeoutError):
            client.close(timeout=_CLOSE_S)


def _check_versions(client: Client, scheduler: str, boards: Sequence[str]) -> None:
    """Raises EdgemobileError if the scheduler, which reads tasks as well, or a worker has not this edgemobile."""
    addresses = [address for address, worker in _workers(client).items() if str(worker["name"]) in boards]
    try:
        found = {*client.run(installed_version, workers=addresses).values(), client.run_on_scheduler(installed_version)}
    except Exception as error:
        found = {in_a_line(error)}
    if other := found - {__version__}:
        raise EdgemobileError(
            f"the scheduler at {scheduler} and its workers need edgemobile {__version__}; found: {min(other)}. Where "
            f"each of them runs: pip install 'edgemobile[fleet]=={__version__}'"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's log: the callers report the errors that matter."""
    names = ("distributed", "distributed.client", "tornado", "tornado.application")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
