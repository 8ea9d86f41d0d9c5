"""Fixtures any test may use.

EDGEMOBILE_DATA names a folder with data sets and weights; tests that need it skip where it is absent.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One thread a process: tiny models gain nothing from more, and several test runs share a machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout."""
    return _ROOT


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of goldens: numbers other libraries gave, each with how it was made."""
    return _ROOT / "tests" / "goldens"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and weights; skips where it is absent."""
    folder = Path(os.environ.get("EDGEMOBILE_DATA", _ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set EDGEMOBILE_DATA")
    return folder
