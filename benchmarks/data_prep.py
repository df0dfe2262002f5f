"""Data preparation beside a plain Pillow loop: ``python -m benchmarks.data_prep speed``.

``speed`` compares the seconds of a core that large JPEGs take, ``accuracy`` what decoding at
reduced scale loses, ``memory`` the peak of builds of different sizes. Pictures are drawn phantoms
with grain, and with --images=FOLDER those of a folder, enlarged. Run it from the repository root.
"""

import io
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_prep import phantom, raster
from data_prep.images import encode_image, read_image, target_size
from medcolor_tf import commandline
from medcolor_tf.commandline import option

WORKERS = 2
SHORT_SIDE = 320
GRAIN = 3.0  # standard deviation of the noise on the pictures, in gray levels
BILINEAR, LANCZOS = Image.Resampling.BILINEAR, Image.Resampling.LANCZOS
MEASURE = """
import json, resource, sys, threading, time
from benchmarks import worker
from data_prep import build
peaks = {"0": 0}

def watch():  # ru_maxrss of a child is never less than its parent had when it started the child
    while True:
        for child in worker.children():
            now = worker.kibibytes(f"{child}/status", ("VmHWM",))
            peaks[child] = max(peaks.get(child, 0), now)
        time.sleep(0.02)

threading.Thread(target=watch, daemon=True).start()
status = build.main(sys.argv[1:])
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([status, own, max(peaks.values())]))
"""


@dataclass(frozen=True)
class BenchConfig:
    """Options of the measurement."""

    what: str = option(
        "", "What to measure.", ("speed", "accuracy", "memory"), required=True, positional=True
    )
    images: str = option("", "Folder with pictures to enlarge and use beside the phantoms.")
    pictures: int = option(3, "Pictures of each kind.")
    side: int = option(2320, "Short side of the pictures; CheXpert's are about 2320 x 2828.")
    quality: int = option(92, "JPEG quality of the pictures of `speed`.")
    short_side: int = option(SHORT_SIDE, "Wanted short side of `speed`.")
    rounds: int = option(7, "Interleaved rounds of `speed`.")
    counts: tuple[str, ...] = option(("1000", "10000"), "Numbers of images of `memory`.")


def bench(config: BenchConfig) -> None:
    """Runs the measurement that was asked for and prints its table."""
    {"speed": speed, "accuracy": accuracy, "memory": memory}[config.what](config)


def grainy_phantoms(
    count: int, short_side: int, rng: np.random.Generator | None = None
) -> Iterator[np.ndarray]:
    """Yields (H, W) uint8 phantoms with grain."""
    rng = rng or np.random.default_rng(0)
    options = phantom.PhantomConfig(out="-", images=max(4, count), short_side=short_side)
    for _, _, pixels in itertools.islice(phantom.draw_all(options), count):
        yield _with_grain(pixels, rng)


def draw_pictures(config: BenchConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, (H, W) uint8): phantoms, and enlarged pictures with letters on them."""
    rng = np.random.default_rng(0)
    for pixels in grainy_phantoms(config.pictures, config.side, rng):
        yield "phantom", pixels
    files = sorted(Path(config.images).iterdir())[::100] if config.images else []
    for file in files[: config.pictures]:
        image = Image.open(file).convert("L")
        height, width = target_size(image.height, image.width, config.side + 507)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        font = ImageFont.load_default(100)
        ImageDraw.Draw(image).text((150, 200), "L  AP PORTABLE", fill=255, font=font)
        yield "enlarged", _with_grain(np.asarray(image), rng)


def _with_grain(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noisy = pixels + rng.normal(0, GRAIN, pixels.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def plain(path: Path, short_side: int, resampling) -> bytes:
    """One picture as a script with Pillow does it."""
    image = Image.open(path).convert("L")
    scale = short_side / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    buffer = io.BytesIO()
    image.resize((width, height), resampling).save(buffer, "PNG")
    return buffer.getvalue()


def thumbnail(path: Path, short_side: int) -> bytes:
    """One picture by Pillow's own short cut, for those who know it; it loses more."""
    image = Image.open(path)
    scale = short_side / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image.thumbnail((width, height), BILINEAR)
    buffer = io.BytesIO()
    image.convert("L").save(buffer, "PNG")
    return buffer.getvalue()


def ours(path: Path, short_side: int) -> bytes:
    """One picture as data_prep.build does it."""
    return encode_image(read_image(path, short_side), "png")


def ways(short_side: int) -> dict[str, Callable[[Path], bytes]]:
    """Returns what is compared by `speed`, each a function of a file."""
    return {
        "plain, LANCZOS": lambda path: plain(path, short_side, LANCZOS),
        "plain, BILINEAR": lambda path: plain(path, short_side, BILINEAR),
        "plain, thumbnail()": lambda path: thumbnail(path, short_side),
        "data_prep": lambda path: ours(path, short_side),
        # What no way around Pillow's decoder can be faster than: the entropy decoding.
        "decode at 1/8 only": _decode_at_eighth,
    }


def save_pictures(config: BenchConfig, folder: Path) -> tuple[list[Path], list[str]]:
    """Draws the pictures into JPEG files; returns their paths and kinds."""
    paths, kinds = [], []
    for number, (kind, pixels) in enumerate(draw_pictures(config)):
        paths.append(folder / f"{number}.jpg")
        kinds.append(kind)
        Image.fromarray(pixels).save(paths[-1], quality=config.quality)
    return paths, kinds


def speed(config: BenchConfig) -> None:
    """Prints milliseconds of a core a picture, and ratios of interleaved rounds."""
    compared = ways(config.short_side)
    with tempfile.TemporaryDirectory() as folder:
        paths, kinds = save_pictures(config, Path(folder))
        times = {kind: {name: [] for name in compared} for kind in dict.fromkeys(kinds)}
        for _ in range(config.rounds):
            for kind in times:
                for name, way in compared.items():
                    chosen = [path for path, of in zip(paths, kinds, strict=True) if of == kind]
                    begin = time.process_time()
                    bytes_made = sum(len(way(path)) for path in chosen)
                    seconds = (time.process_time() - begin) / len(chosen)
                    times[kind][name].append((seconds * 1e3, bytes_made / len(chosen)))
        for kind, found in times.items():
            sizes = [p.stat().st_size for p, of in zip(paths, kinds, strict=True) if of == kind]
            print(f"{kind}: {statistics.mean(sizes) / 1e6:.2f} MB a file")
            _print_speed(found)


def _decode_at_eighth(path: Path) -> bytes:
    image = Image.open(path)
    image.draft(None, (image.width // 8, image.height // 8))
    image.load()
    return b""


def _print_speed(found: dict[str, list[tuple[float, float]]]) -> None:
    own = [milliseconds for milliseconds, _ in found["data_prep"]]
    print(f"  {'':20} {'ms a core':>10} {'of data_prep':>22} {'kB':>6}")
    for name, rounds in found.items():
        ratios = [other / mine for (other, _), mine in zip(rounds, own, strict=True)]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        milliseconds = statistics.median(value for value, _ in rounds)
        spread = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        print(f"  {name:20} {milliseconds:10.1f} {spread:>22} {rounds[0][1] / 1e3:6.0f}")


def accuracy(config: BenchConfig) -> None:
    """Prints errors against the uncompressed picture, reduced in floating point."""
    print("margin: least reduced pixels a pixel of the result; errors in gray levels")
    margins = {"full": {}, "ours": raster.REDUCED_MARGIN}
    margins |= {f"{m} x": dict.fromkeys((8, 4, 2), m) for m in (1, 2, 3, 4)}
    found: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    pictures = list(draw_pictures(config))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jpg"
        for _, pixels in pictures:
            for quality in (90, 95):
                Image.fromarray(pixels).save(path, quality=quality)
                for short_side in (64, 128, 160, 224, 320, 512):
                    for row in _errors(path, pixels, short_side, margins):
                        found.setdefault(row[:2], []).append(row[2:])
    header = ("from full: mean", "max", "from picture: PSNR mean", "least", "max")
    print(f"{'margin':8} {'scale':>5} {'n':>4} " + " ".join(f"{h:>16}" for h in header))
    for (name, scale), rows in sorted(found.items()):
        mean, most, psnr, worst = np.array(rows).T
        cells = (mean.mean(), most.max(), psnr.mean(), psnr.min(), worst.max())
        text = " ".join(f"{cell:16.2f}" for cell in cells)
        print(f"{name:8} {f'1/{scale}':>5} {len(rows):4} {text}")


def _errors(path: Path, pixels: np.ndarray, short_side: int, margins: dict) -> Iterator[tuple]:
    """Yields (margin, scale, mean and max of |x - full|, PSNR to the picture, its max error)."""
    height, width = target_size(pixels.shape[0], pixels.shape[1], short_side)
    exact = Image.fromarray(pixels.astype(np.float32)).resize((width, height), BILINEAR)
    kept, full = raster.REDUCED_MARGIN, None
    try:
        for name, margin in margins.items():
            raster.REDUCED_MARGIN = margin
            with Image.open(path) as image:
                scale = raster.reduced_scale(image, short_side)
            result = read_image(path, short_side).astype(float)
            full = result if full is None else full
            error = result - np.asarray(exact)
            psnr = 10 * np.log10(255**2 / (error**2).mean())
            difference = np.abs(result - full)
            yield name, scale, difference.mean(), difference.max(), psnr, np.abs(error).max()
    finally:
        raster.REDUCED_MARGIN = kept


def memory(config: BenchConfig) -> None:
    """Prints the peak resident memory of builds of many small files, parent and workers apart."""
    peaks = {}
    for count in map(int, config.counts):
        with tempfile.TemporaryDirectory() as folder:
            table = _many_files(Path(folder), count)
            flags = ("--source=table", f"--table={table}", "--observations=a", "--short_side=32")
            flags = (*flags, "--patient_column=who", f"--out={folder}/out", f"--workers={WORKERS}")
            begin = time.time()
            run = subprocess.run(
                [sys.executable, "-c", MEASURE, *flags], check=True, capture_output=True, text=True
            )
            status, parent, worker = json.loads(run.stdout.splitlines()[-1])
            assert status == 0, run.stderr
        peaks[count] = (parent / 1024, worker / 1024, (parent + WORKERS * worker) / 1024)
        cells = [
            f"{name} {now:.0f} MiB ({now / then - 1:+.1%})"
            for name, now, then in zip(
                ("parent", "largest worker", "together at most"),
                peaks[count],
                next(iter(peaks.values())),
                strict=True,
            )
        ]
        print(f"{count:>7} images: {', '.join(cells)}, {time.time() - begin:.0f} s", flush=True)


def _many_files(folder: Path, count: int) -> Path:
    """Makes ``count`` small files with ten pictures, no two of the same bytes, and their table."""
    rng, rows, pictures = np.random.default_rng(0), ["path,who,a"], []
    for number in range(count):
        name = f"images/{number // 1000:03d}/{number:06d}.png"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 10:
            Image.fromarray(rng.integers(0, 256, (40, 48), np.uint8)).save(path)
            pictures.append(path.read_bytes())
        else:
            # What follows the end of a PNG file changes its content, not its picture.
            path.write_bytes(pictures[number % 10] + str(number).encode())
        rows.append(f"{name},patient{number // 3:06d},{number % 2}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder / "table.csv"


if __name__ == "__main__":
    sys.exit(commandline.run(BenchConfig, bench, __doc__ or ""))
