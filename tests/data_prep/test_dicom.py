"""DICOM files as they are meant to be seen: small made-up ones, and real films where they are."""

import csv
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import dicom, dicom_display
from data_prep.dicom_display import window
from data_prep.images import MAX_PIXELS, ImageError, examine_image, read_image
from data_prep.levels import stretch

pydicom = pytest.importorskip("pydicom")

CASES = Path(__file__).parent / "cases" / "dicom"
EXPECTED = np.load(CASES / "expected.npz")
FILMS = Path(__file__).parents[3] / "shared" / "dicom"
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
SPREAD = RAMP / 4095
needs_films = pytest.mark.skipif(not FILMS.is_dir(), reason="no real films beside the checkout")


def dataset(pixels: np.ndarray = RAMP, **tags):
    """A file's dataset in memory: unsigned 12 of 16 bits, unless the tags say otherwise."""
    made = pydicom.Dataset()
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = pixels.dtype.itemsize * 8
    made.BitsStored = min(12, made.BitsAllocated)
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    extra = tags.pop("extra", None)
    for name, value in tags.items():
        setattr(made, name, value)
    made.HighBit = tags.get("HighBit", made.BitsStored - 1)
    if extra is not None:
        made.add(extra)
    made.PixelData = pixels.tobytes()
    made["PixelData"].VR = "OW"
    return made


def write(path, made, syntax=dicom.EXPLICIT_LITTLE):
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    made.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def shown(tmp_path):
    """The function that gives the 16-bit display values of a dataset, on 0 to 1, and warnings."""

    def show(pixels=RAMP, syntax=dicom.EXPLICIT_LITTLE, **tags):
        path = write(tmp_path / "x.dcm", dataset(pixels, **tags), syntax)
        reading = examine_image(path, bits=16)
        kinds = [w.message for w in reading.warnings if w.kind == "dicom_tags"]
        return reading.pixels / 65535, kinds

    return show


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1 / 4096 / 16)


@pytest.mark.parametrize("name", EXPECTED.files)
def test_cases_have_the_display_values_of_the_standard(name):
    reading = examine_image(CASES / f"{name}.dcm", bits=16)
    difference = np.abs(reading.pixels.astype(int) - EXPECTED[name].astype(int))
    assert difference.max() <= 16
    kinds = {
        "width0": ["dicom_tags"],
        "widthneg": ["dicom_tags"],
        "noframe_meta": ["dicom_tags"],
        "window_8bit_on_12": ["nearly_constant"],
    }
    assert [warning.kind for warning in reading.warnings] == kinds.get(name, [])


@pytest.mark.parametrize(
    ("name", "message"),
    [("palette", "in PALETTE COLOR with 1 sample per pixel"), ("two_frames", "of 2 frames")],
)
def test_cases_that_are_refused_say_why(name, message):
    with pytest.raises(ImageError, match=message):
        read_image(CASES / f"{name}.dcm")


@needs_films
@pytest.mark.parametrize("path", sorted(FILMS.glob("dicom/*.dcm")), ids=lambda path: path.stem)
def test_real_films_look_like_their_previews(path):
    if path.stem == "hip_mono2_10bit_jpeg_extended":
        with pytest.raises(ImageError, match=r"JPEG Extended .* cannot be decoded .* dcmdjpeg"):
            read_image(path)
        return
    for package in ("libjpeg", "openjpeg"):
        pytest.importorskip(package)
    # The previews are spread from their 0.5 to their 99.5 percentile.
    pixels = stretch(dicom.read(path, MAX_PIXELS).pixels, "percentile") / 257
    with Image.open(FILMS / "preview" / f"{path.stem}.png") as preview:
        expected = np.asarray(preview.convert("L"), np.float32)
    small = Image.fromarray(pixels.astype(np.float32)).resize(
        expected.shape[::-1], Image.Resampling.BILINEAR
    )
    assert np.abs(np.asarray(small) - expected).mean() < 1.5


@needs_films
def test_real_films_are_all_there():
    with (FILMS / "labels.csv").open() as file:
        names = {row["path"] for row in csv.DictReader(file)}
    assert len(names) == 16
    assert names == {f"dicom/{path.name}" for path in FILMS.glob("dicom/*.dcm")}


def test_window_functions_at_their_ends_and_centre():
    """PS3.3 C.11.2.1.2.1: centre 2048, width 4096 is the identity on 12 bits."""
    values = np.array([-1.0, 0, 2047.5, 4095, 5000])
    close(window(values, 2048, 4096, "LINEAR"), [0, 0, 0.5, 1, 1])
    close(window(values, 2048, 4096, "LINEAR_EXACT"), [0, 0, 2047.5 / 4096, 4095 / 4096, 1])
    close(window(np.array([0.0, 1, 2]), 1, 1, "LINEAR"), [0, 1, 1])
    close(window(np.array([0.0, 1, 2]), 2, 1, "LINEAR"), [0, 0, 1])
    sigmoid = window(np.array([-1e9, 1000, 1250, 1e9]), 1000, 1000, "SIGMOID")
    close(sigmoid, [0, 0.5, 1 / (1 + np.exp(-1)), 1])


def test_first_of_several_windows_and_unknown_functions(shown):
    several = {"WindowCenter": [1000, 30], "WindowWidth": [1001, 7]}
    close(shown(**several)[0], window(RAMP, 1000, 1001, "LINEAR"))
    pixels, warnings = shown(**several, VOILUTFunction="ODD")
    close(pixels, window(RAMP, 1000, 1001, "LINEAR"))
    assert warnings == ["VOILUTFunction 'ODD' is taken as LINEAR"]


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": None, "WindowWidth": None, "RescaleSlope": None},
        {"RescaleSlope": "-1", "RescaleIntercept": "4095", "PhotometricInterpretation": "x"},
        {"RescaleSlope": "1e6"},
        {"RescaleSlope": "1e-9", "RescaleIntercept": "5"},
    ],
)
def test_empty_elements_and_slopes_of_any_size(shown, tags):
    negative = tags.get("RescaleSlope") == "-1"
    if negative:
        tags = {**tags, "PhotometricInterpretation": "MONOCHROME1"}  # both invert
    pixels, warnings = shown(**tags)
    close(pixels, SPREAD)
    assert not warnings


def test_what_is_not_valid_is_not_applied_and_said(shown):
    pixels, warnings = shown(RescaleSlope="0", RescaleIntercept="7")
    close(pixels, SPREAD)
    assert warnings == ["RescaleSlope 0 is not applied"]
    pixels, warnings = shown(WindowCenter="5")
    close(pixels, SPREAD)
    assert "centre 5, width none" in warnings[0]


def table(descriptor, data, vr="US"):
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [value % 65536 for value in descriptor])
    item.add_new("LUTData", vr, data)
    return [item]


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
@pytest.mark.parametrize("declared", ["as it is", 16])
def test_voi_tables_by_true_index_and_range(shown, depth, declared):
    """Entries of 8 bits in words, and 16 bits declared over fewer."""
    entries = (4095 - np.arange(4096)) * (2**depth - 1) // 4095
    bits = depth if declared == "as it is" else declared
    pixels, _ = shown(VOILUTSequence=table((4096, 0, bits), entries.tolist()))
    close(pixels, entries.reshape(64, 64) / (2**depth - 1))


def test_voi_table_of_bytes_begins_where_it_says(shown):
    entries = np.arange(256, dtype=np.uint8)[::-1].tobytes()
    pixels, warnings = shown(VOILUTSequence=table((256, 1000, 8), entries, "OW"))
    index = np.clip(RAMP.astype(int) - 1000, 0, 255)
    close(pixels, (255 - index) / 255)
    assert not warnings


def test_voi_table_over_negative_values(shown):
    entries = np.arange(4096).tolist()
    tags = {"RescaleSlope": "1", "RescaleIntercept": "-2000"}
    pixels, _ = shown(VOILUTSequence=table((4096, -2000, 12), entries), **tags)
    close(pixels, SPREAD)


def test_tables_that_are_too_short(shown):
    pixels, warnings = shown(VOILUTSequence=table((4096, 0, 12), [1, 2, 3]))
    close(pixels, SPREAD)
    assert warnings == [
        "VOI LUT of 3 entries; its descriptor says 4096: it is not applied",
    ]
    with pytest.raises(ImageError, match="modality LUT of 3 entries; its descriptor says 4096"):
        shown(ModalityLUTSequence=table((4096, 0, 12), [1, 2, 3]))


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
def test_modality_tables_of_any_depth_come_before_the_window(shown, depth):
    white = 2**depth - 1
    entries = white - np.arange(4096) * white // 4095
    pixels, _ = shown(
        ModalityLUTSequence=table((4096, 0, depth), entries.tolist()),
        WindowCenter=str(2 ** (depth - 1)),
        WindowWidth=str(2**depth),
    )
    close(pixels, entries.reshape(64, 64) / white)


def test_enhanced_files_of_one_frame_have_their_values_in_groups(shown):
    shared, frame = pydicom.Dataset(), pydicom.Dataset()
    rescale, voi, outer, measures = (pydicom.Dataset() for _ in range(4))
    rescale.RescaleSlope, rescale.RescaleIntercept = "2", "-100"
    voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = "1000", "1000", "LINEAR_EXACT"
    outer.WindowCenter, outer.WindowWidth = "5", "2"
    measures.PixelSpacing = ["0.1", "0.1"]
    frame.FrameVOILUTSequence = [voi]
    shared.PixelValueTransformationSequence = [rescale]
    shared.PixelMeasuresSequence = [measures]
    shared.FrameVOILUTSequence = [outer]
    pixels, _ = shown(
        NumberOfFrames=1,
        PerFrameFunctionalGroupsSequence=[frame],
        SharedFunctionalGroupsSequence=[shared],
    )
    close(pixels, window(RAMP * 2.0 - 100, 1000, 1000, "LINEAR_EXACT"))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("value", "limit"), [(4095, None), (0, None), (4000, 4095), (10, 0)])
def test_padding_is_black_and_does_not_count(shown, photometric, value, limit):
    tags = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    low, high = sorted((value, value if limit is None else limit))
    pixels, _ = shown(PixelPaddingValue=value, PhotometricInterpretation=photometric, **tags)
    padding = (low <= RAMP) & (high >= RAMP)
    assert (pixels[padding] == 0).all()
    rest = RAMP[~padding].astype(float)
    expected = (rest - rest.min()) / (rest.max() - rest.min())
    close(pixels[~padding], expected if photometric == "MONOCHROME2" else 1 - expected)


@pytest.mark.parametrize(("kind", "vr"), [(np.int16, "US"), (np.uint16, "SS")])
def test_padding_of_the_other_sign_is_meant_as_the_same_bits(shown, kind, vr):
    """Writers take US or SS for it, whatever PixelRepresentation says."""
    pixels = RAMP.astype(kind)
    value = np.array([-2000], np.int16)
    pixels[:8] = value.astype(kind)
    written = value.astype(np.uint16 if vr == "US" else np.int16)[0]
    tag = pydicom.DataElement(0x00280120, vr, int(written))
    seen, _ = shown(pixels, BitsStored=16, extra=tag)
    assert (seen[:8] == 0).all()
    close(seen[8:], (RAMP[8:] - 512) / 3583)


def test_undeclared_padding(shown):
    pixels = RAMP.copy() // 4 + 100
    pixels[:8] = 65535
    tags = {"BitsStored": 16}
    seen, warnings = shown(pixels, **tags)
    assert (seen[:8] == 0).all()
    rest = pixels[8:].astype(float)
    close(seen[8:], (rest - rest.min()) / (rest.max() - rest.min()))
    assert "value 65535 is far from all others and taken for undeclared padding" in warnings[0]
    pixels[:8] = rest.min()
    pixels[3, 3] = 65535  # a spot, not an edge: clipped, not black
    seen, warnings = shown(pixels, **tags)
    assert seen[3, 3] == 1
    close(seen[8:], (rest - rest.min()) / (rest.max() - rest.min()))
    assert "an outlier" in warnings[0]
    signed = RAMP.astype(np.int16) // 4
    signed[:, :5] = -2000
    seen, _ = shown(signed, BitsStored=16)
    assert (seen[:, :5] == 0).all()
    close(seen[:, 5:], (signed[:, 5:] - 1) / 1022)


@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE", None])
def test_monochrome1_is_inverted_once(shown, shape):
    tags = {"PhotometricInterpretation": "MONOCHROME1"}
    if shape:
        tags["PresentationLUTShape"] = shape
    pixels, warnings = shown(**tags)
    close(pixels, 1 - SPREAD)
    assert bool(warnings) == (shape == "IDENTITY")


def test_bits_beside_the_stored_ones_are_masked(shown):
    overlay = (np.arange(4096, dtype=np.uint16).reshape(64, 64) % 7 == 0) * np.uint16(0x8000)
    close(shown(RAMP | overlay)[0], SPREAD)
    close(shown((RAMP << 4) | 5, HighBit=15)[0], SPREAD)
    signed = (RAMP.astype(np.int16) - 2048) & 0x0FFF
    close(shown(signed | overlay.astype(np.int16))[0], SPREAD)


@pytest.mark.parametrize("syntax", [dicom.IMPLICIT_LITTLE, dicom.EXPLICIT_LITTLE, dicom.DEFLATED])
def test_uncompressed_transfer_syntaxes(shown, syntax):
    close(shown(syntax=syntax)[0], SPREAD)


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint8])
def test_big_endian(tmp_path, kind):
    pixels = RAMP.astype(kind)
    made = dataset(pixels, BitsStored=8 if kind == np.uint8 else 12)
    made.PixelData = pixels.astype(np.dtype(kind).newbyteorder(">")).tobytes()
    made["PixelData"].VR = "OB" if kind == np.uint8 else "OW"
    path = write(tmp_path / "x.dcm", made, dicom.EXPLICIT_BIG)
    close(read_image(path, bits=16) / 65535, pixels / pixels.max())


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"},
            "DICOM file of RT Dose; expected a pict",
        ),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "DICOM file of Segmentation"),
        ({"Modality": "RTDOSE"}, "DICOM file of RTDOSE"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "in RGB with 3 samples"),
        ({"PhotometricInterpretation": ""}, "in no photometric interpretation"),
        ({"NumberOfFrames": 3}, "of 3 frames; expected one"),
        ({"BitsAllocated": 1}, "1 bits allocated"),
        ({"Rows": 60000, "Columns": 60000}, "60000x60000 pixels: refused as a possible bomb"),
        ({"Rows": 128}, "truncated: 8,192 bytes of pixels, 64x128 pixels need 16,384"),
    ],
)
def test_what_is_no_gray_picture_is_refused_with_the_reason(shown, tags, message):
    with pytest.raises(ImageError, match=message):
        shown(**tags)


def test_a_deflated_bomb_is_refused_without_being_inflated(tmp_path):
    import tracemalloc

    content = write(tmp_path / "x.dcm", dataset(), dicom.DEFLATED).read_bytes()
    end, _ = dicom._meta_end(content)
    body = bytearray(zlib.decompress(content[end:], -zlib.MAX_WBITS))
    at = body.rfind(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    squeezed = squeeze.compress(bytes(body[: at + 8]) + struct.pack("<I", 1 << 30))
    squeezed += squeeze.flush(zlib.Z_FULL_FLUSH)  # after which equal blocks are equal bytes
    block = squeeze.compress(bytes(1 << 24)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    squeezed += 64 * block + squeeze.flush()
    (tmp_path / "bomb.dcm").write_bytes(content[:end] + squeezed)
    assert (tmp_path / "bomb.dcm").stat().st_size < 2 << 20
    tracemalloc.start()
    with pytest.raises(ImageError, match="refused as a possible bomb"):
        read_image(tmp_path / "bomb.dcm")
    assert tracemalloc.get_traced_memory()[1] < 400 << 20
    tracemalloc.stop()


def test_a_compressed_image_larger_than_the_header_says_is_refused(tmp_path):
    import io

    from pydicom.encaps import encapsulate

    large = io.BytesIO()
    Image.fromarray(np.zeros((640, 640), np.uint8)).save(large, "JPEG")
    made = dataset(np.zeros((64, 64), np.uint8))
    made.PixelData = encapsulate([large.getvalue()])
    made["PixelData"].VR = "OB"
    path = write(tmp_path / "x.dcm", made, "1.2.840.10008.1.2.4.50")
    with pytest.raises(ImageError, match="compressed image of 640x640 pixels; the header says 64x"):
        read_image(path)


def test_a_missing_transfer_syntax_is_told_from_the_codestream(tmp_path):
    import io

    from pydicom.encaps import encapsulate

    pixels = np.linspace(0, 255, 4096).round().astype(np.uint8).reshape(64, 64)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    made = dataset(pixels)
    made.PixelData = encapsulate([stream.getvalue()])
    made["PixelData"].VR = "OB"
    path = write(tmp_path / "x.dcm", made, "1.2.840.10008.1.2.4.50")
    content = path.read_bytes()
    end, _ = dicom._meta_end(content)
    (tmp_path / "bare.dcm").write_bytes(content[end:])
    reading = examine_image(tmp_path / "bare.dcm")
    assert np.abs(reading.pixels.astype(int) - pixels).max() <= 4
    assert "read as JPEG Baseline (Process 1)" in reading.warnings[0].message


def test_a_missing_decoder_is_named_with_the_command(tmp_path, monkeypatch):
    pytest.importorskip("libjpeg")
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import JPEGLosslessSV1Decoder

    header = b"\xff\xd8\xff\xc3\x00\x0b\x0c" + struct.pack(">HH", 64, 64) + b"\x01\x01\x11\x00"
    made = dataset()
    made.PixelData = encapsulate([header + b"\xff\xda\x00\x01\xff\xd9"])
    made["PixelData"].VR = "OB"
    path = write(tmp_path / "x.dcm", made, "1.2.840.10008.1.2.4.70")
    with pytest.raises(ImageError) as damaged:
        read_image(path)
    assert str(damaged.value).endswith("store it uncompressed: dcmdjpeg FILE NEW_FILE")
    monkeypatch.setattr(JPEGLosslessSV1Decoder, "_available", {})
    with pytest.raises(ImageError) as missing:
        read_image(path)
    assert str(missing.value).endswith("another package: pip install 'medcolor_tf[dicom]'")


@pytest.mark.parametrize(
    ("tags", "shape"),
    [
        ({"PixelSpacing": ["0.2", "0.1"]}, (32, 16)),
        ({"PixelSpacing": ["0.1", "0.2"]}, (16, 32)),
        ({"PixelAspectRatio": ["2", "1"]}, (32, 16)),
        ({"ImagerPixelSpacing": ["0.1", "0.1005"]}, (16, 16)),
        ({"PixelSpacing": ["0", "0"], "PixelAspectRatio": ["1", "2"]}, (16, 32)),
    ],
)
def test_pixels_that_are_not_square_are_resampled(tmp_path, tags, shape):
    path = write(tmp_path / "x.dcm", dataset(**tags))
    reading = examine_image(path, 16, 16)
    assert reading.pixels.shape == shape
    kinds = [warning.kind for warning in reading.warnings]
    assert ("not_square" in kinds) == (shape != (16, 16))
    assert examine_image(path, None, 16).pixels.shape == tuple(
        4 * n // min(shape) * 16 for n in shape
    )
    across = np.abs(np.diff(reading.pixels.mean(0))).mean()
    assert across < 65535 / 16  # the ramp still goes down, not across


def test_burned_in_annotations_are_warned_of(tmp_path):
    path = write(tmp_path / "x.dcm", dataset(BurnedInAnnotation="YES"))
    assert [warning.kind for warning in examine_image(path).warnings] == ["burned_in"]


def test_values_of_more_than_17_bits(shown):
    pixels = RAMP.astype(np.uint32) * 100_000
    close(shown(pixels, BitsStored=32)[0], SPREAD)
    assert pixels.max() > dicom_display.LONGEST_TABLE


def test_damage_inside_a_jpeg_of_a_dicom_file_is_found(tmp_path):
    from pydicom.encaps import encapsulate

    stream = (CASES.parent / "images" / "damaged.jpg").read_bytes()
    made = dataset(np.zeros((64, 64), np.uint8))
    made["PixelData"].VR = "OB"
    for content in (stream, stream[:-40]):
        made.PixelData = encapsulate([content])
        path = write(tmp_path / "x.dcm", made, "1.2.840.10008.1.2.4.50")
        with pytest.raises(ImageError, match=r"damaged|truncated"):
            read_image(path)
