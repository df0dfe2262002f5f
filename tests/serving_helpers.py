"""A small run folder and pictures, for the tests of prediction and of exported models."""

import dataclasses
import functools
import io

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from medcolor_tf.catalog import COLORIZERS
from medcolor_tf.evaluation import visualize
from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import Decision
from medcolor_tf.serving.in_graph.prepare import prepare_files
from medcolor_tf.serving.inputs import InputImage, read_batches

OBSERVATIONS = ("Edema", "Pleural Effusion")


def make_run(folder, channels=1, bits=8, colorizer="color_map", pixel_range="full"):
    """A run folder with random weights, as training leaves it."""
    inputs = keras.Input((None, None, 3))
    # Seeded: some draws leave ReLU nothing, and then all images are alike.
    initializer = keras.initializers.GlorotUniform(seed=5)
    x = keras.layers.Conv2D(
        4,
        3,
        strides=2,
        padding="same",
        kernel_initializer=initializer,  # pyright: ignore[reportArgumentType]
        name="conv1",
    )(inputs)
    backbone = folder / "net.keras"
    folder.mkdir(parents=True)
    keras.Model(inputs, keras.layers.ReLU(name="relu")(x)).save(backbone)
    spec = ModelSpec(
        colorizer=colorizer,
        colorizer_init=COLORIZERS[colorizer].inits[0] if colorizer in COLORIZERS else "paper",
        backbone=str(backbone),
        observations=OBSERVATIONS,
        image_size=32,
        short_side=32,
        input_channels=channels,
        bits=bits,
        pixel_mean=0.5,
        pixel_std=0.25,
        bn_momentum=0.9,
        range=pixel_range,
    )
    spec = runs.Run(folder).save_model_spec(spec)
    classifier = spec.build(seed=1)
    arrays = checkpoint.to_arrays(checkpoint.named_weights(classifier))
    # Larger than at the start of training, so that probabilities differ from image to image.
    arrays["head/kernel"] = arrays["head/kernel"] * 20
    for name in ("colorizer/map_conv3/kernel", "colorizer/map_conv3/bias"):
        if name in arrays:  # a map that has left its start
            arrays[name] = np.linspace(-1, 1, arrays[name].size, dtype="float32").reshape(
                arrays[name].shape
            )
    runs.Run(folder).write({runs.BEST: checkpoint.to_bytes(arrays, {"step": 7})})
    return folder


def made_decision(run_dir, thresholds=(0.5, None), slope=1.0, intercept=0.0) -> Decision:
    """A decision of a run's weights, of two observations."""
    method = "none" if (slope, intercept) == (1, 0) else "platt"
    entry = {"slope": slope, "intercept": intercept, "method": method, "reason": ""}
    counts = {"positive": 3, "negative": 4, "unknown": 0}
    data = {"name": "d", "fingerprint": "f", "split": "valid", "uncertain_policy": {}}
    content = {
        "made_by": "evaluate",
        "rule": "youden",
        "weights": "best",
        "step": 7,
        "digests": runs.weights_digests(run_dir),
        "data": data | {"images": 7, "patients": 7},
        "observation_order": list(OBSERVATIONS),
        "observations": {
            name: {"threshold": threshold, **entry, **counts}
            for name, threshold in zip(OBSERVATIONS, thresholds, strict=True)
        },
    }
    return Decision.from_dict(content)


def pixels(*shape, seed=0, dtype: type = np.uint8):
    """Smooth pictures, as X-rays are: noise would make every resampling look wrong."""
    random = np.random.default_rng(seed)
    coarse = random.random((shape[0] // 8 + 1, shape[1] // 8 + 1)).astype(np.float32)
    image = np.array(Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
    return (np.clip(image, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def drawn_captions(monkeypatch) -> list[str]:
    """Returns a list that fills with the captions of the heat maps that are drawn."""
    draw, captions = visualize.draw_panels, []

    def drawn(*arguments):
        panels = draw(*arguments)
        captions.extend(caption for caption, _ in panels if "%" in caption)
        return panels

    monkeypatch.setattr(visualize, "draw_panels", drawn)
    return captions


def encode(image, form, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **options)
    return file.getvalue()


@dataclasses.dataclass
class Comparison:
    """An exported model beside predict's path, over files.

    Attributes:
        read: files that both read.
        pixels: largest difference of a prepared pixel.
        probabilities: largest difference of a probability.
        refused: files that both refuse.
        only_predict: what the graph said of files that predict reads, by name.
        only_graph: what predict said of files that the graph reads, by name.
    """

    read: int = 0
    pixels: int = 0
    probabilities: float = 0.0
    refused: int = 0
    only_predict: dict[str, str] = dataclasses.field(default_factory=dict)
    only_graph: dict[str, str] = dataclasses.field(default_factory=dict)


@functools.cache
def load_export(exported):
    """An exported model, loaded once for all tests of a process."""
    return tf.saved_model.load(str(exported))


@functools.cache
def _ways(exported, run_dir):
    """An export's spec, predict's model, preparation as a graph, and the signature for files."""
    spec, classifier, _ = runs.load_predictor(run_dir)
    shape = (None,) if spec.input_channels == 1 else (None, spec.input_channels)
    prepare = tf.function(
        lambda encoded: prepare_files(encoded, spec),
        input_signature=[tf.TensorSpec(shape, tf.string)],
        autograph=False,
    )
    signature = load_export(exported).signatures["encoded"]
    return spec, classify_and_colorize(classifier), prepare, signature


def compare_files(exported, run_dir, files, folder) -> Comparison:
    """Runs files, (name, content), through an exported model and through predict's path.

    A model of several channels gets a file for each of them.
    """
    spec, model, prepare, signature = _ways(exported, run_dir)
    result = Comparison()
    for name, content in files:
        path = folder / "image"
        path.write_bytes(content)
        item = InputImage(name, (path,) * spec.input_channels, name)
        ((read,),) = read_batches([item], spec, 1)
        image = read.image
        encoded = tf.constant(
            [content] if spec.input_channels == 1 else [[content] * spec.input_channels]
        )
        try:
            prepared = prepare(encoded)[0].numpy()
            received = signature(encoded)["probabilities"].numpy()[0]
        except tf.errors.InvalidArgumentError as error:
            if isinstance(image, str):
                result.refused += 1
            else:
                result.only_predict[name] = str(error)
            continue
        if isinstance(image, str):
            result.only_graph[name] = image
            continue
        expected = sigmoid(model.predict_on_batch(image[None])[0])[0]
        pixels = np.abs(prepared.astype(int) - image.astype(int)).max()
        chances = float(np.abs(received - expected).max())
        result.read += 1
        result.pixels = max(result.pixels, int(pixels))
        result.probabilities = max(result.probabilities, chances)
    return result
