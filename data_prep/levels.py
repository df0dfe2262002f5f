"""Gray levels of an image: which range of them it uses, and what looks wrong about them.

Nothing here changes an image unless ``--range`` asks for it. The thresholds are those of
docs/data.md, where it is said how often each warns on ordinary X-rays.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

# --range=percentile: this share of the pixels becomes black, and as many become white.
PERCENTILES = (0.5, 99.5)
# Kind of warning -> what the summary of a build calls it.
WARNING_KINDS = {
    "constant": "constant pictures",
    "nearly_constant": "nearly constant pictures",
    "small_range": "less than 1/8 of the range used",
    "inverted": "look inverted",
    "not_square": "pixels not square, resampled",
    "burned_in": "marked as having burned-in annotations",
    "dicom_tags": "DICOM tags that were missing or not applied",
}
NEARLY_CONSTANT_SHARE = 0.9
NEARLY_CONSTANT_RANGE = 1 / 64
SMALL_RANGE = 1 / 8
# A film is judged at this size, by a limit that was measured on shared X-rays.
INVERSION_SIDE = 32
INVERSION_LIMIT = 0.15


@dataclass(frozen=True)
class ImageWarning:
    """Something about an image that was read and may still be wrong.

    Attributes:
        kind: one of :data:`WARNING_KINDS`.
        message: a sentence without the file's name.
    """

    kind: str
    message: str


def stretch(pixels: np.ndarray, how: str, ignored: np.ndarray | None = None) -> np.ndarray:
    """Spreads the levels that an image uses over black to white.

    Args:
        pixels: (H, W) uint8 or uint16.
        how: "full" leaves the image as it is; "used" spreads its smallest to its largest value,
            "percentile" those of :data:`PERCENTILES`, what is beyond is clipped.
        ignored: (H, W) bool, pixels that do not count and become black; None: all count.

    Returns:
        (H, W); uint16 unless it is left as it is. A constant image is left as it is.
    """
    if how == "full":
        return pixels
    counted = pixels if ignored is None else pixels[~ignored]
    if not counted.size:
        return pixels
    if how == "used":
        low, high = float(counted.min()), float(counted.max())
    else:
        low, high = (float(np.percentile(counted, percent)) for percent in PERCENTILES)
    if high <= low:
        return pixels
    levels = np.arange(256 if pixels.dtype == np.uint8 else 65536)
    table = np.rint(np.clip((levels - low) / (high - low), 0, 1) * 65535).astype(np.uint16)
    stretched = table[pixels]
    if ignored is not None:
        stretched[ignored] = 0
    return stretched


def level_warnings(pixels: np.ndarray) -> list[ImageWarning]:
    """Returns at most one warning about the levels that an image uses.

    Args:
        pixels: (H, W) uint8 or uint16.
    """
    white = 255 if pixels.dtype == np.uint8 else 65535
    low, high = int(pixels.min()), int(pixels.max())
    if low == high:
        return [ImageWarning("constant", f"constant picture: every pixel is {low} of {white}")]
    used = (high - low) / white
    share, level = _commonest_level(pixels)
    if share >= NEARLY_CONSTANT_SHARE or used < NEARLY_CONSTANT_RANGE:
        return [
            ImageWarning(
                "nearly_constant",
                f"nearly constant picture: {share:.0%} of the pixels have level {level} of 255, "
                f"all lie between {low} and {high} of {white}",
            )
        ]
    if used < SMALL_RANGE:
        return [
            ImageWarning(
                "small_range",
                f"pixels from {low} to {high}, only 1/{white / (high - low):.0f} of the range "
                f"0 to {white}; --range=used spreads them",
            )
        ]
    return []


def _commonest_level(pixels: np.ndarray) -> tuple[float, int]:
    """Returns the share of the most frequent of 256 levels, and that level."""
    coarse = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    counts = Image.fromarray(coarse).histogram()
    level = int(np.argmax(counts))
    return counts[level] / pixels.size, level


def invert(pixels: np.ndarray) -> np.ndarray:
    """Returns the negative of (H, W) uint8 or uint16."""
    return np.iinfo(pixels.dtype).max - pixels


def inversion_warnings(pixels: np.ndarray) -> list[ImageWarning]:
    """Returns a warning where a film looks like a negative: bright around, dark within.

    What surrounds a body absorbs nothing and is dark, and most pixels of the picture are of the
    body, brighter than their mean. So the border's mean less the centre's, and the histogram's
    mean less its median (three times, as Pearson's skewness has it), are both negative as a rule.
    On the scale of the picture's own range their sum was above the limit for 0.6 % of adults' chest
    films, 0.1 % of children's and no knee that was upright, and for all 38 inverted knees.

    Args:
        pixels: (H, W) uint8 or uint16, of a whole film.
    """
    if min(pixels.shape) < INVERSION_SIDE:
        return []
    coarse = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    side = (INVERSION_SIDE, INVERSION_SIDE)
    small = np.asarray(Image.fromarray(coarse).resize(side, Image.Resampling.BOX), np.float64)
    low, high = np.percentile(small, (2, 98))
    if high - low < 1:
        return []
    unit = np.clip((small - low) / (high - low), 0, 1)
    strip, quarter = INVERSION_SIDE // 16, INVERSION_SIDE // 4
    border = np.ones(side, bool)
    border[strip:-strip, strip:-strip] = False
    around = unit[border].mean()
    within = unit[quarter:-quarter, quarter:-quarter].mean()
    score = around - within + 3 * (unit.mean() - np.median(unit))
    if score <= INVERSION_LIMIT or around <= within:
        return []
    return [
        ImageWarning(
            "inverted",
            f"looks inverted: the border is brighter ({around:.2f}) than the centre ({within:.2f} "
            "of the picture's range); bone is expected white, air black",
        )
    ]
