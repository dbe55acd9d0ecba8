"""Save figures as small pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from optuna_hypergrad.visualization.charts import colors

PLAIN = (colors.BLUE, colors.ORANGE, colors.GREEN, colors.PINK, colors.RED, colors.SKY)
TINTS = (1.0, 0.8, 0.6, 0.4, 0.2)  # for anti-aliasing at the edges of lines
GREYS, SHADES = 128, 32


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Store a figure with the palette of the figures, which halves the file.

    A palette by frequency would merge orange and red.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi)
    pixels = np.asarray(Image.open(drawn).convert("RGB"), dtype=int)  # shape (rows, columns, 3)
    found, places = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    palette = _palette()
    nearest = [np.square(palette - color).sum(axis=1).argmin() for color in found]
    indices = np.array(nearest, dtype=np.uint8)[places].reshape(pixels.shape[:2])
    picture = Image.fromarray(indices)
    picture.putpalette(palette.ravel().tolist())
    picture.save(path, optimize=True)


def _palette() -> NDArray[np.int_]:
    """Shape (colours, 3): greys, and tints of each colour."""
    tinted = [(color, tint) for color in PLAIN for tint in TINTS]
    shades = [colors.sequential(i / (SHADES - 1)) for i in range(SHADES)]
    tinted += [(color, tint) for color in shades for tint in TINTS[::2]]
    mixed = [1 - tint * (1 - np.array(to_rgb(color))) for color, tint in tinted]
    greys = np.linspace(0, 1, GREYS)[:, None].repeat(3, axis=1)
    return np.rint(255 * np.concatenate([greys, mixed])).astype(int)
