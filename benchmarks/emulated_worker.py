"""Counts and estimates one inference of Python code on an emulated core: of a file, or of a runtime of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemobile.devices.host.counting import BLOCKS_SUFFIX, Execution, parse_executions
from edgemobile.devices.host.emulated import COUNTS_VARIABLE
from edgemobile.devices.host.estimating import Estimate, estimate_executions
from edgemobile.devices.host.llvm_mca import find_llvm
from edgemobile.devices.host.profiles import open_device
from edgemobile.devices.host.setup import ready
from edgemobile.devices.runtimes.job import MAX_COUNTS_BYTES
from edgemobile.errors import EdgemobileError

__all__ = ["NCNN", "SESSION", "Counted", "count_inference"]

# A worker for a file and a runtime of edgemobile: it prints the version of the runtime.
SESSION = """
import sys
import numpy as np
from edgemobile.devices.runtimes.sessions import open_session
session = open_session(sys.argv[1], runtime=sys.argv[2], threads=1)
print(session.version)
prepared = session.input.example(np.random.default_rng(0))
def infer():
    return session.invoke(prepared)
"""
# A worker for ncnn: the .param file, the input's side in pixels, and the .bin file; without that, all weights are zero.
NCNN = """
import sys
import ncnn
net = ncnn.Net()
net.opt.num_threads = 1
weights = sys.argv[3] if sys.argv[3:] else ncnn.DataReaderFromEmpty()
if net.load_param(sys.argv[1]) or net.load_model(weights): sys.exit("ncnn cannot load it")
image = ncnn.Mat(int(sys.argv[2]), int(sys.argv[2]), 3)
image.fill(0.01)
def infer():
    extractor = net.create_extractor()
    extractor.input(net.input_names()[0], image)
    return extractor.extract(net.output_names()[0])
"""

# After the code of a worker, which defines infer(): two inferences before the one that is counted.
_COUNTED = """
import os
from contextlib import suppress
def mark(which, value):
    with suppress(OSError): os.getpriority(which, value)
for _ in range(2):
    mark(0x7e58, 0); infer()
mark(0x7e57, 0); infer(); mark(0x7e57, 1)
"""


@dataclass(frozen=True)
class Counted:
    """The blocks that one inference ran, their estimate, and what the worker printed."""

    execution: Execution
    estimate: Estimate
    printed: str


def count_inference(
    cpu: str, worker: str, arguments: Sequence[str], site: Path | None = None, runtime: str = "litert"
) -> Counted:
    """One inference on one thread of an emulated core that is set up with `runtime`.

    `worker` is Python code that reads `arguments` from sys.argv[1:] and defines infer(). It can import numpy, `runtime`
    and the packages for aarch64 in `site`. Raises EdgemobileError with the end of the worker's messages if it fails.
    """
    device, transport = open_device(f"emulated:{cpu}")
    prepared = ready(device, transport, runtime)
    path = ":".join([prepared.env["PYTHONPATH"], *([] if site is None else [str(site)])])
    # A folder of its own, because two counts may run at the same time.
    with tempfile.TemporaryDirectory(dir=transport.root, prefix="worker-") as folder:
        name = Path(folder).name
        transport.put((worker + _COUNTED).encode(), f"{name}/worker.py")
        env = {**prepared.env, "PYTHONPATH": path, COUNTS_VARIABLE: f"{name}/counts", "OMP_NUM_THREADS": "1"}
        done = transport.run([*prepared.python, f"{folder}/worker.py", *arguments], env=env, timeout_s=1800)
        if done.returncode:
            raise EdgemobileError(f"{' '.join(arguments)} on {cpu}: {done.stderr.decode()[-300:]}")
        told = transport.read(f"{name}/counts{BLOCKS_SUFFIX}", max_bytes=MAX_COUNTS_BYTES) or b""
    execution = parse_executions(told)[1]
    estimate = estimate_executions([execution], cpu, find_llvm())[0]
    return Counted(execution, estimate, done.stdout.decode().strip())
