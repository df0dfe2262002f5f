"""Pictures: T's output in colours, and heat maps, the places of an image that spoke for a finding.

Grad-CAM (Selvaraju et al., ICCV 2017) is taken from E's last feature map A. Its channel weights are
the mean over places of dlogit/dA; with a head of global average pooling and one Dense layer (kernel
W) that is W / (h·w) everywhere, so the map needs no gradient and no particular Keras backend (the
paper shows that Grad-CAM is CAM for such a head). Finer maps are made by
:mod:`medcolor_tf.evaluation.heat_maps`.

How heat is coloured is ours. A map says where, not how much: drawn with each panel's own maximum
as full heat, a finding of 1 % glows like one of 99 %. One scale of logits for all panels is no
way out, because ReLU drops what speaks against a finding. So a panel's map is scaled to make its
hottest place as hot as the observation is probable: panels, and pictures, can be compared, nothing
unlikely glows, and no constant has to be chosen.
"""

import functools
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medcolor_tf.catalog import GRAD_CAM, HEAT_MAPS

SHORT_SIDE = 320  # of a panel, at least: captions of small images have to be legible
COLUMNS = 7  # panels per row: the gray image, the colorized one and the paper's five observations
FONT_SIZE, LINE, GAP = 16, 22, 8
BAR = (256, 14)  # of the legend, (width, height)
# The colour tells the heat and the anatomy shows through it everywhere; little heat fades out, so
# that a pixel without any is the image's own.
OPACITY, FADE = 0.5, 0.3
# Inferno's dark end would darken the lungs as air does; heat starts where it has a colour.
FIRST_COLOR = 0.25
LEGEND = (
    "Heat ({}): places that raised the model's output for the finding. In each panel the "
    "hottest place has the colour of the finding's probability:"
)
FOOTNOTE = "Map of {} x {} cells, interpolated. No segmentation, not for diagnosis."


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


def colorized_strip(images: np.ndarray, colorized: np.ndarray) -> np.ndarray:
    """Puts raw images (B, H, W, C) in a row over T's output (B, H, W, 3): (2H, BW, 3) uint8."""
    rows = gray_picture(images), to_picture(colorized)
    return np.concatenate([np.hstack(list(row)) for row in rows])


def grad_cam(features: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns Grad-CAM's maps of a classifier whose head is average pooling and one Dense layer.

    A value is what that cell of the feature map adds to the logit. Without the ReLU a map's sum
    is the logit less the head's bias.

    Args:
        features: (B, h, w, c) float, what the head pools.
        kernel: (c, K) float, the head's weights of K observations.

    Returns:
        (B, h, w, K) float32, 0 or more.
    """
    features = np.asarray(features, np.float32)
    weights = np.asarray(kernel, np.float32) / (features.shape[1] * features.shape[2])
    return np.maximum(features @ weights, 0)


def to_heat(maps: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Scales each map so that its maximum is the observation's probability; zeros stay zeros.

    Args:
        maps: (B, h, w, K) float, 0 or more.
        probabilities: (B, K) float in [0, 1].

    Returns:
        (B, h, w, K) float32 in [0, 1].
    """
    peak = maps.max((1, 2), keepdims=True)
    share = np.divide(maps, peak, out=np.zeros_like(maps), where=peak > 0)
    return share * np.asarray(probabilities, np.float32)[:, None, None]


def blend(gray: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lays heat over a picture; a pixel without heat stays as it is.

    Args:
        gray: (H, W, 3) uint8.
        heat: (h, w) float32 in [0, 1] of the same field of view; enlarged bilinearly.

    Returns:
        (H, W, 3) uint8.
    """
    size = (gray.shape[1], gray.shape[0])
    heat = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR))
    colors = _colors()[np.round(np.clip(heat, 0, 1) * 255).astype(np.uint8)]
    share = OPACITY * np.clip(heat / FADE, 0, 1)[..., None]
    return np.round(gray * (1 - share) + colors * share).astype(np.uint8)


def draw_explanation(
    image: np.ndarray,
    colorized: np.ndarray | None,
    heat: np.ndarray,
    probabilities: Sequence[float],
    observations: Sequence[str],
    kind: str = GRAD_CAM,
    calibrated: Sequence[float] | None = None,
) -> np.ndarray:
    """Draws an image, its colorized version and a panel per observation, with captions and legend.

    Args:
        image: (H, W, C) uint8 or uint16; of several channels the first is shown.
        colorized: (H, W, 3) float, T's output; None when there is no T.
        heat: (h, w, K) float32 in [0, 1], of :func:`to_heat`.
        probabilities: K numbers in [0, 1].
        observations: K names.
        kind: of the heat, a name of :data:`medcolor_tf.catalog.HEAT_MAPS`, for the legend.
        calibrated: K probabilities of the run's decision, which captions say beside the others.

    Returns:
        (height, width, 3) uint8.
    """
    panels = draw_panels(image, colorized, heat, probabilities, observations, calibrated)
    rows = [panels[i : i + COLUMNS] for i in range(0, len(panels), COLUMNS)]
    parts = [_row(row) for row in rows]
    parts.append(_legend(parts[0].shape[1], heat.shape[:2], HEAT_MAPS[kind]))
    width = parts[0].shape[1]
    return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0))) for p in parts])


def with_banner(picture: np.ndarray, text: str) -> np.ndarray:
    """Puts a text in black on yellow over a picture, as wide as it is.

    Args:
        picture: (H, W, 3) uint8.
        text: broken into lines where it must be.

    Returns:
        (H + height of the text, W, 3) uint8.
    """
    lines = _wrap(text, picture.shape[1])
    banner = Image.new("RGB", (picture.shape[1], _height(lines) + GAP), "yellow")
    ImageDraw.Draw(banner).text((GAP, GAP // 2), lines, "black", _font())
    return np.concatenate([np.asarray(banner), picture])


def draw_panels(
    image: np.ndarray,
    colorized: np.ndarray | None,
    heat: np.ndarray | None,
    probabilities: Sequence[float],
    observations: Sequence[str],
    calibrated: Sequence[float] | None = None,
) -> list[tuple[str, np.ndarray]]:
    """Returns the panels of :func:`draw_explanation` one by one, each with its caption.

    Args:
        heat: None: the image and its colorized version alone.
        calibrated: see :func:`draw_explanation`.

    Returns:
        (caption, (H, W, 3) uint8) per panel.
    """
    gray = _enlarge(gray_picture(image[None])[0])
    panels = [("image" if image.shape[-1] == 1 else "image, first channel", gray)]
    if colorized is not None:
        panels.append(("colorized", _enlarge(to_picture(colorized[None])[0])))
    if heat is None:
        return panels
    for k, (name, chance) in enumerate(zip(observations, probabilities, strict=True)):
        note = "" if heat[..., k].any() else ", no heat"
        said = percent(chance)
        if calibrated is not None and not np.isnan(calibrated[k]):
            said = f"probability {said}, calibrated {percent(calibrated[k])}"
        panels.append((f"{name}\n{said}{note}", blend(gray, heat[..., k])))
    return panels


def percent(chance: float) -> str:
    """Returns a probability for reading: never a rounded 0 % or 100 %."""
    if chance < 0.001:
        return "< 0.1 %"
    if chance > 0.999:
        return "> 99.9 %"
    return f"{100 * chance:.1f} %"


def _enlarge(picture: np.ndarray) -> np.ndarray:
    """Enlarges (H, W, 3) uint8 to a short side of ``SHORT_SIDE``; larger pictures stay."""
    height, width = picture.shape[:2]
    scale = max(1.0, SHORT_SIDE / min(height, width))
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _row(panels: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """Puts captions over panels of one size and the panels side by side."""
    height, width = panels[0][1].shape[:2]
    captions = [_wrap(caption, width) for caption, _ in panels]
    top = GAP + max(map(_height, captions))
    canvas = Image.new("RGB", (len(panels) * (width + GAP) + GAP, top + height + GAP))
    pen = ImageDraw.Draw(canvas)
    for i, (caption, (_, picture)) in enumerate(zip(captions, panels, strict=True)):
        left = GAP + i * (width + GAP)
        pen.text((left, top - _height(caption)), caption, "white", _font())
        canvas.paste(Image.fromarray(picture), (left, top))
    return np.asarray(canvas)


def _legend(width: int, cells: tuple[int, int], kind: str) -> np.ndarray:
    """Draws what the colours mean, with a bar of heat 0 to 1 over middle gray."""
    texts = LEGEND.format(kind), FOOTNOTE.format(*cells)
    above, below = (_wrap(text, width) for text in texts)
    top = GAP + _height(above)
    middle = top + GAP + LINE
    canvas = Image.new("RGB", (width, middle + _height(below) + GAP))
    pen = ImageDraw.Draw(canvas)
    pen.text((GAP, GAP), above, "white", _font())
    bar = blend(np.full((BAR[1], BAR[0], 3), 128, np.uint8), np.linspace(0, 1, 256)[None])
    left = GAP + round(_font().getlength("0 % "))
    pen.text((GAP, top), "0 %", "white", _font())
    canvas.paste(Image.fromarray(bar), (left, top + 3))
    pen.text((left + BAR[0] + GAP, top), "100 %", "white", _font())
    pen.text((GAP, middle), below, "white", _font())
    return np.asarray(canvas)


def _wrap(text: str, width: int) -> str:
    """Breaks lines that would be wider than ``width`` pixels, words too when they must be."""
    letters = int((width - 2 * GAP) / _font().getlength("N"))
    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, letters))


def _height(text: str) -> int:
    return LINE * (text.count("\n") + 1)


@functools.cache
def _font():
    """Matplotlib's own font: it is installed with it, and knows more letters than Pillow's."""
    import matplotlib

    path = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(path, FONT_SIZE)


@functools.cache
def _colors() -> np.ndarray:
    """Returns (256, 3) float: inferno, which is perceptually uniform, from its first colour on."""
    import matplotlib

    return matplotlib.colormaps["inferno"](np.linspace(FIRST_COLOR, 1, 256))[:, :3] * 255
