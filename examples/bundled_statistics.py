#!/usr/bin/env python
"""Calibrates the bundled models on the package's images, and stores what that showed in edgemobile/bundled.

    python examples/bundled_statistics.py

An int8 export of bundled weights then takes the ranges and factors from these files instead of running the graph on the
images again, and gets the same integers on every machine. Run this after a change of the weights, of the images
(examples/bundled_images.py) or of what quant/ makes of them.
"""

from __future__ import annotations

from pathlib import Path

from edgemobile.loading.checkpoint import bundled
from edgemobile.loading.stored_images import statistics_of
from edgemobile.pipeline.export import calibration_of
from edgemobile.pipeline.request import ExportRequest
from edgemobile.quant.calibration_file import write_statistics
from edgemobile.quant.ptq import quantize


def main() -> None:
    for name in bundled():
        path = statistics_of(name)
        path.unlink(missing_ok=True)
        request = ExportRequest(name, Path(name), precisions=("int8",))
        calibration = calibration_of(request)
        quantize(calibration, request.chosen_recipe)
        write_statistics(calibration, path)
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
