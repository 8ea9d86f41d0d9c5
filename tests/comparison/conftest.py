"""The net whose files are compared, made once for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from in_process import open_here

if TYPE_CHECKING:
    from drifts import Net


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    """Tests write their own files into the net's folder, each with a unique name."""
    from drifts import make_net

    return make_net(tmp_path_factory.mktemp("parity"))


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/devices/test_isolated.py and tests/commands run files as users do."""
    monkeypatch.setattr("edgemobile.comparison.observing.open_isolated", open_here)
