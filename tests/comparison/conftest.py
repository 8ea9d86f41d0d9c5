"""The net whose files are compared, made once for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edgemobile.devices.runtimes.sessions import Session, open_layers, open_session

if TYPE_CHECKING:
    from drifts import Net


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    """Tests write their own files beside the net's, each under a name of its own."""
    from drifts import make_net

    return make_net(tmp_path_factory.mktemp("parity"))


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of these tests are ours: a process for each would double their time. tests/devices/test_isolated.py and
    tests/commands run files as users do."""

    def opened(data: bytes, *, layers: bool = False, name: str = "the model", **options: Any) -> Session:
        return open_layers(data, **options) if layers else open_session(data, name=name, **options)

    monkeypatch.setattr("edgemobile.comparison.observing.open_isolated", opened)
