"""What every command shows while it works."""

from __future__ import annotations

import logging

import pytest

from edgemobile.terminal import progress


def test_the_log_is_printed_while_a_command_works(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("edgemobile.devices.desk")
    with progress():
        log.warning("pi5: the connection is lost [at %d%%]", 40)
        log.info("a detail")
    log.warning("nobody listens")
    with progress(quiet=True):
        log.warning("not wanted")
    assert capsys.readouterr().err == "pi5: the connection is lost [at 40%]\n"
