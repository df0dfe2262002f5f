"""Rotation and zoom of a batch in PyTorch, with the project's probabilities and one resampling."""

# PyTorch is an optional dependency (the extra "bench"), absent where types are checked.
# pyright: reportMissingImports=false

import math

import torch
from torch.nn import functional

from benchmarks.work import DEGREES, MAX_ZOOM, PROBABILITY


def augment(images):
    """(B,C,S,S) to the same, each image rotated and zoomed with the project's probabilities."""
    rotate, angle, zoom, scale, focus_x, focus_y = torch.rand(
        6, len(images), device=images.device
    ).unbind()
    limit = math.radians(DEGREES)
    angle = torch.where(rotate < PROBABILITY, (2 * angle - 1) * limit, 0.0)
    scale = torch.where(zoom < PROBABILITY, 1 + scale * (MAX_ZOOM - 1), 1.0)
    return resample(images, rotation_zoom(angle, scale, focus_x, focus_y, images.shape[-1]))


def rotation_zoom(angle, scale, focus_x, focus_y, size: int):
    """(B,) radians, magnifications and focal points (0 to 1) to (B,2,3) affine matrices."""
    cos, sin, shrink = angle.cos(), angle.sin(), 1 / scale
    edge = (1 - shrink) * (1 - 1 / size)  # the outermost pixels' centres are at ±(1 - 1 / size)
    x, y = edge * (2 * focus_x - 1), edge * (2 * focus_y - 1)
    rows = (cos * shrink, -sin * shrink, cos * x - sin * y)
    rows += (sin * shrink, cos * shrink, sin * x + cos * y)
    return torch.stack(rows, 1).view(-1, 2, 3)


def resample(images, matrices):
    """Bilinear, with the border reflected about the outer pixels' edges."""
    grid = functional.affine_grid(matrices, images.shape, align_corners=False)
    return functional.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
