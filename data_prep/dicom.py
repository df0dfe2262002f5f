"""Reads gray DICOM images through pydicom, which is optional.

DICOM PS3.3 C.11.1 (modality LUT) and C.11.2 (VOI LUT and window); MONOCHROME1 is inverted.
"""

from pathlib import Path

import numpy as np


def read(path: Path) -> np.ndarray:
    """Returns the image as it is meant to be seen: (H, W) uint16, the window spread over 0..65535.

    Without a window or VOI table the image's own smallest and largest values are spread.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: several frames, or colour.
    """
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    dataset = pydicom.dcmread(path, force=True)
    if "PixelData" not in dataset:
        raise ValueError("DICOM file without pixels")
    if int(dataset.get("NumberOfFrames") or 1) > 1 or int(dataset.get("SamplesPerPixel", 1)) != 1:
        raise ValueError("DICOM file with several frames or colour; expected one gray image")
    stored = dataset.pixel_array
    values = np.asarray(apply_modality_lut(stored, dataset))
    if dataset.get("VOILUTSequence"):
        depth = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        unit = apply_voi(values, dataset).astype(np.float64) / (2**depth - 1)
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        unit = _window(values.astype(np.float64), dataset)
    else:
        low, high = float(values.min()), float(values.max())
        unit = (values - low) / max(high - low, 1.0)
    unit = np.clip(unit, 0, 1)
    if str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        unit = 1 - unit
    return np.rint(unit * 65535).astype(np.uint16)


def _window(values: np.ndarray, dataset) -> np.ndarray:
    """Applies the first window of the file; the formulas are those of PS3.3 C.11.2.1.2 and .3."""
    centre, width = (float(np.ravel(dataset[k].value)[0]) for k in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -500, 500)))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    return (values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5
