"""How a model of one's own is named wherever a model is asked for: `package.module:factory`, or FILE.pt2."""

from __future__ import annotations

__all__ = ["PROGRAM_SUFFIX", "is_factory", "is_own", "is_program"]

# What torch.export.save writes.
PROGRAM_SUFFIX = ".pt2"


def is_factory(spec: str) -> bool:
    return ":" in spec and not is_program(spec)


def is_program(spec: str) -> bool:
    return spec.endswith(PROGRAM_SUFFIX)


def is_own(spec: str) -> bool:
    return is_factory(spec) or is_program(spec)
