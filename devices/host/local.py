"""This machine as a board: programs run here, in a private folder of the user's cache."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgemobile.devices.host.folders import cache_folder, inside
from edgemobile.devices.host.processes import bounded_run
from edgemobile.devices.host.transport import Completed, disk_full
from edgemobile.devices.runtimes.limits import OWNER_VARIABLE, identity
from edgemobile.errors import EdgemobileError
from edgemobile.util.writing import replace_synced

__all__ = ["LocalTransport"]


class LocalTransport:
    """Works in `root`: ~/.cache/edgemobile/local by default."""

    emulated = False

    def __init__(self, root: str | Path | None = None) -> None:
        folder = cache_folder("local") if root is None else Path(root).absolute()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root = str(folder)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a program in `root`; one that does not exist ends with code 127.

        Raises DeviceUnreachable if it does not end in time, EdgemobileError if its output is more than 16 MiB.
        """
        command, environment = self._command(argv, env or {})
        return bounded_run(
            command,
            stdin=stdin,
            timeout_s=timeout_s,
            cwd=self.root,
            env=environment,
            inherit=False,
            named=argv[0],
        )

    def start(self, argv: Sequence[str], *, log: str, env: Mapping[str, str] | None = None) -> None:
        """Start a program in its own session, so that neither our exit nor Ctrl-C stops it. Its environment says which
        process this is.

        Raises EdgemobileError if it does not exist.
        """
        target = self._made(log)
        owner = identity(os.getpid()) or ""
        command, environment = self._command(argv, {**(env or {}), OWNER_VARIABLE: owner})
        with target.open("ab") as output:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self.root,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise EdgemobileError(f"cannot start {argv[0]}: {error.strerror}") from error
        # Wait for it, or it stays a zombie that looks alive to `kill -0`.
        threading.Thread(target=process.wait, daemon=True).start()

    def put(self, source: Path | bytes, target: str, *, durable: bool = True) -> None:
        """Write through a temporary file beside `target`, then rename it: whole or not at all."""
        path = self._made(target)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                if isinstance(source, bytes):
                    file.write(source)
                else:
                    with source.open("rb") as given:
                        shutil.copyfileobj(given, file)
            if durable:
                replace_synced(Path(partial), path)
            else:
                os.replace(partial, path)
        except OSError as error:
            Path(partial).unlink(missing_ok=True)
            full = error.errno == errno.ENOSPC
            reason = disk_full(self.root, movable=False) if full else error.strerror or error
            raise EdgemobileError(f"cannot write {path}: {reason}") from error
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise

    def read(self, path: str, *, offset: int = 0, max_bytes: int) -> bytes | None:
        file = Path(self.root, inside(path))
        try:
            if not file.is_file():
                return None
            with file.open("rb") as opened:
                opened.seek(offset)
                return opened.read(max_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EdgemobileError(f"cannot read {file}: {error.strerror or error}") from error

    def close(self) -> None:
        """Does nothing: there is no connection, and started programs continue."""

    def _command(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """The real command, and its complete environment."""
        return list(argv), {**os.environ, **env}

    def _made(self, target: str) -> Path:
        path = Path(self.root, inside(target))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
