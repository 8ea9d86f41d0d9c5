"""Kills `edgemobile sweep` by SIGKILL again and again, and compares its final table with that of a sweep left alone.

    python benchmarks/sweep_kills.py [--kills 10]

A kill comes as soon as the cache has one more result than at the last kill, after a random part of a second. Exits 1 if
the tables differ. No device is measured: the two sweeps measure apart, and even counts of instructions vary by 0.1 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_CONFIG = """[gate]
images = 4
[sweep]
models = ["v3-small", "v2"]
widths = [0.35, 0.5]
resolutions = [32]
weights = "random"
classes = 10
formats = ["onnx"]
recipes = ["default", "minmax"]
accuracy = {{ data = "{data}", limit = 20 }}
"""
_SWEEP = (sys.executable, "-m", "edgemobile", "sweep", "--json")


def main() -> int:
    """Run both sweeps in a new folder. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subprocess.run((sys.executable, "-m", "edgemobile", "sample-data"), cwd=root, check=True, capture_output=True)
        text = _CONFIG.format(data=root / "samples")
        for name in ("alone", "killed"):
            (root / name).mkdir()
            (root / name / "edgemobile.toml").write_text(text)
        killed = kill_often(root / "killed", asked.kills, random.Random(asked.seed))
        table, alone = finish(root / "killed"), finish(root / "alone")
    same = table == alone
    print(f"killed {len(killed)} times with {', '.join(map(str, killed))} results stored")
    print(f"{len(table['rows'])} rows; the table is {'the same' if same else 'ANOTHER'} as without kills")
    return 0 if same and len(killed) == asked.kills else 1


def kill_often(folder: Path, kills: int, rng: random.Random, within_s: float = 1.0) -> list[int]:
    """Start the sweep in `folder` and kill it, `kills` times; how many results were stored at each kill.

    A kill comes up to `within_s` seconds after a result. The list is shorter if the sweep was complete before.
    """
    counts: list[int] = []
    while len(counts) < kills:
        with subprocess.Popen(_SWEEP, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            before = stored(folder)
            while process.poll() is None and stored(folder) == before:
                time.sleep(0.02)
            time.sleep(within_s * rng.random())
            if process.poll() is not None:
                break
            os.killpg(process.pid, signal.SIGKILL)
        counts.append(stored(folder))
    return counts


def stored(folder: Path) -> int:
    """How many results the cache of `folder` has."""
    return len(list((folder / ".edgemobile" / "results").glob("*.json")))


def finish(folder: Path) -> Any:
    """The final table of the sweep in `folder`, as its JSON without the paths of the files."""
    done = subprocess.run(_SWEEP, cwd=folder, capture_output=True, text=True, check=False)
    table = json.loads(done.stdout)
    for row in table["rows"]:
        row["file"] = row["file"] and Path(row["file"]).name
    return table


if __name__ == "__main__":
    sys.exit(main())
