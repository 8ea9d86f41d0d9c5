"""Facts about the runtimes, usable without any runtime installed: help texts, setup, the probe of a new board.

To add a runtime: a row here, and a subclass of Session in devices/runtimes/sessions.py.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CARRIED", "DEFAULTS", "RUNTIMES", "Runtime", "default_runtime", "readers", "runtime_called"]


@dataclass(frozen=True)
class Runtime:
    """`module` is imported, `distribution` installs it, `extra` is the name of our extra with it.

    `carried`: setup has wheels of it for boards. `aliases` are other names for it.
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


# The first runtime of a format is its default.
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
    """The default runtime for files of this format."""
    return readers(format)[0]


def runtime_called(name: str) -> str:
    """The name in RUNTIMES for an alias; `name` itself if it is not one."""
    return next((row.name for row in RUNTIMES.values() if name in row.aliases), name)
