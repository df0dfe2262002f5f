"""The colours of a `color_map`: in the run, saved by the command, as a colormap, in TensorBoard."""

import dataclasses
import io
from pathlib import Path

import keras
import numpy as np
import pytest
from matplotlib.colors import ListedColormap
from PIL import Image

import medcolor_tf as mc
from medcolor_tf import colorizer
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.color_table import ColorTable
from medcolor_tf.models import build_colorizer
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.sharing import colorizer_file
from medcolor_tf.training.trainer import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_of(small_dataset, tmp_path_factory):
    """Trains a few steps with a colorizer and other options; returns the run folder."""
    folder = tmp_path_factory.mktemp("colormap")
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, padding="same", name="conv1")(inputs)
    keras.Model(inputs, x, name="small").save(folder / "small.keras")

    def run(name: str, **options) -> str:
        config = TrainConfig(
            data_dir=str(small_dataset),
            run_dir=str(folder / name),
            backbone=str(folder / "small.keras"),
            colorizer="color_map",
            batch_size=8,
            steps=4,
            checkpoint_every=2,
            max_lr="1.0",
        )
        train(dataclasses.replace(config, **options))
        return str(folder / name)

    return run


@pytest.fixture(scope="module")
def run_dir(run_of):
    """A finished run with a color_map, in bfloat16."""
    return run_of("run", mixed_precision=True)


def colors_of(run_dir: str, raw: np.ndarray) -> np.ndarray:
    """What the run's T makes of raw gray values (N,), on the scale of the gray image: (N, 3)."""
    _, _, spec = mc.load_run(run_dir)
    gray = ((raw / 255 - spec.pixel_mean) / spec.pixel_std).astype("float32")
    colors = mc.load_colorizer(run_dir).predict_on_batch(gray.reshape(1, 1, -1, 1))
    return colors.reshape(-1, 3) * spec.pixel_std + spec.pixel_mean


def test_a_run_leaves_the_table_of_its_best_color_map(run_dir):
    run = runs.Run(Path(run_dir))
    assert run.lists(runs.COLOR_TABLE_PICTURE)
    assert run.lists(runs.COLOR_TABLE)
    table = ColorTable.from_csv(run.checked(run.color_table))
    np.testing.assert_array_equal(table.values, np.arange(256))
    np.testing.assert_allclose(table.colors, colors_of(run_dir, np.arange(256)), atol=2e-6)
    assert np.abs(table.colors - np.linspace(0, 1, 256)[:, None]).max() > 0.01  # it has learned
    with Image.open(run.folder / runs.COLOR_TABLE_PICTURE) as opened:
        picture = np.asarray(opened)
    np.testing.assert_array_equal(picture[0, ::2], np.arange(256)[:, None].repeat(3, 1))
    np.testing.assert_array_equal(picture[-1, 1::2], table.rgb)


def test_the_colormap_gives_the_colours(run_dir):
    colormap = mc.load_colormap(run_dir)
    assert isinstance(colormap, ListedColormap)
    raw = np.array([[0, 100], [200, 255]], "uint8")
    expected = np.clip(colors_of(run_dir, raw.ravel()), 0, 1).reshape(2, 2, 3)
    np.testing.assert_allclose(colormap(raw)[..., :3], expected, atol=0.5 / 255 + 1e-6)


def test_the_command_writes_picture_and_csv_once(run_dir, tmp_path, capsys):
    target = tmp_path / "new" / "table"
    assert colorizer.main(["table", run_dir, str(target)]) == 0
    assert f"saved {target}.png and {target}.csv" in capsys.readouterr().out
    written = Path(f"{target}.csv").read_bytes()
    assert written == runs.Run(Path(run_dir)).color_table.read_bytes()
    assert colorizer.main(["table", run_dir, f"{target}.csv"]) == 2
    assert f"{target}.png: is there already" in capsys.readouterr().err
    saved, _ = colorizer_file.save(run_dir, str(tmp_path / "saved"))
    assert colorizer.main(["table", str(saved), str(tmp_path / "again")]) == 0
    assert (tmp_path / "again.csv").read_bytes() == written


def test_a_colorizer_that_is_no_map_has_no_table(run_of, tmp_path, capsys):
    run_dir = run_of("context", colorizer="context_map", steps=2)
    assert not runs.Run(Path(run_dir)).color_table.exists()
    assert colorizer.main(["table", run_dir, str(tmp_path / "table")]) == 2
    error = capsys.readouterr().err
    assert f"{run_dir}: its colorizer is context_map of 1 input channels" in error
    assert "only color_map of one channel has a table of colours" in error
    assert not list(tmp_path.iterdir())


def test_a_color_map_starts_the_next_stage(run_dir, run_of):
    """T travels by --init_from with its initialisation, and leaves a table again."""
    second = run_of("second", strategy="all", init_from=run_dir, colorizer="", backbone="")
    _, _, spec = mc.load_run(second)
    assert (spec.colorizer, spec.colorizer_init) == ("color_map", "gray")
    assert runs.Run(Path(second)).color_table.is_file()


def test_tensorboard_shows_the_table(run_dir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir), size_guidance={"tensors": 0})
    events.Reload()
    pictures = events.Tensors("visual/gray_to_color")
    assert [event.step for event in pictures] == [2, 4]
    encoded = pictures[-1].tensor_proto.string_val[2]
    assert Image.open(io.BytesIO(encoded)).size == (512, 100)


def test_the_table_of_a_new_map_is_the_gray_ramp_and_16_bits_are_every_257th():
    table = ColorTable.from_colorizer(build_colorizer("color_map"), 0.4, 0.2, 65535)
    np.testing.assert_array_equal(table.values, 257 * np.arange(256))
    gray = np.linspace(0, 1, 256)
    np.testing.assert_allclose(table.colors, gray[:, None].repeat(3, 1), atol=1e-6)
    np.testing.assert_array_equal(table.rgb[:, 0], np.arange(256))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("value,", "gray,"), "received columns"),
        (lambda text: text[: len(text) // 2].rsplit("\n", 1)[0], "rows"),
        (lambda text: text.replace("\n7,", "\nseven,"), "seven"),
        (lambda text: text.replace("\n255,0", "\n255,nan0"), "nan0"),
        (lambda text: text.rsplit(",", 1)[0] + ",nan\n", "no number"),
        (lambda text: "", "256 rows"),
    ],
)
def test_a_damaged_table_is_refused_by_name(change, message, tmp_path):
    colors = np.linspace(0, 0.9, 256)[:, None].repeat(3, 1)
    path = tmp_path / "table.csv"
    path.write_text(change(ColorTable(np.arange(256), colors).to_csv()))
    with pytest.raises(InputError, match=rf"table.csv: cannot be read.*{message}"):
        ColorTable.from_csv(path)


def test_no_table_is_an_error_too(tmp_path):
    with pytest.raises(InputError, match=r"no\.csv: cannot be read as a table of colours"):
        ColorTable.from_csv(tmp_path / "no.csv")


def test_a_table_that_was_read_back_has_the_same_colours(tmp_path):
    """Six digits may lie on the other side of a half from the number that was written."""
    colors = np.full((256, 3), 162.4999 / 255)
    table = ColorTable(np.arange(256), colors)
    (tmp_path / "table.csv").write_text(table.to_csv())
    np.testing.assert_array_equal(ColorTable.from_csv(tmp_path / "table.csv").rgb, table.rgb)
    assert (np.round(colors * 255) != table.rgb).all()
