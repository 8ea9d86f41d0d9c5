"""Where a runtime spends an inference on an emulated core: its most expensive blocks of instructions.

    python benchmarks/hot_blocks.py v3-large/v3-large-int8.tflite --core cortex-a72

Each line is a block: estimated cycles of all its runs, their share and the sum so far, the cycles of one run, how
often it ran, and its most frequent instructions. In XNNPACK a block is mostly the inner loop or the end of one kernel,
and the instructions say which: `sdot` or `smull smlal sadalp` convolutions, `scvtf fmul fcvtns` the conversion of their
sums to int8, `saddw` depthwise convolutions, `tbl tbx` a table, such as a hard-swish. Memory is not included.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from emulated_worker import SESSION, count_inference

from edgemobile.devices.host.counting import Block
from edgemobile.devices.host.llvm_mca import disassemble, find_llvm, schedule
from edgemobile.devices.runtimes.table import default_runtime
from edgemobile.exporters.model_files import read_model_file

# The blocks with the most instructions are scheduled; the others have no effect on the first lines.
_SCHEDULED = 300
_SHOWN_INSTRUCTIONS = 7


def mix(block: Block) -> str:
    """ "smull:16 smlal:16 sadalp:16": the most frequent instructions of a block."""
    names = Counter(line.split()[0] for line in disassemble(block.words, find_llvm()))
    return " ".join(f"{name}:{number}" for name, number in names.most_common(_SHOWN_INSTRUCTIONS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a .tflite or .onnx file")
    parser.add_argument("--core", default="cortex-a72", help="an emulated core that is set up")
    parser.add_argument("--blocks", type=int, default=30, help="how many blocks to print")
    given = parser.parse_args()
    runtime = default_runtime(read_model_file(given.file).format)
    counted = count_inference(given.core, SESSION, [str(given.file.resolve()), runtime], runtime=runtime)
    runs = counted.execution.runs
    largest = sorted(runs, key=lambda block: len(block.words) * runs[block], reverse=True)[:_SCHEDULED]
    cycles = schedule(largest, given.core, find_llvm())
    total, so_far = counted.estimate.compute_cycles, 0.0
    print(f"{given.file.name} with {runtime} {counted.printed} on {given.core}: {total / 1e6:.2f} M cycles, estimated")
    print("M cycles  share    sum  cycles each     runs  instructions")
    for block in sorted(largest, key=lambda block: cycles[block] * runs[block], reverse=True)[: given.blocks]:
        cost = cycles[block] * runs[block]
        so_far += cost
        print(
            f"{cost / 1e6:8.2f} {cost / total:6.1%} {so_far / total:6.1%} {cycles[block]:12.1f} {runs[block]:8}  "
            f"{mix(block)}"
        )


if __name__ == "__main__":
    main()
