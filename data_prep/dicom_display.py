"""Display values of a gray DICOM image: from stored pixels to black and white, in NumPy.

The order is that of DICOM PS3.3 and PS3.4 N.2: stored values, padding (C.7.5.1.1.2), modality LUT
or rescale (C.11.1), VOI LUT or window (C.11.2), and the inversion of MONOCHROME1 (C.7.6.3.1.2).
Each step is a function of the distinct stored values, of which there are few, and not of pixels.
What a file has wrong is not applied, and said in a warning.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from data_prep.levels import ImageWarning

WHITE = 65535
# Values are counted, and looked up, by a table as long as their range; beyond it they are sorted.
LONGEST_TABLE = 1 << 17
BLOCK_PIXELS = 1 << 20


@dataclass
class DisplayedImage:
    """An image as it is meant to be seen.

    Attributes:
        pixels: (H, W) uint16, black 0 to white 65535.
        padding: (H, W) bool, where there is no image (black in ``pixels``); None: nowhere.
        pixel_aspect: height of a pixel by its width.
        warnings: what was not applied, or guessed.
    """

    pixels: np.ndarray
    padding: np.ndarray | None = None
    pixel_aspect: float = 1.0
    warnings: list[ImageWarning] = field(default_factory=list)


@dataclass(frozen=True)
class StoredValues:
    """The distinct values of an image, ascending.

    Attributes:
        values: (N,) int64.
        counts: (N,) pixels of each, without padding.
        index: (H, W) which of the values a pixel has.
        signed: whether the file declares signed pixels.
    """

    values: np.ndarray
    counts: np.ndarray
    index: np.ndarray
    signed: bool

    @property
    def present(self) -> np.ndarray:
        """(N,) bool, which values a pixel of the image has."""
        return self.counts > 0


def display(dataset, raw: np.ndarray, masked: bool) -> DisplayedImage:
    """Returns the display values of one gray frame.

    Args:
        dataset: a pydicom dataset of MONOCHROME1 or MONOCHROME2.
        raw: (H, W) integers as they were decoded.
        masked: whether bits outside BitsStored may hold something else (overlays).

    Raises:
        ValueError: a modality LUT that cannot be read.
    """
    warnings: list[ImageWarning] = []
    signed = bool(attribute(dataset, "PixelRepresentation") or 0)
    pixels = stored_pixels(dataset, raw, signed) if masked else raw
    padding = _padding(dataset, raw, pixels)
    stored = _count(pixels, padding, signed)
    if not stored.present.any():
        return DisplayedImage(np.zeros(pixels.shape, np.uint16), padding, warnings=warnings)
    values = _modality(dataset, stored, warnings)
    unit = _voi(dataset, values, stored, warnings)
    if unit is None:
        if padding is None:
            stored, padding = _undeclared_padding(stored, values, warnings)
        unit = _own_range(values, stored.present)
    if _is_inverted(dataset, warnings):
        unit = 1 - unit
    table = np.rint(np.clip(unit, 0, 1) * WHITE).astype(np.uint16)
    displayed = table[stored.index]
    if padding is not None:
        displayed[padding] = 0
    return DisplayedImage(displayed, padding, warnings=warnings)


def attribute(dataset, name: str):
    """Returns an attribute, None where it is absent or empty.

    The functional groups of an Enhanced file come first: those of the frame, then those shared.
    """
    for container in (*_functional_groups(dataset), dataset):
        value = container.get(name)
        if value is None or (hasattr(value, "__len__") and not len(value)):
            continue
        return value
    return None


def number(dataset, name: str) -> float | None:
    """Returns the first value of a numeric attribute; None where it is absent or empty."""
    value = attribute(dataset, name)
    if value is None:
        return None
    values = [item for item in np.ravel(np.array(value, object)) if item not in (None, "")]
    return float(values[0]) if values else None


def _functional_groups(dataset) -> Iterator:
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in (dataset.get(name) or [])[:1]:
            for element in group:
                if element.VR == "SQ" and element.value:
                    yield element.value[0]


def stored_pixels(dataset, raw: np.ndarray, signed: bool) -> np.ndarray:
    """Returns the BitsStored bits up to HighBit of every pixel, as signed where they are."""
    allocated = raw.dtype.itemsize * 8
    bits = int(number(dataset, "BitsStored") or allocated)
    high = number(dataset, "HighBit")
    high = bits - 1 if high is None else int(high)
    shift = high + 1 - bits
    if not (0 < bits <= allocated and 0 <= shift <= allocated - bits):
        raise ValueError(f"BitsStored {bits} and HighBit {high} do not fit {allocated} bits")
    if bits == allocated:
        return raw
    codes = raw.view(f"u{raw.dtype.itemsize}")
    values = (codes >> shift) & ((1 << bits) - 1)
    if not signed:
        return values
    sign = 1 << (bits - 1)
    return (values.astype(np.int64) ^ sign) - sign


def _padding(dataset, raw: np.ndarray, pixels: np.ndarray) -> np.ndarray | None:
    """Returns where PixelPaddingValue, or its range, says that there is no image."""
    first = number(dataset, "PixelPaddingValue")
    if first is None:
        return None
    limit = number(dataset, "PixelPaddingRangeLimit")
    ends = (first, first if limit is None else limit)
    low, high = sorted(_with_sign_of(raw, value) for value in ends)
    padding = (pixels >= low) & (pixels <= high)
    if raw is not pixels:  # a value of more than BitsStored stands in the pixel's cell alone
        padding |= (raw >= low) & (raw <= high)
    return padding if padding.any() else None


def _with_sign_of(raw: np.ndarray, value: float) -> float:
    """Returns a value as the pixels' cells have it; writers may miss their sign."""
    cells = 1 << (8 * raw.dtype.itemsize)
    if value < 0 and raw.dtype.kind == "u":
        return value + cells
    if value >= cells // 2 and raw.dtype.kind == "i":
        return value - cells
    return value


def _count(pixels: np.ndarray, padding: np.ndarray | None, signed: bool) -> StoredValues:
    low, high = int(pixels.min()), int(pixels.max())
    if high - low >= LONGEST_TABLE:
        values, index = np.unique(pixels, return_inverse=True)
        index = index.reshape(pixels.shape)
        values = values.astype(np.int64)
    else:
        values = np.arange(low, high + 1)
        # In the narrowest type: a film has up to 90 million pixels.
        wide = pixels if low >= 0 and pixels.dtype.kind == "u" else pixels.astype(np.int64)
        index = (wide - low).astype(np.min_scalar_type(high - low))
    return StoredValues(values, _histogram(index, len(values), padding), index, signed)


def _histogram(index: np.ndarray, size: int, padding: np.ndarray | None) -> np.ndarray:
    """Returns how many pixels have each value; in blocks, because bincount widens to int64."""
    counts = np.zeros(size, np.int64)
    rows = max(1, BLOCK_PIXELS // index.shape[1])
    for start in range(0, len(index), rows):
        block = index[start : start + rows]
        chosen = block.ravel() if padding is None else block[~padding[start : start + rows]]
        counts += np.bincount(chosen, minlength=size)
    return counts


def _modality(dataset, stored: StoredValues, warnings: list[ImageWarning]) -> np.ndarray:
    """Returns (N,) float64: the modality LUT's, or the rescaled, value of each stored value."""
    values = stored.values.astype(np.float64)
    sequence = attribute(dataset, "ModalityLUTSequence")
    if sequence:
        first, entries, _ = _lookup_table(sequence[0], "modality LUT")
        return entries[_table_index(values, first, len(entries))].astype(np.float64)
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if slope is not None and (not math.isfinite(slope) or slope == 0):
        warnings.append(ImageWarning("dicom_tags", f"RescaleSlope {slope:g} is not applied"))
        slope = None
    if intercept is not None and not math.isfinite(intercept):
        warnings.append(ImageWarning("dicom_tags", f"RescaleIntercept {intercept} is not applied"))
        intercept = None
    return values * (1 if slope is None else slope) + (intercept or 0)


def _voi(
    dataset, values: np.ndarray, stored: StoredValues, warnings: list[ImageWarning]
) -> np.ndarray | None:
    """Returns (N,) on the scale of 0 black to 1 white, clipped or not; None: nothing valid there.

    A VOI LUT is preferred to windows, and of several the first is taken: PS3.3 C.11.2 leaves both
    open.
    """
    sequence = attribute(dataset, "VOILUTSequence")
    if sequence:
        try:
            first, entries, bits = _lookup_table(sequence[0], "VOI LUT")
        except ValueError as error:
            warnings.append(ImageWarning("dicom_tags", f"{error}: it is not applied"))
        else:
            return entries[_table_index(values, first, len(entries))] / (2**bits - 1)
    centre, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    if centre is None and width is None:
        return None
    function = str(attribute(dataset, "VOILUTFunction") or "LINEAR").strip().upper()
    if centre is None or width is None or not math.isfinite(centre) or not 0 < width < math.inf:
        shown = f"centre {_text(centre)}, width {_text(width)}"
        warnings.append(
            ImageWarning(
                "dicom_tags",
                f"window of {shown} is not valid and not applied: the image's own range is shown",
            )
        )
        return None
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        warnings.append(
            ImageWarning("dicom_tags", f"VOILUTFunction {function!r} is taken as LINEAR")
        )
        function = "LINEAR"
    return window(values, centre, width, function)


def window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Returns values seen through a window, 0 black to 1 white: PS3.3 C.11.2.1.2 and C.11.2.1.3.

    Args:
        values: of any shape, float64.
        centre, width: of the window; width > 0. LINEAR is defined from a width of 1 on; below it
            is taken as LINEAR_EXACT.
        function: "LINEAR", "LINEAR_EXACT" or "SIGMOID".
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -500, 500)))
    if function == "LINEAR_EXACT" or width < 1:
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _lookup_table(item, name: str) -> tuple[int, np.ndarray, int]:
    """Returns the first value that a table maps, its (N,) entries, and their bits.

    Entries of 8 bits may stand in a byte each, or in a word. The descriptor says 16 bits in many
    files whose entries have fewer: there the bits are those that the largest entry needs.

    Raises:
        ValueError: no descriptor or data, or too few entries.
    """
    descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
    if descriptor is None or np.size(descriptor) != 3 or data is None or not np.size(data):
        raise ValueError(f"{name} without descriptor or data")
    count, first, bits = (int(value) for value in descriptor)
    count = count % 65536 or 65536
    if isinstance(data, bytes):
        one_byte = bits <= 8 and len(data) in (count, count + count % 2)
        little_endian = item.original_encoding[1] is not False
        words = "<u2" if little_endian else ">u2"
        entries = np.frombuffer(
            data if one_byte else data[: len(data) // 2 * 2], "u1" if one_byte else words
        )
    else:
        words = np.atleast_1d(np.asarray(data, np.int64)).astype(np.uint16)
        packed = bits <= 8 and count > 1 and len(words) == -(-count // 2)
        entries = words.astype("<u2").view("u1") if packed else words
    if len(entries) < count:
        raise ValueError(f"{name} of {len(entries)} entries; its descriptor says {count}")
    entries = entries[:count]
    needed = int(entries.max()).bit_length()
    bits = max(bits, needed, 1) if 0 < bits < 16 else max(needed, 1)
    return first, entries, bits


def _table_index(values: np.ndarray, first: int, count: int) -> np.ndarray:
    """Returns which entry each value has: those outside the table the first or the last.

    The first mapped value is 16 bits whose sign depends on what comes before; the one that meets
    the image's values is taken.
    """
    if first > 32767 and values.min() < 0:
        first -= 65536
    elif first < 0 <= values.min() and first + 65536 <= values.max():
        first += 65536
    return np.clip(np.rint(values).astype(np.int64) - first, 0, count - 1)


def _own_range(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    low, high = values[present].min(), values[present].max()
    return (values - low) / (high - low) if high > low else np.zeros(len(values))


def _undeclared_padding(
    stored: StoredValues, values: np.ndarray, warnings: list[ImageWarning]
) -> tuple[StoredValues, np.ndarray | None]:
    """Leaves an extreme that is far from all other values out of the image's own range.

    Some files fill what has no image with a value of which no tag tells. A first or last value is
    taken for that if the step to the next one is wider than all others together. Where it fills a
    whole edge of the picture, it is padding and black; elsewhere it is clipped.
    """
    padding = None
    for end in (0, -1):
        present = np.flatnonzero(stored.present)
        if len(present) < 4:
            break
        here, beside, far = (present if end == 0 else present[::-1])[[0, 1, -1]]
        step, rest = abs(values[here] - values[beside]), abs(values[beside] - values[far])
        if step <= rest:
            continue
        counts = stored.counts.copy()
        counts[here] = 0
        mask = stored.index == here
        edges = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
        fills = any(bool(edge.all()) for edge in edges)
        if fills:
            padding = mask if padding is None else padding | mask
        warnings.append(
            ImageWarning(
                "dicom_tags",
                f"value {stored.values[here]} is far from all others and taken for "
                f"{'undeclared padding' if fills else 'an outlier'}: the range is that of the "
                "others",
            )
        )
        stored = StoredValues(stored.values, counts, stored.index, stored.signed)
    return stored, padding


def _is_inverted(dataset, warnings: list[ImageWarning]) -> bool:
    """Tells whether large values are dark; PresentationLUTShape INVERSE says the same again."""
    inverted = attribute(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    shape = str(attribute(dataset, "PresentationLUTShape") or "")
    if (shape == "INVERSE" and not inverted) or (shape == "IDENTITY" and inverted):
        photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
        warnings.append(
            ImageWarning(
                "dicom_tags", f"PresentationLUTShape {shape} contradicts {photometric}: ignored"
            )
        )
    return inverted
