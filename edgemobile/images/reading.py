"""One image file, decoded."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from edgemobile.errors import BrokenImage
from edgemobile.pixels import upright_rgb

__all__ = ["read_image"]


def read_image(path: Path, *, as_stored: bool = False) -> Image.Image:
    """The image, `upright_rgb`; `as_stored` leaves it in its own mode, for masks whose pixels are numbers of classes.

    Raises BrokenImage with the reason.
    """
    try:
        # Pillow warns about odd metadata on standard error, in the middle of a progress bar.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            return image.copy() if as_stored else upright_rgb(image)
    except BrokenImage:
        raise
    # Decoders raise many kinds of exceptions on broken bytes.
    except Exception as error:
        raise BrokenImage(getattr(error, "strerror", None) or "it is not an image, or is damaged") from error
