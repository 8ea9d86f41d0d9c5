"""Run a program on this machine with limits on its time and its output."""

from __future__ import annotations

import os
import platform
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edgemobile.devices.host.transport import Completed, DeviceUnreachable
from edgemobile.errors import EdgemobileError, Unsupported

__all__ = ["MAX_OUTPUT_BYTES", "NOT_FOUND", "MissingTool", "bounded_run", "exit_reason", "require_posix", "required"]

MAX_OUTPUT_BYTES = 16 * 2**20
_CHUNK = 1 << 16
NOT_FOUND = 127


def bounded_run(
    argv: Sequence[str],
    *,
    stdin: bytes | Path = b"",
    timeout_s: float = 60,
    max_bytes: int = MAX_OUTPUT_BYTES,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    inherit: bool = True,
    named: str = "",
) -> Completed:
    """Run `argv` to its end; a missing program ends with 127. `env` is added to the environment of this process, or
    with `inherit` off is the complete environment.

    Raises DeviceUnreachable after `timeout_s`, and EdgemobileError for more than `max_bytes` of output. In both cases
    the program and its children are killed. `named` replaces `argv` in errors.
    """
    named = named or f"{Path(argv[0]).name}"
    with _as_file(stdin) as source:
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env={**(os.environ if inherit else {}), **(env or {})},
                start_new_session=True,
            )
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            return Completed(NOT_FOUND, b"", f"{argv[0]}: {error.strerror}".encode())
        with process:
            try:
                stdout, stderr = _collect(process, time.monotonic() + timeout_s, max_bytes, named, timeout_s)
            except BaseException:
                _kill(process)
                raise
            return Completed(process.returncode, stdout, stderr)


def exit_reason(done: Completed, words: int = 300) -> str:
    """The last line on standard error of a failed program, printable, else its exit code."""
    lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    text = "".join(char if char.isprintable() else "?" for char in (lines[-1] if lines else ""))
    return text[:words] or f"exit code {done.returncode}"


def _collect(
    process: subprocess.Popen[bytes], deadline: float, max_bytes: int, named: str, timeout_s: float
) -> tuple[bytes, bytes]:
    late = DeviceUnreachable(f"{named} did not end within {timeout_s:g} s")
    assert process.stdout is not None
    assert process.stderr is not None
    parts: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as waiting:
        for pipe in parts:
            waiting.register(pipe, selectors.EVENT_READ)
        while waiting.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise late
            for key, _ in waiting.select(left):
                chunk = os.read(key.fd, _CHUNK)
                parts[key.fd] += chunk
                if not chunk:
                    waiting.unregister(key.fd)
                if len(parts[key.fd]) > max_bytes:
                    raise EdgemobileError(f"{named} printed more than the limit of {max_bytes} bytes")
    try:
        process.wait(max(deadline - time.monotonic(), 0.01))
    except subprocess.TimeoutExpired:
        raise late from None
    stdout, stderr = parts.values()
    return bytes(stdout), bytes(stderr)


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


@contextmanager
def _as_file(stdin: bytes | Path) -> Iterator[IO[bytes] | int]:
    if not stdin:
        yield subprocess.DEVNULL
    elif isinstance(stdin, Path):
        with stdin.open("rb") as file:
            yield file
    else:
        with tempfile.TemporaryFile() as spooled:
            spooled.write(stdin)
            spooled.seek(0)
            yield spooled


def require_posix() -> None:
    """Raises Unsupported on a system without POSIX processes and file locks, which devices need."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise Unsupported(
            f"devices, `local` among them, are reached from Linux and macOS; this is {platform.system()}. Run the "
            "command there or in WSL. Everything else runs here: export, quantize, parity, eval, predict, inspect, ci"
        ) from None


class MissingTool(EdgemobileError):
    """A required program is not installed on this machine."""

    exit_code = 3


def required(program: str, remedy: str) -> str:
    """The path of `program`. Raises MissingTool with the command that installs it."""
    found = shutil.which(program)
    if found is None:
        raise MissingTool(f"{program} is required and not installed. Run: {remedy}")
    return found
