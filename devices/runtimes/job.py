"""What travels between host and board, and its limits: both sides read it here."""

from __future__ import annotations

__all__ = [
    "INSTRUCTION_CLASSES",
    "JOB_VERSION",
    "MAX_COUNTS_BYTES",
    "MAX_LINE_BYTES",
    "MAX_PROGRESS_BYTES",
]

# Of job.json and run.json.
JOB_VERSION = 2
# Of progress.jsonl, and of one event in it.
MAX_PROGRESS_BYTES, MAX_LINE_BYTES = 4 * 2**20, 2**16
# Of the counts of an emulated core.
MAX_COUNTS_BYTES = 64 * 2**20

# What a count of instructions is split into, in the order shown.
INSTRUCTION_CLASSES = (
    "total",
    "dp_imm",
    "branch_sys",
    "ldst_gpr",
    "ldst_simd",
    "dp_reg",
    "fmla",
    "dot",
    "mmla",
    "mlal_mull",
    "simd_fp_other",
    "sve",
    "sme",
    "other",
)
