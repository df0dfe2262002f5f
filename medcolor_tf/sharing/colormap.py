"""The table of colours of a trained `color_map`: read, saved, and left beside a run's weights."""

from pathlib import Path
from typing import TYPE_CHECKING

from medcolor_tf.catalog import COLORIZERS
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.color_table import ColorTable
from medcolor_tf.parallel import multihost, runtime
from medcolor_tf.runs import folder as runs
from medcolor_tf.sharing import colorizer_file

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

SUFFIXES = (".png", ".csv")


def load_colormap(source: str | Path) -> "ListedColormap":
    """Loads a trained `color_map` as a colormap of matplotlib.

    Args:
        source: a finished run's folder (T of its best checkpoint), a colorizer file, or an address
            on the Hugging Face hub, as for ``load_colorizer``. Its T is a `color_map`.

    Returns:
        A ``matplotlib.colors.ListedColormap`` of 256 colours from black to white, T's output on the
        scale of the gray image; what leaves that scale is at its ends. Draw raw images with it from
        0 to 255 (16 bits: to 65535, 257 values for each colour).

    Raises:
        InputError: see ``load_colorizer``; or a T that is no map from one gray value to a colour.

    Example:
        >>> import numpy as np
        >>> import medcolor_tf as mc
        >>> colormap = mc.load_colormap(run_dir)  # of a run with --colorizer=color_map
        >>> colormap.N
        256
        >>> image = np.arange(256, dtype="uint8").reshape(16, 16)
        >>> colormap(image, bytes=True)[..., :3].shape
        (16, 16, 3)
    """
    return read_table(str(source)).to_colormap()


def read_table(source: str) -> ColorTable:
    """Reads the table of colours of a trained `color_map`.

    Args:
        source: see :func:`medcolor_tf.sharing.colorizer_file.read`.

    Raises:
        InputError: see there; or a T that is no map from one gray value to a colour.
    """
    trained = colorizer_file.read(source)
    spec = trained.spec
    if not spec.is_gray_map:
        pointwise = [name for name, entry in COLORIZERS.items() if entry.pointwise]
        raise InputError(
            f"{source}: its colorizer is {spec.colorizer} of {spec.input_channels} input channels; "
            f"only {' or '.join(pointwise)} of one channel has a table of colours"
        )
    with runtime.precision(False):
        model = trained.build()
    return ColorTable.from_colorizer(model, spec.pixel_mean, spec.pixel_std, spec.max_value)


def save_table(source: str, file: str) -> tuple[Path, ...]:
    """Writes the table of colours of a trained `color_map` as a picture and as CSV.

    Args:
        source: see :func:`read_table`.
        file: new file; its suffix is replaced by .png and .csv.

    Returns:
        (picture, CSV).

    Raises:
        InputError: see :func:`read_table`; or one of the two is there already.
    """
    paths = colorizer_file.new_files(file, SUFFIXES)
    table = read_table(source)
    colorizer_file.write_files(paths, (table.to_png(), table.to_csv()))
    return paths


def write_to_run(run: runs.Run) -> None:
    """Writes the table of the colorizer that a run has saved beside it.

    Of several processes that train together one may call it alone.
    """
    with multihost.undistributed():
        table = read_table(str(run.folder / runs.COLORIZER))
    run.write({runs.COLOR_TABLE_PICTURE: table.to_png(), runs.COLOR_TABLE: table.to_csv()})
