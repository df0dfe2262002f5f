"""T's output as something to look at."""

import numpy as np


def to_picture(colorized: np.ndarray) -> np.ndarray:
    """Maps T's output, which has no fixed range, to displayable colours.

    Each image is scaled by its own 1st and 99th percentile over all three channels together, so
    that hue and contrast are the network's and only brightness is chosen for the eye (Figure 4).

    Args:
        colorized: (B, H, W, 3) float.

    Returns:
        (B, H, W, 3) uint8.
    """
    colorized = np.asarray(colorized, np.float32)
    low, high = np.percentile(colorized, [1, 99], axis=(1, 2, 3), keepdims=True)
    scaled = (colorized - low) / np.maximum(high - low, 1e-6)
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def gray_picture(images: np.ndarray) -> np.ndarray:
    """Maps raw images to gray pictures of three equal channels; of several channels the first.

    The largest value of the dtype is white.

    Args:
        images: (B, H, W, C) uint8 or uint16.

    Returns:
        (B, H, W, 3) uint8.
    """
    images = np.asarray(images)
    white = np.iinfo(images.dtype).max
    gray = np.round(images[..., :1].astype(np.float32) * (255 / white)).astype(np.uint8)
    return np.repeat(gray, 3, axis=-1)


def side_by_side(images: np.ndarray, colorized: np.ndarray) -> np.ndarray:
    """Puts raw images (B, H, W, C) left of T's output (B, H, W, 3): (B, H, 2W, 3) uint8."""
    return np.concatenate([gray_picture(images), to_picture(colorized)], axis=2)
