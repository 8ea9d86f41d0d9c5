"""The net whose files are compared, made once for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from drifts import Net


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    """Tests write their own files beside the net's, each under a name of its own."""
    from drifts import make_net

    return make_net(tmp_path_factory.mktemp("parity"))
