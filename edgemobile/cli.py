"""The command line: the group of commands, and how errors and interruptions end it.

To add a command: a file in commands/ and a row in _COMMANDS.

Exit codes: 0 done, 1 a file missed its tolerance, 2 bad input, 3 a dependency is missing, 4 the device does not
answer, 5 the measurement cannot be trusted, 70 a bug in edgemobile, 130 interrupted, 141 output pipe closed, 143
terminated.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from edgemobile import __version__
from edgemobile.commands.adapt import adapt
from edgemobile.commands.bench import bench
from edgemobile.commands.ci import ci
from edgemobile.commands.compare import compare
from edgemobile.commands.completion import completion
from edgemobile.commands.defaults import config_option, name_variables, refuse_bad_config
from edgemobile.commands.devices import devices
from edgemobile.commands.doctor import doctor
from edgemobile.commands.eval import evaluate
from edgemobile.commands.export import export
from edgemobile.commands.finetune import finetune
from edgemobile.commands.inspect import inspect
from edgemobile.commands.models import models
from edgemobile.commands.parity import parity
from edgemobile.commands.predict import predict
from edgemobile.commands.quantize import quantize
from edgemobile.commands.report import report
from edgemobile.commands.results import results
from edgemobile.commands.sample_data import sample_data
from edgemobile.commands.search import search
from edgemobile.commands.snippet import snippet
from edgemobile.commands.sweep import sweep
from edgemobile.commands.verify import verify
from edgemobile.errors import EdgemobileError
from edgemobile.printing.terminal import print_error

__all__ = ["cli", "main"]


# EX_SOFTWARE of sysexits.h.
_BUG = 70
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def main() -> None:
    """Entry point: every error a user can fix is one line, never a traceback."""
    # OpenMP threads that spin while they wait are ten times slower on shared cores. torch reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with _cleaning_up_when_terminated():
            code = cli.main(prog_name="edgemobile", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        print_error(_usage(error))
        code = error.exit_code
    except EdgemobileError as error:
        print_error(f"{error}{_kept(error.details)}")
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        # click raises Abort from the interruption, which carries the files written before it.
        written = ", ".join(map(str, (error.__cause__ or error).args))
        click.echo(f"interrupted; {f'written before: {written}' if written else 'no partial file is left'}", err=True)
        code = 143 if _was_terminated(error) else 130
    except (BrokenPipeError, SystemExit):
        # The reader of the output closed the pipe (`| head`); click turns that into a SystemExit. The result may not
        # have been seen, so the code is neither 0 nor 1 but 128 + SIGPIPE. The rest is closed silently.
        sys.stderr.close()
        code = 141
    except Exception as error:
        code = _unexpected(error)
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: click.ClickException) -> str:
    """An error of click, in the form of edgemobile's errors."""
    words = error.format_message().removesuffix(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return words
    return f"{words}{'' if words.endswith((')', '?')) else '.'} See `{context.command_path} --help`"


def _unexpected(error: Exception) -> int:
    """The exit code of an unexpected error: not 1, which means that a file missed a bound."""
    # An output error has no file name: the disk behind `>` is full, or fails.
    if isinstance(error, OSError) and error.filename is None and error.errno in _DISK_ERRORS:
        print_error(f"cannot write the output: {error.strerror}")
        # The rest of the output must not fail again when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EdgemobileError.exit_code
    traceback.print_exception(error)
    print_error("this is a bug in edgemobile: please report it with the lines above")
    return _BUG


def _kept(details: str) -> str:
    """Names the file with the rest of an error: a long message of another library."""
    if not details:
        return ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="edgemobile-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(details)
    except OSError:
        return ""
    return f". The full message: {file.name}"


class _Terminated(KeyboardInterrupt):
    """Handle SIGTERM like Ctrl-C: remove partial files and stop started processes."""


@contextmanager
def _cleaning_up_when_terminated() -> Iterator[None]:
    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _was_terminated(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, _Terminated) or _was_terminated(error.__cause__))


class _InOrder(click.Group):
    """Lists its commands in the order they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, "-V", "--version", prog_name="edgemobile")
@config_option
@click.pass_context
def cli(context: click.Context, config: Path | None) -> None:
    """Export MobileNets from PyTorch to small, fast ONNX and TFLite files, float and int8, and verify them.

    Every option has an environment variable, EDGEMOBILE_COMMAND_OPTION (EDGEMOBILE_BENCH_THREADS=1,4), and a place in
    edgemobile.toml, [defaults.COMMAND]. The command line comes first, then the environment, then the file.
    """
    if context.invoked_subcommand != ci.name:
        refuse_bad_config(context)


# In the order a newcomer meets them; the words are what `edgemobile --help` shows.
_COMMANDS = (
    (export, "PyTorch to ONNX and TFLite, every file run and compared"),
    (quantize, "int8 only, with every parameter, and the cost of each tensor"),
    (finetune, "train on your own images, in float and for int8"),
    (adapt, "a smaller net for a budget on a device"),
    (search, "nets from cheap to accurate for a device, as a Pareto front"),
    (models, "the reference models, their layers, and what each idea saves"),
    (sample_data, "labelled images to try the other commands on"),
    (predict, "labels and probabilities of images"),
    (snippet, "code that runs a file: Python, C++, Kotlin, a C array"),
    (evaluate, "accuracy on images, against a baseline"),
    (parity, "compare a file with its model, layer by layer"),
    (inspect, "what a file contains, and how two differ"),
    (bench, "latency here or on a board, or instructions on an emulated core"),
    (compare, "compare two saved runs: ratio and interval"),
    (results, "results over time, and where a figure changed"),
    (report, "runs as one page, tables, model cards"),
    (verify, "check that the files of an export are unchanged"),
    (sweep, "every combination of a grid, and its Pareto front"),
    (ci, "check every model of edgemobile.toml"),
    (devices, "the boards to measure on"),
    (doctor, "what is missing, with the command that fixes it"),
    (completion, "shell completion"),
)
for _command, _words in _COMMANDS:
    _command.short_help = _words
    cli.add_command(_command)
name_variables(cli, "EDGEMOBILE")
