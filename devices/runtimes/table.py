"""The runtimes as facts, for whoever needs no runtime to be there: help texts, setup, the probe of a bare board.

Add a runtime here: a row, and a subclass of Session in devices/runtimes/sessions.py.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CARRIED", "DEFAULTS", "RUNTIMES", "Runtime", "default_runtime", "readers", "runtime_called"]


@dataclass(frozen=True)
class Runtime:
    """`module` is what is imported, `distribution` what brings it, `extra` what our extra with it is called.

    `carried`: setup has wheels of it for boards. `aliases` are what others call it.
    """

    name: str
    format: str
    module: str
    distribution: str
    extra: str
    carried: bool = True
    aliases: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """The top-level package of `module`."""
        return self.module.partition(".")[0]


# The first of a format is its default.
RUNTIMES = {
    row.name: row
    for row in (
        Runtime("onnxruntime", "onnx", "onnxruntime", "onnxruntime", "onnxruntime"),
        Runtime("litert", "tflite", "ai_edge_litert.interpreter", "ai-edge-litert", "litert"),
        Runtime(
            "tflite_runtime",
            "tflite",
            "tflite_runtime.interpreter",
            "tflite-runtime",
            "tflite-runtime",
            aliases=("tflite-runtime",),
        ),
        # The interpreter that converters are tested with.
        Runtime(
            "tensorflow",
            "tflite",
            "tensorflow.lite.python.interpreter",
            "tensorflow",
            "tensorflow",
            carried=False,
            aliases=("tf.lite",),
        ),
    )
}
CARRIED = tuple(name for name, row in RUNTIMES.items() if row.carried)
DEFAULTS = tuple({row.format: row.name for row in reversed(RUNTIMES.values())}.values())


def readers(format: str) -> tuple[str, ...]:
    """The runtimes that read a format, the default one first."""
    return tuple(name for name, row in RUNTIMES.items() if row.format == format)


def default_runtime(format: str) -> str:
    """The runtime that a file of this format gets where none is named."""
    return readers(format)[0]


def runtime_called(name: str) -> str:
    """The name in RUNTIMES of what others call `name`; itself where there is none."""
    return next((row.name for row in RUNTIMES.values() if name in row.aliases), name)
