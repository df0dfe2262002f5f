"""Draws chest-radiograph-like images with findings in them; made up, from no patient's image.

Gray levels are composed part by part, dense parts bright, in coordinates that are independent of
the image's size: u to the right and v down, the frame reaching about from -1 to 1. The patient's
right side is on the left of the image, as on a radiograph. ``a`` is the distance from the
midline. Smooth parts are drawn at half the resolution, edges of text and noise at full.

Where a finding lies in a frontal view is kept as a mask while it is drawn ("places"), so that heat
maps can be measured against it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
SIDES = (-1, 1)


@dataclass(frozen=True)
class Anatomy:
    """What stays the same in all images of a patient.

    Attributes:
        width: of the rib cage, relative.
        heart: (left edge, right edge) of a healthy heart shadow, in u.
        domes: v of the tops of the right and left diaphragm.
        rib_spacing: between neighbouring ribs, in v.
        rib_phase: where the first rib is.
        breasts: strength of breast shadows, 0 for none.
        bone: contrast of the bones.
    """

    width: float
    heart: tuple[float, float]
    domes: tuple[float, float]
    rib_spacing: float
    rib_phase: float
    breasts: float
    bone: float


def make_anatomy(rng: np.random.Generator, female: bool) -> Anatomy:
    """Draws a patient's proportions."""
    right_dome = rng.uniform(0.40, 0.50)
    return Anatomy(
        width=rng.uniform(0.78, 0.86),
        heart=(-rng.uniform(0.17, 0.22), rng.uniform(0.38, 0.46)),
        domes=(right_dome, right_dome + rng.uniform(0.03, 0.08)),
        rib_spacing=rng.uniform(0.165, 0.19),
        rib_phase=rng.uniform(0, 1),
        breasts=rng.uniform(0.05, 0.10) if female else 0.0,
        bone=rng.uniform(0.8, 1.2),
    )


def draw(
    rng: np.random.Generator,
    anatomy: Anatomy,
    findings: Mapping[str, float],
    view: str,
    size: tuple[int, int],
    devices: bool = False,
    places: dict[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Draws one image.

    Args:
        rng: of the pose, the exposure, the noise and the place of the findings.
        anatomy: of the patient.
        findings: finding -> strength, 0 (absent) to 1 (marked).
        view: "frontal" or "lateral".
        size: (height, width) in pixels.
        devices: whether there are wires and a tube (frontal only).
        places: takes a mask (height, width) bool of each finding that is there (frontal only):
            where it shows at least half as much as where it shows most. Cardiomegaly's is the
            heart. The image is the same with and without.

    Returns:
        (height, width) uint8.
    """
    height, width = size
    half = (height // 2, width // 2)
    u, v = _coordinates(rng, half)
    shares: dict[str, np.ndarray] = {}
    if view == "frontal":
        gray = _frontal(rng, anatomy, findings, u, v, shares)
    else:
        gray = _lateral(rng, anatomy, findings, u, v)
    if places is not None:
        places |= {name: _place(share, size) for name, share in shares.items()}
    image = Image.fromarray(np.clip(gray, 0, 1)).resize((width, height), Image.Resampling.BICUBIC)
    gray = np.array(image)
    if devices and view == "frontal":
        gray += _devices(rng, size)
    gray = _expose(rng, gray)
    return _mark(rng, gray, view)


def _place(share: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns where a finding shows, (height, width) bool, of how much it shows at each place."""
    image = Image.fromarray(share.astype(np.float32))
    share = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))
    return share >= share.max() / 2


def _coordinates(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns u and v, (H, W) float32, of a randomly placed patient."""
    height, width = size
    mean = (height * width) ** 0.5
    angle, zoom = rng.normal(0, 0.03), rng.uniform(0.94, 1.06)
    # Halfway between filling the frame and keeping the patient's shape.
    x = (np.arange(width, dtype=np.float32) - width / 2) / (0.5 * (width * mean) ** 0.5)
    y = (np.arange(height, dtype=np.float32) - height / 2) / (0.5 * (height * mean) ** 0.5)
    x, y = x / zoom - rng.normal(0, 0.03), y / zoom - rng.normal(0, 0.03)
    x, y = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x - sin * y, sin * x + cos * y


def _soft(distance: np.ndarray, edge: float) -> np.ndarray:
    """A mask from a signed distance: 0.5 on the edge, 0.88 one ``edge`` inside."""
    return 0.5 + 0.5 * np.tanh(distance * np.float32(1 / edge))


def _bump(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-np.square(distance * np.float32(1 / width)))


def _clouds(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise of unit variance, ``cells`` blobs across."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    image = Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(image) / np.float32(0.7)


def _table(v: np.ndarray, *points: tuple[float, float]) -> np.ndarray:
    """Interpolates (v, value) points; v varies mostly by row, so this is cheap enough."""
    places, values = zip(*points, strict=True)
    return np.interp(v, places, values).astype(np.float32)


def _frontal(rng, anatomy: Anatomy, findings, u, v, shares: dict[str, np.ndarray]) -> np.ndarray:
    """The view from the front; ``shares`` takes how much each finding shows at each place."""
    a = np.abs(u)
    body = _table(
        v,
        *((-1.3, 0.24), (-0.95, 0.25), (-0.88, 0.29), (-0.82, 0.42), (-0.76, 0.68), (-0.70, 0.88)),
        *((-0.62, 1.0), (-0.50, 1.06), (-0.2, 1.06), (0.2, 1.01), (1.3, 0.98)),
    )
    gray = 0.02 + 0.60 * _soft(body - a, 0.02) * (0.62 + 0.38 * _soft(body - a, 0.22))
    cage = _cage(v, anatomy.width)
    chest = _soft(cage - a, 0.02)
    lung, depth, bases, lost = _lungs(rng, anatomy, findings, u, v, cage)
    below = _soft(v - np.where(u < 0, bases[0], bases[1]), 0.03)
    gray += 0.17 * below * _soft(cage + 0.06 - a, 0.08)
    air = rng.uniform(0.38, 0.46) * (0.6 + 0.4 * (1 - np.exp(-np.maximum(depth, 0) / 0.13)))
    gray -= air * lung * (1 + 0.04 * _clouds(rng, u.shape, 24))
    if rng.uniform() < 0.5:  # gas in the stomach
        top = anatomy.domes[1] + 0.16
        gray -= 0.16 * below * _bump(u - 0.42, 0.15) * _bump(v - top, 0.06)
    vessels = _vessels(rng, u, v, findings["Edema"])
    gray += (0.17 + 0.06 * findings["Edema"]) * vessels * lung
    gray += _breasts(anatomy, a, v)
    opacity = _opacities(rng, findings, u, v, shares) * lung
    for name in shares:
        shares[name] = shares[name] * lung
    if findings["Atelectasis"]:  # the plates, or the space that the raised diaphragm has taken
        plates = shares["Atelectasis"]
        shares["Atelectasis"] = np.maximum(plates / plates.max(), lost)
    gray += opacity * (0.80 - gray)
    gray = _mediastinum(anatomy, findings, gray, u, v, shares)
    gray = _effusions(rng, findings, gray, u, v, cage, shares)
    # Bones show less through dense parts.
    return gray + anatomy.bone * _bones(anatomy, u, v, chest) * (1.3 - 1.2 * gray)


def _cage(v: np.ndarray, width: float) -> np.ndarray:
    """Half width of the rib cage at each v."""
    t = np.clip((v - 0.42) / 1.20, -1, 1)
    return width * np.where(v > 0.42, 1, np.sqrt(1 - np.abs(t) ** 2.6)).astype(np.float32)


def _lungs(rng, anatomy: Anatomy, findings, u, v, cage):
    """Returns the lungs' mask, depth from their border, each side's diaphragm as v of u, and the
    mask of what a raised diaphragm has taken from a lung.
    """
    raised = [0.0, 0.0]
    if findings["Atelectasis"]:  # a lung that has lost air pulls its diaphragm up
        raised[int(rng.integers(2))] = 0.20 * findings["Atelectasis"]
    depths, bases, lost = [], [], np.zeros_like(u)
    for number, side in enumerate(SIDES):
        a = side * u
        top = anatomy.domes[number] - raised[number]
        # A dome that falls off to the side, into the costophrenic angle.
        base = top + 0.24 * np.square((a - 0.34) / 0.40) * np.where(a > 0.34, 1.0, 0.35)
        bases.append(base.astype(np.float32))
        within = np.minimum(cage - 0.02 - a, a - 0.12)
        depths.append(np.minimum(within, base - v))
        if raised[number]:
            healthy = np.minimum(within, base + raised[number] - v)
            lost = _soft(healthy, 0.018) * _soft(v - base, 0.018)
    depth = np.maximum(*depths)
    return _soft(depth, 0.018), depth, bases, lost


def _vessels(rng, u, v, edema: float) -> np.ndarray:
    """Branching vessels from the hila; wider and reaching further up with edema."""
    height, width = u.shape
    image = Image.new("L", (2 * width, 2 * height))
    pen = ImageDraw.Draw(image)
    scale_x, scale_y = 2 / (u[0, 1] - u[0, 0]), 2 / (v[1, 0] - v[0, 0])
    origin = (-float(u[0, 0]) * scale_x, -float(v[0, 0]) * scale_y)
    thick = (2.4 + 1.6 * edema) * width / 160
    stack = []
    for side in SIDES:
        for angle in np.linspace(-1.25, 1.25, 7) + rng.normal(0, 0.12, 7):
            stack.append((side * 0.15, -0.03 + 0.06 * angle, side, angle, 0.17, thick, 0))
    while stack:
        x, y, side, angle, length, wide, level = stack.pop()
        for _ in range(2):
            angle += rng.normal(0, 0.10)
            end = (x + side * length * np.cos(angle) / 2, y + length * np.sin(angle) / 2)
            points = [(p * scale_x + origin[0], q * scale_y + origin[1]) for p, q in ((x, y), end)]
            shade = int(255 * (0.95 - 0.17 * level))
            pen.line([tuple(map(float, p)) for p in points], fill=shade, width=max(1, round(wide)))
            x, y = end
        if level < 3:
            for turn in (-0.38, 0.30):
                turned = angle + turn + rng.normal(0, 0.12)
                stack.append((x, y, side, turned, length * 0.82, wide * 0.64, level + 1))
    return np.asarray(image.resize((width, height), Image.Resampling.BOX), np.float32) / 255


def _breasts(anatomy: Anatomy, a, v) -> np.ndarray:
    if not anatomy.breasts:
        return np.zeros_like(a)
    radius = np.hypot((a - 0.48) / 0.40, (v - 0.22) / 0.36)
    return anatomy.breasts * _soft(1 - radius, 0.06) * (v > -0.1) * _soft(v + 0.02, 0.15)


def _mediastinum(anatomy: Anatomy, findings, gray, u, v, shares) -> np.ndarray:
    """Covers the middle: great vessels, aortic knob, hila, heart, windpipe."""
    width = _table(v, (-1.2, 0.22), (-0.75, 0.19), (-0.5, 0.13), (-0.2, 0.13), (0.1, 0.12))
    middle = _soft(width - np.abs(u - 0.015), 0.03)
    knob = _soft(0.095 - np.hypot(u - 0.12, v + 0.34), 0.02)
    large = findings["Cardiomegaly"]
    left, right = anatomy.heart[0] - 0.13 * large, anatomy.heart[1] + 0.30 * large
    centre, radius = (left + right) / 2, (right - left) / 2
    tilted = u - centre - 0.30 * (v - 0.26)  # the apex points to the patient's left
    heart = 1 - np.sqrt((tilted / radius) ** 2 + ((v - 0.26) / (0.33 + 0.06 * large)) ** 2)
    heart = _soft(heart, 0.05)
    if large:
        shares["Cardiomegaly"] = heart
    # The pulmonary trunk and the left atrium's ear fill the notch between aortic knob and heart.
    trunk = _soft(1 - np.hypot((u - 0.08) / 0.17, (v + 0.04) / 0.25), 0.08)
    hila = 0.50 * _bump(np.abs(u) - 0.17, 0.07) * _bump(v + 0.03, 0.12)
    cover = np.maximum.reduce([0.94 * middle, 0.85 * knob, 0.96 * heart, 0.9 * trunk, hila])
    gray = gray * (1 - cover) + cover * (0.74 + 0.05 * _soft(v - 0.2, 0.3))
    trachea = _bump(u - 0.01, 0.05) * _soft(-0.20 - v, 0.03)
    bronchi = _bump(np.abs(u) - 0.03 - 0.9 * (v + 0.22), 0.03) * _bump(v + 0.14, 0.07)
    return gray - 0.15 * trachea - 0.09 * bronchi


def _bones(anatomy: Anatomy, u, v, chest) -> np.ndarray:
    """Ribs (posterior and anterior), spine, collar bones, shoulder blades, arm heads."""
    a = np.abs(u)
    inside = _soft(a - 0.10, 0.03) * chest * _soft(v + 0.80, 0.05) * _soft(0.75 - v, 0.12)
    posterior = (v - 0.36 * a**2 + 0.10 * a) / anatomy.rib_spacing + anatomy.rib_phase
    anterior = (v + 0.52 * a - 0.10 * a**2) / (anatomy.rib_spacing * 1.12) + anatomy.rib_phase
    bones = 0.095 * inside * _band(posterior, 0.24)
    bones += 0.060 * inside * _band(anterior, 0.30) * _soft(a - 0.34, 0.06) * _soft(v + 0.45, 0.1)
    vertebra = 0.55 + 0.45 * _soft(0.40 - np.abs(np.mod(v / 0.125, 1) - 0.5), 0.06)
    bones += 0.055 * _soft(0.085 - a, 0.015) * vertebra
    curve = -0.60 - 0.16 * (a - 0.06) + 0.035 * np.sin(5.5 * (a - 0.06))
    collar = _soft(0.030 - np.abs(v - curve), 0.010) * _soft(a - 0.06, 0.02) * _soft(0.84 - a, 0.03)
    blade = (
        _soft(a - 0.66 - 0.10 * (v + 0.3), 0.015) * _bump(v + 0.28, 0.24) * _soft(0.98 - a, 0.05)
    )
    head = _soft(0.13 - np.hypot(a - 0.98, v + 0.56), 0.02)
    return bones + 0.13 * collar + 0.07 * blade + 0.12 * head


def _band(phase: np.ndarray, half_width: float) -> np.ndarray:
    """A bone's profile across, repeated at every integer of ``phase``: denser at its edges."""
    distance = np.abs(np.mod(phase, 1) - 0.5)
    return 0.65 * _soft(half_width - distance, 0.06) + 0.35 * _bump(distance - half_width, 0.06)


def _opacities(rng, findings, u, v, shares: dict[str, np.ndarray]) -> np.ndarray:
    """Consolidation, edema and the plates of atelectasis, as the share of lung they hide.

    ``shares`` takes that of each.
    """
    clear = np.ones_like(u)
    strength = findings["Consolidation"]
    if strength:
        side, upper = _side(rng), rng.uniform() < 0.5
        x = side * rng.uniform(0.36, 0.52)
        y = rng.uniform(-0.42, -0.2) if upper else rng.uniform(0.1, 0.3)
        radius = np.hypot((u - x) / rng.uniform(0.22, 0.3), (v - y) / rng.uniform(0.2, 0.28))
        patch = _soft(1.05 - radius + 0.22 * _clouds(rng, u.shape, 14), 0.30)
        mottle = 0.85 + 0.10 * _clouds(rng, u.shape, 30)
        share = np.clip((0.15 + 0.75 * strength) * patch * mottle, 0, 0.95)
        shares["Consolidation"] = share
        clear *= 1 - share
    strength = findings["Edema"]
    if strength:
        wings = _bump(np.abs(u) - 0.26, 0.26) * _bump(v - 0.02, 0.38)
        haze = 0.9 + 0.16 * _clouds(rng, u.shape, 26) + 0.08 * _clouds(rng, u.shape, 60)
        share = np.clip((0.05 + 0.65 * strength) * (wings + 0.12) * haze, 0, 0.95)
        shares["Edema"] = share
        clear *= 1 - share
    strength = findings["Atelectasis"]
    for _ in range(int(rng.integers(2, 4)) if strength else 0):
        side, slope = _side(rng), rng.normal(0, 0.22)
        x, y = side * rng.uniform(0.34, 0.50), rng.uniform(0.02, 0.30)
        across = v - y - slope * (u - x) - 0.25 * np.square(u - x)
        plate = _bump(across, rng.uniform(0.018, 0.030)) * _soft(0.24 - np.abs(u - x), 0.05)
        shares["Atelectasis"] = np.maximum(shares.get("Atelectasis", 0), plate)
        clear *= 1 - (0.25 + 0.55 * strength) * plate
    return 1 - clear


def _side(rng) -> int:
    return 1 if rng.uniform() < 0.5 else -1


def _effusions(rng, findings, gray, u, v, cage, shares: dict[str, np.ndarray]) -> np.ndarray:
    """Fluid at the bottom of one or both sides, with a meniscus that climbs the chest wall."""
    strength = findings["Pleural Effusion"]
    if not strength:
        return gray
    sides = SIDES if rng.uniform() < 0.3 else (_side(rng),)
    for side in sides:
        a = side * u
        level = 0.60 - strength * rng.uniform(0.05, 0.48)
        climb = 0.26 * np.exp(-np.maximum(cage - a, 0) / 0.10)
        fluid = _soft(v - level + climb, 0.035) * _soft(cage - 0.005 - a, 0.015)
        fluid *= _soft(a - 0.10, 0.03) * (0.75 + 0.2 * strength)
        shares["Pleural Effusion"] = np.maximum(shares.get("Pleural Effusion", 0), fluid)
        gray = gray * (1 - fluid) + fluid * 0.76
    return gray


def _lateral(rng, anatomy: Anatomy, findings, u, v) -> np.ndarray:
    """The side view: breast bone on the left, spine on the right, both lungs on each other."""
    front = -0.66 + 0.20 * np.square(v - 0.25) + _table(v, (-1, 0.22), (-0.6, 0.08), (0, 0))
    back = 0.74 - 0.16 * np.square(v - 0.1)
    skin = np.minimum(u - front + 0.20, back + 0.20 - u)
    gray = 0.02 + 0.58 * _soft(skin, 0.02) * (0.6 + 0.4 * _soft(skin, 0.18))
    raised = 0.16 * findings["Atelectasis"]
    base = 0.42 - raised + 0.42 * np.square(np.maximum(u + 0.25, 0)) + 0.1 * np.square(u + 0.25)
    depth = np.minimum(np.minimum(u - front - 0.03, back - u), np.minimum(base - v, v + 0.78))
    lung = _soft(depth, 0.025)
    gray += 0.20 * _soft(v - base, 0.04) * _soft(skin - 0.08, 0.05)
    gray -= 0.40 * lung * (0.55 + 0.45 * (1 - np.exp(-np.maximum(depth, 0) / 0.15)))
    gray += 0.02 * lung * _clouds(rng, u.shape, 40)
    large = findings["Cardiomegaly"]
    heart = np.hypot(
        (u + 0.20 - 0.12 * large + 0.35 * (v - 0.2)) / (0.30 + 0.16 * large),
        (v - 0.22) / (0.30 + 0.06 * large),
    )
    cover = 0.70 * _soft(1 - heart, 0.12) + 0.30 * _bump(np.hypot(u, v + 0.12), 0.2)
    cover = np.minimum(cover, 0.8)
    gray = gray * (1 - cover) + cover * 0.72
    gray -= 0.10 * _bump(u - 0.04 - 0.15 * (v + 0.5), 0.05) * _soft(-0.15 - v, 0.05)
    centre = 0.60 - 0.16 * np.square(v - 0.05)
    vertebra = 0.5 + 0.5 * _soft(0.40 - np.abs(np.mod(v / 0.15, 1) - 0.5), 0.07)
    gray += anatomy.bone * 0.16 * _soft(0.075 - np.abs(u - centre), 0.015) * vertebra
    ribs = _band((v - 0.55 * u) / anatomy.rib_spacing + anatomy.rib_phase, 0.2)
    gray += anatomy.bone * 0.045 * ribs * lung
    gray += 0.8 * _opacities(rng, findings, u, v, {}) * lung * (0.78 - gray)
    strength = findings["Pleural Effusion"]
    if strength:
        level = 0.42 - 0.25 * strength
        climb = 0.2 * np.exp(-np.maximum(back - u, 0) / 0.1)
        fluid = _soft(v - level + climb, 0.03) * _soft(back - u, 0.02) * _soft(u - 0.1, 0.1)
        gray = gray * (1 - 0.85 * fluid) + 0.85 * fluid * 0.76
    return gray


def _devices(rng, size: tuple[int, int]) -> np.ndarray:
    """Wires with electrodes, and a tube in the windpipe or a line to the heart."""
    height, width = size
    image = Image.new("L", (2 * width, 2 * height))
    pen = ImageDraw.Draw(image)
    t = np.linspace(0, 1, 24)
    for _ in range(rng.integers(1, 4)):
        start, end = rng.uniform((0.1, 0.15), (0.9, 0.3)), rng.uniform((0.1, 0.6), (0.9, 0.95))
        bend = rng.normal(0, 0.15)
        x = start[0] + (end[0] - start[0]) * t + bend * np.sin(np.pi * t)
        y = start[1] + (end[1] - start[1]) * t
        points = [(2 * width * p, 2 * height * q) for p, q in zip(x, y, strict=True)]
        pen.line(points, fill=110, width=3)
        px, py = points[0]
        pen.ellipse((px - 9, py - 9, px + 9, py + 9), fill=170)
    bottom = 0.33 if rng.uniform() < 0.5 else 0.52
    x = 0.5 + 0.05 * (t - 0.5) * _side(rng) - 0.02
    points = [(2 * width * p, 2 * height * bottom * q) for p, q in zip(x, t, strict=True)]
    pen.line(points, fill=120, width=4)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX), np.float32) / 255 * 0.5


def _expose(rng, gray: np.ndarray) -> np.ndarray:
    """Exposure, vignetting, quantum noise and sometimes a collimator's edge."""
    height, width = gray.shape
    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    gray = gray * (1 - rng.uniform(0.04, 0.16) * (x**2 + y**2) / 2)
    noise = rng.standard_normal(gray.shape, np.float32)
    gray = gray + np.float32(rng.uniform(0.010, 0.022)) * noise
    gray = np.clip(gray * rng.uniform(0.92, 1.15) + rng.normal(0, 0.02), 0, 1)
    gray = gray ** np.float32(rng.uniform(0.85, 1.2))
    if rng.uniform() < 0.25:
        edge = rng.uniform(0.94, 0.99)
        gray = gray * ((np.abs(x) < edge) & (np.abs(y) < edge))
    return gray


def _mark(rng, gray: np.ndarray, view: str) -> np.ndarray:
    """Writes the side's letter at the top; L is the patient's left, the image's right."""
    image = Image.fromarray(np.rint(255 * gray).astype(np.uint8))
    if view == "frontal" and rng.uniform() < 0.8:
        letter = "L" if _side(rng) > 0 else "R"
        x = rng.uniform(0.86, 0.92) if letter == "L" else rng.uniform(0.05, 0.09)
        place = (x * image.width, rng.uniform(0.03, 0.08) * image.height)
        font = ImageFont.load_default(size=max(8, image.height // 15))
        ImageDraw.Draw(image).text(place, letter, fill=245, font=font)
    return np.asarray(image)
