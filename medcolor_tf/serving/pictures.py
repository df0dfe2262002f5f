"""Pictures beside predictions: files that are named after their images, and what is drawn."""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from medcolor_tf.catalog import DEFAULT_HEAD, GRAD_CAM
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation import heat_maps, visualize
from medcolor_tf.files import replacing
from medcolor_tf.keras_ops import ops
from medcolor_tf.models.spec import ModelSpec


class Pictures:
    """Writes PNGs into a folder.

    Args:
        folder: made when missing.
        flag: that named it, for messages.
        suffix: of the files.

    Raises:
        InputError: it cannot be made or written to.
    """

    def __init__(self, folder: Path, flag: str, suffix: str = ".png"):
        self.folder, self.flag, self._suffix = folder, flag, suffix
        self._used: dict[str, int] = {}
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--{flag}={folder}: is a file, expected a folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass  # better now than after the first batch
        except OSError as error:
            raise InputError(
                f"--{flag}={folder}: cannot be written to ({error.strerror}); expected a folder"
            ) from None

    def save(self, names: list[str], draw: Callable[[int], np.ndarray]) -> list[str]:
        """Draws and writes a picture per name, in threads; holds one per thread, not all.

        Args:
            names: of the files, without suffix; one that was used becomes NAME-2, and so on.
            draw: position in ``names`` to (H, W, 3) uint8.

        Returns:
            The paths.

        Raises:
            InputError: a file cannot be written.
        """
        paths = [self.path(name) for name in names]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(lambda i: _write(draw(i), paths[i]), range(len(paths))):
                pass  # raises what a thread raised
        return [str(path) for path in paths]

    def reserve(self, names: list[str]) -> None:
        """Gives names away that an interrupted run has used, in its order."""
        for name in names:
            self.path(name)

    def path(self, name: str) -> Path:
        """Returns the path of a new file; a name that was used becomes NAME-2, and so on."""
        return self.folder / f"{_unique(name, self._used)}{self._suffix}"

    def check_free(self, names: Iterable[str], suffixes: Sequence[str] = ()) -> None:
        """Checks that no file is there that would be written over.

        Args:
            names: of all images. What cannot be read gets no file, and gives its name to the next
                of that name; so the files written are among those of all images.
            suffixes: of each image's files; empty for this object's own.

        Raises:
            InputError: a file is there.
        """
        there, used = set(os.listdir(self.folder)), dict(self._used)
        unique = [_unique(name, used) for name in names]
        files = [f"{name}{suffix}" for name in unique for suffix in suffixes or (self._suffix,)]
        taken = [file for file in files if file in there]
        if taken:
            others = f", and {len(taken) - 1:,} more of its files," if taken[1:] else ""
            raise InputError(
                f"--{self.flag}={self.folder}: {self.folder / taken[0]} exists{others} and would "
                "be written over; expected a new or empty folder"
            )


def _unique(name: str, used: dict[str, int]) -> str:
    """Returns a name that is not among those used, and adds it to them."""
    count = used.get(name, 0) + 1
    while count > 1 and f"{name}-{count}" in used:
        count += 1  # an image of its own is called that
    used[name] = count
    unique = name if count == 1 else f"{name}-{count}"
    used.setdefault(unique, 1)
    return unique


def _write(picture: np.ndarray, path: Path) -> None:
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")


class Colorized:
    """Gray images on the left, colorized on the right."""

    def __init__(self, pictures: Pictures):
        self.pictures = pictures

    def save(self, names, images, chances, calibrated, colorized, features=None) -> list[str]:
        """Saves a picture per image, see :meth:`Explained.save`; returns the paths."""
        drawn = visualize.side_by_side(images, colorized)
        return self.pictures.save(names, lambda i: drawn[i])


class Heat:
    """Heat maps of a model, scaled to the probabilities.

    Args:
        kind: a name of :data:`medcolor_tf.catalog.HEAT_MAPS`.
        spec: of the run.
        classifier: the run's model.
        chosen: positions of the observations that maps are wanted of.

    Raises:
        InputError: the model or the Keras backend has no maps of this kind.
    """

    def __init__(self, kind: str, spec: ModelSpec, classifier, chosen: list[int]):
        self.spec, self.chosen, self.kind = spec, chosen, kind
        self.observations = [spec.observations[k] for k in chosen]
        if kind != GRAD_CAM:
            self._multiscale = heat_maps.MultiscaleMaps(classifier, spec.image_size, chosen)
            return
        if spec.head != DEFAULT_HEAD:
            raise InputError(
                f"--heat_map={GRAD_CAM}: computed of a run with --head={DEFAULT_HEAD}, this one "
                f"has --head={spec.head}"
            )
        kernel = classifier.get_layer("head").kernel
        self._kernel = np.asarray(ops.convert_to_numpy(kernel))[:, chosen]

    def of(self, chances: np.ndarray, colorized: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Returns the heat (B, h, w, K) float32 in [0, 1] of the chosen observations.

        Args:
            chances: (B, labels) float, the probabilities.
            colorized: (B, S, S, 3) float, what E sees.
            features: (B, h, w, c) float, E's last feature map.
        """
        if self.kind == GRAD_CAM:
            maps = visualize.grad_cam(features, self._kernel)
        else:
            maps = self._multiscale(colorized)
        return visualize.to_heat(maps, chances[:, self.chosen])


class Explained:
    """Heat maps over the gray image."""

    def __init__(self, pictures: Pictures, heat: Heat):
        self.pictures, self._heat = pictures, heat

    def save(self, names, images, chances, calibrated, colorized, features) -> list[str]:
        """Saves a picture per image.

        Args:
            names: B, of the files.
            images: see :meth:`draw`.
            chances: see :meth:`draw`.
            calibrated: see :meth:`draw`.
            colorized: see :meth:`draw`.
            features: see :meth:`draw`.

        Returns:
            The B paths.
        """
        draw = self.draw(images, chances, calibrated, colorized, features)
        return self.pictures.save(names, draw)

    def draw(self, images, chances, calibrated, colorized, features) -> Callable[[int], np.ndarray]:
        """Returns a function that draws an image by its position, (H, W, 3) uint8.

        Args:
            images: (B, H, W, C) uint8 or uint16.
            chances: (B, labels) float, the probabilities.
            calibrated: (B, labels) float, those of the run's decision; None where it has no
                calibration.
            colorized: (B, H, W, 3) float, what E sees.
            features: (B, h, w, c) float, E's last feature map.
        """
        maps, chosen = self._heat, self._heat.chosen
        heat = maps.of(chances, colorized, features)

        def draw_image(i):
            colors = colorized[i] if maps.spec.has_colorizer else None
            return visualize.draw_explanation(
                images[i],
                colors,
                heat[i],
                chances[i, chosen],
                maps.observations,
                maps.kind,
                None if calibrated is None else calibrated[i, chosen],
            )

        return draw_image
