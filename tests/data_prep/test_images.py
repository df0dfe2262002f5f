import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from data_prep.images import (
    FORMATS,
    IMAGE_SUFFIXES,
    ImageError,
    decode_image,
    encode_image,
    examine_image,
    read_image,
    target_size,
)
from data_prep.levels import ImageWarning, inversion_warnings, level_warnings, stretch
from medcolor_tf.errors import InputError

CASES = Path(__file__).parent / "cases" / "images"
XRAYS = Path(__file__).parents[3] / "shared" / "xray"
RAMP8 = np.arange(256, dtype=np.uint8).reshape(8, 32)
RAMP16 = (np.arange(8 * 32, dtype=np.uint16) * 257 + 3).clip(0, 65535).reshape(8, 32)


def save(tmp_path, image, name="x.png", **options):
    path = tmp_path / name
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_gray_in_any_mode_keeps_its_values(tmp_path, mode):
    image = Image.fromarray(RAMP8).convert(mode)
    np.testing.assert_array_equal(read_image(save(tmp_path, image)), RAMP8)


def test_colour_is_itu_601_also_through_a_palette(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    expected = [[76, 150, 29, 255]]  # 0.299, 0.587, 0.114
    image = Image.fromarray(colours)
    assert read_image(save(tmp_path, image)).tolist() == expected
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    assert read_image(save(tmp_path, palette, "p.png")).tolist() == expected


def test_one_bit_and_cmyk(tmp_path):
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert read_image(save(tmp_path, bits)).tolist() == [[0, 255], [255, 0]]
    cmyk = Image.new("CMYK", (4, 4), (0, 0, 0, 255))
    assert read_image(save(tmp_path, cmyk, "c.tif")).max() == 0


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_sixteen_bits_are_kept_or_scaled(tmp_path, name):
    path = save(tmp_path, RAMP16, name)
    pixels = read_image(path, bits=16)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, RAMP16)
    np.testing.assert_array_equal(read_image(path, bits=8), np.rint(RAMP16 / 257))


def test_big_endian_sixteen_bits(tmp_path):
    image = Image.frombytes("I;16B", (32, 8), RAMP16.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(save(tmp_path, image, "b.tif"), bits=16), RAMP16)


def test_eight_bits_become_sixteen_by_257(tmp_path):
    pixels = read_image(save(tmp_path, RAMP8), bits=16)
    np.testing.assert_array_equal(pixels, RAMP8.astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 80), (32, 40)), ((80, 64), (40, 32)), ((16, 20), (32, 40))]
)
@pytest.mark.parametrize("bits", [8, 16])
def test_short_side_up_and_down(tmp_path, size, expected, bits):
    path = save(tmp_path, np.full(size, 200, np.uint8))
    pixels = read_image(path, 32, bits)
    assert pixels.shape == expected
    assert (pixels == 200 * (257 if bits == 16 else 1)).all()


def test_resize_is_antialiased(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    pixels = read_image(save(tmp_path, stripes), 16).astype(float)
    assert np.abs(pixels[:, 2:-2] - 127.5).max() < 8


def test_sixteen_bit_resize_is_finer_than_eight(tmp_path):
    ramp = np.linspace(1000, 1500, 64 * 64).reshape(64, 64).astype(np.uint16)
    small = read_image(save(tmp_path, ramp), 32, 16)
    assert len(np.unique(small)) > 100


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    path = save(tmp_path, RAMP8, exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(RAMP8, -1))


def test_unreadable_files_say_why(tmp_path):
    jpeg = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(jpeg, "JPEG")
    png = io.BytesIO()
    Image.fromarray(noise).save(png, "PNG")
    files = {
        "cut.jpg": (jpeg.getvalue()[:1500], "truncated"),
        "cut.png": (png.getvalue()[:1500], "truncated|broken"),
        "empty.png": (b"", "empty file"),
        "text.png": (b"this is no image", "not an image"),
    }
    for name, (content, reason) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=reason):
            read_image(tmp_path / name)
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="floating-point"):
        read_image(save(tmp_path, np.zeros((4, 4), np.float32), "f.tif"))
    frames = [Image.fromarray(RAMP8), Image.fromarray(255 - RAMP8)]
    frames[0].save(tmp_path / "two.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="2 frames"):
        read_image(tmp_path / "two.tif")


def test_bombs_are_refused(tmp_path):
    strip = save(tmp_path, np.zeros((1, 5000), np.uint8))
    with pytest.raises(ImageError, match="too large"):
        read_image(strip, 320)
    png = bytearray((tmp_path / "x.png").read_bytes())
    png[16:24] = (40000).to_bytes(4, "big") * 2  # the header claims 1.6 gigapixels
    (tmp_path / "bomb.png").write_bytes(png)
    with pytest.raises(ImageError):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(("encoding", "bits"), [("png", 8), ("png", 16), ("raw", 8), ("raw", 16)])
def test_lossless_encodings_round_trip(encoding, bits):
    pixels = RAMP16 if bits == 16 else RAMP8
    content = encode_image(pixels, encoding)
    np.testing.assert_array_equal(decode_image(content, encoding, (8, 32), bits), pixels)
    with pytest.raises(ImageError):
        decode_image(content, encoding, (9, 32), bits)


def test_jpeg_quality_matters():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    sizes = [len(encode_image(noise, "jpeg", quality)) for quality in (30, 95)]
    assert sizes[0] < sizes[1]
    decoded = decode_image(encode_image(noise, "jpeg", 95), "jpeg", (64, 64), 8)
    assert np.abs(decoded.astype(int) - noise).mean() < 6


def make_dicom(path, pixels, **tags):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.UID("1.2.840.10008.5.1.4.1.1.1")
    meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.3")
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_dicom_window_rescale_and_inversion(tmp_path):
    pixels = np.array([[0, 500, 1000], [2000, 3000, 4000]], np.uint16)
    window = {"WindowCenter": 1000.5, "WindowWidth": 1001, "RescaleSlope": 1, "RescaleIntercept": 0}
    path = make_dicom(tmp_path / "a.dcm", pixels, **window)
    expected = np.array([[0, 0, 0.5], [1, 1, 1]])
    np.testing.assert_allclose(read_image(path, bits=16) / 65535, expected, atol=1e-4)
    shifted = make_dicom(tmp_path / "b.dcm", pixels, **{**window, "RescaleIntercept": 500})
    np.testing.assert_allclose(read_image(shifted, bits=16)[0] / 65535, [0, 0.5, 1], atol=1e-4)
    inverted = make_dicom(
        tmp_path / "c", pixels, **window, PhotometricInterpretation="MONOCHROME1"
    )  # found by its magic, without the suffix
    np.testing.assert_allclose(read_image(inverted, bits=16) / 65535, 1 - expected, atol=1e-4)
    plain = make_dicom(tmp_path / "d.dcm", pixels)
    np.testing.assert_allclose(read_image(plain, bits=8), np.rint(pixels / 4000 * 255), atol=1)


def test_dicom_without_pydicom_says_what_to_install(tmp_path, monkeypatch):
    path = make_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"pip install medcolor_tf\[dicom\]"):
        read_image(path)


def test_damaged_dicom_is_an_image_error(tmp_path):
    pytest.importorskip("pydicom")
    (tmp_path / "bad.dcm").write_bytes(b"\0" * 300)
    with pytest.raises(ImageError):
        read_image(tmp_path / "bad.dcm")


def picture(height, width):
    """A smooth field with sharp bars and grain, as (H, W) uint8."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.uniform(40, 215, (9, 11)).astype(np.float32))
    pixels = np.array(small.resize((width, height), Image.Resampling.BICUBIC))
    pixels[height // 3 : height // 3 + 150, 80 : width // 2] = 250
    pixels[height // 3 + 40 : height // 3 + 90, 140 : width // 2 : 60] = 5
    return np.clip(np.rint(pixels + rng.normal(0, 3, pixels.shape)), 0, 255).astype(np.uint8)


def decoded_sizes(monkeypatch):
    """The list that gets the size of every image that is resized."""
    sizes, real = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, *a, **k: sizes.append(self.size) or real(self, *a, **k)
    )
    return sizes


def full_decode(path, short_side):
    image = Image.open(path).convert("L")
    height, width = target_size(image.height, image.width, short_side)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).astype(int)


@pytest.mark.parametrize(
    ("short_side", "mode", "reduced"),
    [(43, "L", (390, 347)), (86, "L", (390, 347)), (230, "L", (779, 693)), (86, "RGB", (390, 347))],
)
def test_large_jpegs_are_decoded_at_reduced_scale(tmp_path, monkeypatch, short_side, mode, reduced):
    """Odd sizes too: without its box, the last part of a pixel would shift the picture."""
    image = Image.fromarray(picture(1385, 1557)).convert(mode)
    path = save(tmp_path, image, "large.jpg", quality=92)
    expected = full_decode(path, short_side)
    sizes = decoded_sizes(monkeypatch)
    pixels = read_image(path, short_side)
    assert pixels.shape == expected.shape
    assert sizes[0] == reduced
    difference = np.abs(pixels - expected)
    assert difference.mean() < 0.25  # what rounding to 8 bits makes
    assert difference.max() <= 4
    assert abs((pixels - expected).mean()) < 0.1


def test_what_would_lose_something_is_decoded_in_full(tmp_path, monkeypatch):
    pixels = picture(640, 720)
    path = save(tmp_path, pixels, "x.jpg", quality=92)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = save(tmp_path, pixels, "turned.jpg", quality=92, exif=exif)
    cmyk = save(tmp_path, Image.fromarray(pixels).convert("CMYK"), "c.jpg", quality=92)
    png = save(tmp_path, pixels)
    sizes = decoded_sizes(monkeypatch)
    np.testing.assert_array_equal(read_image(path, 107), full_decode(path, 107))
    for file, size in ((turned, (640, 720)), (cmyk, (720, 640)), (png, (720, 640))):
        sizes.clear()
        read_image(file, 64)
        assert sizes[0] == size, file
    sizes.clear()
    read_image(path, 64, bits=16)
    assert sizes[0] == (720, 640)
    assert read_image(path).shape == (640, 720)


def test_a_cut_jpeg_is_refused_at_reduced_scale_too(tmp_path):
    content = save(tmp_path, picture(640, 720), "x.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match="truncated"):
        read_image(tmp_path / "cut.jpg", 64)


def test_png_is_encoded_by_run_lengths():
    """Not byte for byte what Pillow makes by default, but no larger where it matters: X-rays."""
    pixels = picture(320, 390)
    default = io.BytesIO()
    Image.fromarray(pixels).save(default, "PNG")
    content = encode_image(pixels, "png")
    assert content != default.getvalue()
    assert len(content) < 1.05 * len(default.getvalue())


def write_dicom(path, pixels):
    make_dicom(path, np.rint(pixels / 255 * 4095).astype(np.uint16))


def saved_as(plugin, **options):
    return lambda path, pixels: Image.fromarray(pixels).save(path, plugin, **options)


# Format -> (what writes 8-bit gray pixels as such a file, largest difference when they are read).
SAMPLES = {
    "DICOM": (write_dicom, 1),  # through 12 bits
    "PNG": (saved_as("PNG"), 0),
    "JPEG": (saved_as("JPEG", quality=95), 4),
    "TIFF": (saved_as("TIFF"), 0),
    "BMP": (saved_as("BMP"), 0),
    "WebP": (saved_as("WEBP", lossless=True), 0),
    "GIF": (saved_as("GIF"), 0),
    "PNM": (saved_as("PPM"), 0),
    "JPEG 2000": (saved_as("JPEG2000"), 0),
}


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_format_is_known_by_its_first_bytes(tmp_path, form):
    if form.name not in SAMPLES:
        pytest.fail(f"write a sample of {form.name} above")
    write, tolerance = SAMPLES[form.name]
    pixels = np.linspace(0, 255, 24 * 32).reshape(24, 32).round().astype(np.uint8)
    for name in ("x", "x.txt", *(f"x{suffix}" for suffix in IMAGE_SUFFIXES)):
        write(tmp_path / name, pixels)
        difference = read_image(tmp_path / name).astype(int) - pixels
        assert np.abs(difference).max() <= tolerance, name
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ImageError):
            read_image(tmp_path / name)
        (tmp_path / name).unlink()
    assert form.suffixes
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in form.suffixes)


def test_no_two_formats_share_a_suffix():
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)


def test_a_dicom_file_may_begin_as_a_tiff_file(tmp_path):
    """The preamble may hold a TIFF's header, for programs that know no DICOM."""
    write_dicom(tmp_path / "x.tif", RAMP8)
    content = bytearray((tmp_path / "x.tif").read_bytes())
    content[:4] = b"II*\0"
    (tmp_path / "x.tif").write_bytes(content)
    assert np.abs(read_image(tmp_path / "x.tif").astype(int) - RAMP8).max() <= 1


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize("name", ["x.png", "x.eps", "x.dcm.jpg", "x"])
def test_postscript_is_never_opened(tmp_path, monkeypatch, name):
    """Pillow would hand it to Ghostscript, whatever its name."""
    ran = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **kwargs: ran.append(args))
    path = tmp_path / name
    path.write_bytes(POSTSCRIPT)
    with Image.open(path) as image:
        assert image.format == "EPS"
    with pytest.raises(ImageError, match="not an image file: expected DICOM, PNG, JPEG, TIFF"):
        read_image(path)
    assert not ran


@pytest.mark.parametrize("plugin", ["TGA", "PCX", "ICO", "SGI", "DDS"])
def test_other_formats_of_pillow_are_not_read(tmp_path, plugin):
    Image.fromarray(RAMP8).convert("RGB").save(tmp_path / "x.png", plugin)
    with pytest.raises(ImageError, match="not an image file"):
        read_image(tmp_path / "x.png")


def test_a_file_that_only_begins_well_says_so(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff and text")
    with pytest.raises(
        ImageError, match="begins as a JPEG file does, but is damaged or of a kind that is not read"
    ):
        read_image(tmp_path / "x.jpg")


SQUARE_RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)  # what most of the cases show


@pytest.mark.parametrize(
    "name",
    [
        *("cmyk.jpg", "gray16.png", "gray8.png", "gray8_whiteiszero.tif", "jpeg_named.png"),
        *("palette.png", "rgba.png"),
    ],
)
def test_ordinary_cases_are_read_without_a_warning(name):
    reading = examine_image(CASES / name)
    assert not reading.warnings
    assert np.abs(reading.pixels.astype(int) - SQUARE_RAMP // 16).max() <= 16


def test_white_is_zero_at_sixteen_bits_is_inverted_as_at_eight(tmp_path):
    """Pillow writes what it is given at 16 bits, and at 8 the negative, which it inverts again."""
    for dtype, bits, white in ((np.uint8, 8, 255), (np.uint16, 16, 65535)):
        ramp = np.linspace(0, white, 256).round().astype(dtype).reshape(16, 16)
        path = save(tmp_path, ramp, "w.tif", tiffinfo={262: 0})
        with TiffImagePlugin.TiffImageFile(path) as image:
            stored = np.frombuffer(path.read_bytes(), dtype, 256, image.tag_v2[273][0])
        pixels = read_image(path, bits=bits)
        np.testing.assert_array_equal(pixels.ravel(), white - stored)
    np.testing.assert_array_equal(
        read_image(CASES / "gray16_whiteiszero.tif", bits=16),
        65535 - np.asarray(Image.open(CASES / "gray16_whiteiszero.tif")).astype(np.uint16),
    )


def test_a_png_with_a_wrong_check_sum_is_rejected(tmp_path):
    """Pillow compares those of the other chunks, not that of the pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8)
    path = save(tmp_path, Image.fromarray(noise), "a.png")
    content = bytearray(path.read_bytes())
    assert np.array_equal(read_image(path), noise)
    content[800] ^= 1
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"PNG is damaged \(wrong check sum of the pixels at "):
        read_image(path)


@pytest.mark.parametrize("short_side", [None, 16, 64])
def test_jpegs_with_decoder_warnings_are_rejected(tmp_path, short_side):
    with pytest.raises(ImageError, match=r"JPEG is damaged .*premature end of data segment"):
        read_image(CASES / "damaged.jpg", short_side)
    gray = Image.fromarray(picture(640, 720))
    for name, image in (("l.jpg", gray), ("rgb.jpg", gray.convert("RGB"))):
        content = bytearray(save(tmp_path, image, name, quality=92).read_bytes())
        assert not examine_image(tmp_path / name, short_side).warnings
        content[len(content) // 2 : len(content) // 2 + 2] = b"\xff\xd5"  # a stray marker
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match="JPEG is damaged"):
            read_image(tmp_path / name, short_side)


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"subsampling": 0},
        {"subsampling": 1},
        {"keep_rgb": True},
        {"restart_marker_blocks": 3},
        {"optimize": True},
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_kind_of_whole_jpeg_is_read_as_pillow_reads_it(tmp_path, mode, options):
    image = Image.fromarray(picture(203, 311)).convert(mode)
    path = save(tmp_path, image, "x.jpg", **options)
    with Image.open(path) as opened:
        rgb = opened if mode == "L" else opened.convert("RGB")
        np.testing.assert_array_equal(read_image(path), np.asarray(rgb.convert("L")))


def kinds(reading):
    return [warning.kind for warning in reading.warnings]


def test_constant_and_nearly_constant_pictures_are_warned_of(tmp_path):
    assert kinds(examine_image(CASES / "black.png")) == ["constant"]
    for bits, dtype, white in ((8, np.uint8, 255), (16, np.uint16, 65535)):
        pixels = np.full((64, 64), white, dtype)
        pixels[:6] = 0  # 9.4 %
        assert kinds(examine_image(save(tmp_path, pixels), bits=bits)) == ["nearly_constant"]
        pixels[6] = 0  # 10.9 %
        assert "nearly_constant" not in kinds(examine_image(save(tmp_path, pixels), bits=bits))
    flat = np.tile(np.array([100, 101, 102], np.uint8), (64, 22))
    assert kinds(examine_image(save(tmp_path, flat))) == ["nearly_constant"]


def test_a_small_range_is_warned_of_and_can_be_spread(tmp_path):
    path = CASES / "gray12in16.png"
    reading = examine_image(path)
    assert kinds(reading) == ["small_range"]
    assert "only 1/16 of the range 0 to 65535" in reading.warnings[0].message
    assert len(np.unique(reading.pixels)) == 17
    used = examine_image(path, pixel_range="used")
    assert kinds(used) == ["small_range"]
    np.testing.assert_array_equal(used.pixels, np.rint(SQUARE_RAMP / 4095 * 255))
    np.testing.assert_allclose(
        read_image(path, bits=16, pixel_range="used"), SQUARE_RAMP / 4095 * 65535, atol=0.5
    )
    low, high = np.percentile(SQUARE_RAMP, (0.5, 99.5))
    expected = np.clip((SQUARE_RAMP - low) / (high - low), 0, 1) * 65535
    spread = read_image(path, bits=16, pixel_range="percentile")
    np.testing.assert_allclose(spread, expected, atol=0.5)
    eighth = np.arange(64, dtype=np.uint8).repeat(64).reshape(64, 64) // 2
    assert kinds(examine_image(save(tmp_path, eighth))) == ["small_range"]  # 31 of 255
    assert not kinds(examine_image(save(tmp_path, eighth + np.arange(64, dtype=np.uint8) // 63)))


def test_pixels_without_an_image_do_not_count_in_the_range():
    pixels = np.array([[0, 0, 100, 300]], np.uint16)
    ignored = np.array([[True, True, False, False]])
    assert stretch(pixels, "used", ignored).tolist() == [[0, 0, 0, 65535]]
    assert stretch(pixels, "used", np.ones_like(ignored)) is pixels
    assert stretch(pixels, "full") is pixels
    constant = np.full((2, 2), 7, np.uint8)
    assert stretch(constant, "used") is constant


def film():
    """A bright body, brighter within, before dark air, with shaded edges."""
    across = np.linspace(-1, 1, 96)
    radius = np.hypot(across[:, None], across[None])
    return (235 * np.clip(1.1 - radius**2, 0, 1) + 10).astype(np.uint8)


def test_negatives_are_warned_of(tmp_path):
    assert not inversion_warnings(film())
    (warning,) = inversion_warnings(255 - film())
    assert isinstance(warning, ImageWarning)
    assert warning.kind == "inverted"
    assert kinds(examine_image(save(tmp_path, 255 - film()), 32)) == ["inverted"]
    wide = (255 - film()).astype(np.uint16) * 257
    assert [w.kind for w in inversion_warnings(wide)] == ["inverted"]
    assert not inversion_warnings(np.full((64, 64), 3, np.uint8))


@pytest.mark.skipif(not XRAYS.is_dir(), reason="no real X-rays beside the checkout")
@pytest.mark.parametrize(("folder", "share"), [("kermany", 0.005), ("nih1000", 0.015)])
def test_few_real_films_are_taken_for_negatives(folder, share):
    paths = sorted((XRAYS / folder / "images").glob("*.jpg"))[:400]
    images = [read_image(path, 64) for path in paths]
    warned = sum(bool(inversion_warnings(image)) for image in images)
    assert warned <= share * len(paths)
    found = sum(bool(inversion_warnings(255 - image)) for image in images)
    assert found >= 0.6 * len(paths)
    assert not any(level_warnings(image) for image in images)


@pytest.mark.skipif(not XRAYS.is_dir(), reason="no real X-rays beside the checkout")
def test_the_inverted_knees_are_found():
    folder = XRAYS / "knee_oa" / "images"
    inverted = ("o00075_L", "o00303_R", "o00488_L", "o00605_R", "o00923_R", "o01143_L")
    upright = ("o00001_L", "o00635_R", "o01034_R", "o00002_L")
    for name in inverted + upright:
        reading = examine_image(folder / f"{name}.jpg", 112)
        assert ("inverted" in kinds(reading)) == (name in inverted), name
