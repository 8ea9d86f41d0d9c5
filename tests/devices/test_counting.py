"""What the plugin tells of the blocks that ran, and which plugin a qemu takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemobile.devices.host.counting import Block, CacheMisses, parse_executions, plugin_path, plugin_words
from edgemobile.errors import EdgemobileError

_TOLD = b"""block 0 5500a0 d503201f 8b020020
block 7 5500b0 d65f03c0
mark 1
ran 0 10
ran 7 3
cache 1 50 40
cache 2 5 1
block 9 5500a0 d503201f 8b020020
mark 3
ran 0 1
ran 9 4
"""
_ADD, _RETURN = Block(0x5500A0, ("d503201f", "8b020020")), Block(0x5500B0, ("d65f03c0",))


def test_blocks_caches_and_marks() -> None:
    found = parse_executions(_TOLD)
    assert list(found) == [1, 3]
    assert found[1].runs == {_ADD: 10, _RETURN: 3}
    assert found[1].instructions == 23
    assert found[1].caches == (CacheMisses(50, 40), CacheMisses(5, 1))


def test_a_block_that_was_translated_twice_is_one() -> None:
    assert parse_executions(_TOLD)[3].runs == {_ADD: 5}


@pytest.mark.parametrize(
    "told",
    [
        b"ran 0 1\n",
        b"mark 1\nran 0 1\n",
        b"cache 1 0 0\n",
        b"block 0 5500a0\n",
        b"block 0 5500a0 evil\n",
        b"mark x\n",
        b"block 0 1 d503201f\nmark 1\nran 0 -1\n",
        b"nonsense 1\n",
    ],
)
def test_what_the_plugin_does_not_write_is_refused(told: bytes) -> None:
    with pytest.raises(EdgemobileError, match=r"line \d of the blocks that ran"):
        parse_executions(told)


def _qemu(folder: Path, version: str, words: str) -> Path:
    path = folder / f"qemu-{version}"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "qemu-aarch64 version {version}" || echo "{words}"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("version", "interface"), [("5.2.0", 1), ("8.2.2", 1), ("9.0.2", 2), ("9.1.0", 3), ("10.0.13", 3)]
)
def test_each_qemu_gets_the_plugin_of_its_interface(tmp_path: Path, version: str, interface: int) -> None:
    path = plugin_path(tmp_path, _qemu(tmp_path, version, "-plugin  QEMU_PLUGIN"))
    assert path is not None
    assert path.name.endswith(f"-{interface}.so")


def test_a_qemu_built_without_plugins_gets_none(tmp_path: Path) -> None:
    """Debian 13's qemu-user is linked statically, without them."""
    assert plugin_path(tmp_path, _qemu(tmp_path, "10.0.13", "-L path")) is None
    assert plugin_path(tmp_path, _qemu(tmp_path, "4.1.0", "-plugin")) is None


def test_a_comma_in_a_path_is_doubled() -> None:
    words = plugin_words(Path("/a,b.so"), Path("/c"), [(32768, 2), (1048576, 16)])
    assert words == ["-plugin", "/a,,b.so,out=/c,blocks=/c.blocks,l1=32768:2,l2=1048576:16"]
