"""What `--on` stands for: names, addresses, patterns and tags."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemobile.devices.host.selection import select_devices
from edgemobile.errors import EdgemobileError

_FILE = """
[pi-2]
address = "ssh://pi@10.0.0.12"
tags = ["lab2", "pi4"]
[pi-10]
address = "ssh://pi@10.0.0.20"
tags = ["lab1"]
[jetson]
address = "ssh://jetson"
tags = ["lab2"]
[here]
address = "local"
"""


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEMOBILE_DEVICES", str(tmp_path / "devices.toml"))
    (tmp_path / "devices.toml").write_text(_FILE)
    return tmp_path / "devices.toml"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("pi-2", ["pi-2"]),
        ("local, jetson,", ["local", "jetson"]),
        ("pi-*", ["pi-2", "pi-10"]),
        ("pi-?", ["pi-2"]),
        ("[jp]*", ["pi-2", "pi-10", "jetson"]),
        # All rows, not this machine, which has none.
        ("*", ["pi-2", "pi-10", "jetson", "here"]),
        ("tag:lab2", ["pi-2", "jetson"]),
        ("tag:lab*", ["pi-2", "pi-10", "jetson"]),
        ("tag:lab2,pi-*", ["pi-2", "jetson", "pi-10"]),
        # An address may look like a pattern.
        ("ssh://pi@[fe80::1]:22", ["ssh://pi@[fe80::1]:22"]),
        ("emulated:cortex-a72", ["emulated:cortex-a72"]),
    ],
)
def test_what_is_selected(text: str, names: list[str]) -> None:
    assert select_devices(text) == tuple(names)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" , ", r"--on is empty. To list the devices"),
        ("pi-3", r"there is no device 'pi-3'. Known: local, pi-2, pi-10, jetson, here"),
        ("pi-2,rock-*", r"--on rock-\*: no board .* matches. Boards .*: pi-2 \(lab2, pi4\), pi-10 \(lab1\), jetson"),
        ("tag:lab3", r"--on tag:lab3: no board of devices.toml matches"),
    ],
)
def test_what_matches_nothing_is_refused_with_what_there_is(text: str, said: str) -> None:
    with pytest.raises(EdgemobileError, match=said):
        select_devices(text)
