"""Fixtures that several tests share."""

import gc
import hashlib
import importlib.util
import io
import json
import os
import signal
import sys
from pathlib import Path

# Before TensorFlow is imported anywhere: quiet, and the same on a machine with a GPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import hypothesis
import numpy as np
import pytest
from forks import Forks

from medcolor_tf.data import labels, schema

# Importing TensorFlow makes many objects and hardly any garbage; until pytest_collection_finish().
gc.disable()

# What a shell starts in the background ignores it, and so would the runs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No example fails for its time: other work may keep the processors.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

SHARED = Path(__file__).resolve().parents[2] / "shared"
OBSERVATIONS = ("Edema", "Cardiomegaly", "Pleural Effusion")


@pytest.fixture(autouse=True)
def no_determinism_left():
    """--deterministic holds for the life of a process. A run has its own; tests share one."""
    yield
    if "tensorflow" in sys.modules:
        from tensorflow.python.framework import config

        config.disable_op_determinism()


# The files that take longest. They start first, so that none is left to one process at the end.
LONGEST_FIRST = (
    "test_multihost.py",
    "test_trainer.py",
    "test_stopping.py",
    "test_docs_blocks.py",
    "test_lr_multipliers.py",
    "test_export.py",
    "test_cluster.py",
    "test_wheel.py",
    "test_replicas.py",
    "test_harness.py",
    "test_jax.py",
    "test_same_work.py",
    "test_phantom_study.py",
    "test_privacy.py",
    "test_image_cache.py",
    "test_quickstart.py",
    "test_end_to_end.py",
    "test_catalog.py",
    "test_device_cache.py",
    "test_visualize.py",
    "test_damage.py",
    "test_pipeline.py",
    "test_colorizer_file.py",
    "test_report.py",
    "test_partial.py",
    "test_dataset.py",
    "test_torch_checkpoint.py",
    "test_resume.py",
    "test_predict.py",
)


def pytest_collection_modifyitems(items):
    """Puts the long files first; `--no-loadscope-reorder` has pytest-xdist keep the order."""
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish():
    """Has garbage collected seldom, and without a look at what was imported.

    Tracing makes objects by the hundred thousand that all live on: at the usual thresholds a tenth
    of the tests' processor time went into looking through them.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    gc.enable()


def pytest_runtest_setup(item):
    """Skips the tests that are marked `torch` where PyTorch is not installed."""
    if item.get_closest_marker("torch") and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed; make test-torch installs it and runs this")


@pytest.fixture(scope="session")
def forks():
    """Starts commands as forks of one process that has imported TensorFlow and Keras."""
    with Forks() as forks:
        yield forks


@pytest.fixture(scope="session")
def shared():
    """The folder of reference numbers, images and backbones that is not part of the project."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the folder {SHARED}, which is not part of the project")
    return SHARED


def write_dataset(
    folder,
    images=(24, 12, 12),
    size=(32, 40),
    encoding="png",
    bits=8,
    channels=1,
    observations=OBSERVATIONS,
    records_per_shard=8,
    seed=0,
    always_uncertain=None,
):
    """Writes a small learnable data set by the schema alone, without data_prep.

    An image is noise with horizontal stripes, vertical stripes or more brightness for a positive
    observation, so that a network learns it in seconds. Some labels are uncertain or blank.
    Returns split -> list of images.
    """
    import tensorflow as tf

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    policy = labels.parse_policy("", observations, labels.PAPER_POLICY)
    shards, sha, counts, kept = [], {}, {}, {}
    for split, number in zip(schema.SPLITS, images, strict=True):
        raw = random.integers(0, 2, (number, len(observations))).astype(np.float32)
        raw[1::7, 0], raw[2::7, 1] = labels.UNCERTAIN, np.nan
        if always_uncertain:
            raw[:, observations.index(always_uncertain)] = labels.UNCERTAIN
        applied = labels.apply_policy(raw, observations, policy, "zeros")
        pictures = [_picture(random, row, size, bits, channels) for row in raw]
        kept[split] = pictures
        count = -(-number // records_per_shard)
        for shard in range(count):
            rows = range(shard * records_per_shard, min(number, (shard + 1) * records_per_shard))
            name = schema.shard_name(split, shard, count)
            with tf.io.TFRecordWriter(str(folder / name)) as writer:
                for i in rows:
                    encoded = [_encode(pictures[i][..., c], encoding) for c in range(channels)]
                    record = (encoded, pictures[i].shape[:2], applied[i], raw[i], 2 * i)
                    writer.write(schema.encode_example(*record, f"{split}p{i}", f"{split}i{i}"))
            content = (folder / name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            shards.append(schema.Shard(name, split, len(rows), len(content), digest))
        patient = np.array([f"{split}p{i}" for i in range(number)], "S16")
        schema.SplitIndex(2 * np.arange(number), raw, patient).save(folder, split)
        digest = hashlib.sha256(schema.SplitIndex.path(folder, split).read_bytes())
        sha[split] = digest.hexdigest()
        counts[split] = labels.count_raw_labels(raw, observations)
    pixels = np.concatenate([p.ravel() for p in kept["train"]]) / (2**bits - 1)
    schema.DatasetInfo(
        source="test",
        observations=observations,
        uncertain_policy=policy,
        blank_policy="zeros",
        encoding=encoding,
        bits=bits,
        channels=channels,
        short_side=min(size),
        pixel_mean=float(pixels.mean()),
        pixel_std=float(pixels.std()),
        label_counts=counts,
        images=dict(zip(schema.SPLITS, images, strict=True)),
        patients=dict(zip(schema.SPLITS, images, strict=True)),
        rejected=0,
        seed=seed,
        shards=tuple(shards),
        index_sha256=sha,
        fingerprint=f"test-{seed}",
    ).save(folder)
    return kept


def _picture(random, raw, size, bits, channels):
    picture = random.uniform(0, 0.4, (*size, channels))
    y, x = np.mgrid[: size[0], : size[1]]
    textures = (y % 4 < 2, x % 4 < 2, np.ones(size))  # wherever they are: E pools over places
    for value, texture in zip(raw, textures, strict=False):
        if value == 1:
            picture += 0.2 * texture[..., None]
    return np.round(picture * (2**bits - 1)).astype(np.uint16 if bits == 16 else np.uint8)


def _encode(gray, encoding):
    from PIL import Image

    if encoding == "raw":
        return gray.tobytes()
    file = io.BytesIO()
    Image.fromarray(gray).save(
        file, encoding.upper(), **({"quality": 95} if encoding == "jpeg" else {})
    )
    return file.getvalue()


@pytest.fixture(scope="session")
def write_small_dataset():
    """The function :func:`write_dataset`."""
    return write_dataset


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory):
    """A data set of 24 training, 12 validation and 12 test images of 32 x 40 pixels."""
    folder = tmp_path_factory.mktemp("data") / "small"
    write_dataset(folder)
    return folder


@pytest.fixture(scope="session")
def square_dataset(tmp_path_factory):
    """As ``small_dataset``, of 32 x 32 pixels: features of such images can be computed once."""
    folder = tmp_path_factory.mktemp("data") / "square"
    write_dataset(folder, size=(32, 32))
    return folder


@pytest.fixture
def golden():
    """Load a reference file: `golden("deconv")` gives a dict of arrays."""

    def load(name):
        path = SHARED / "golden" / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"no reference file {path}")
        with np.load(path) as arrays:
            return dict(arrays)

    return load


@pytest.fixture
def resnet18_state():
    """Draw torchvision-named tensors as golden/README.md says."""
    path = SHARED / "golden" / "resnet18_tensors.json"
    if not path.is_file():
        pytest.skip(f"no reference file {path}")
    rng, state = np.random.default_rng(0), {}
    for name, shape in json.loads(path.read_text()):
        state[name] = _draw(rng, name, shape).astype("float32")
    return state


def _draw(rng, name, shape):
    if name.endswith("running_mean"):
        return 0.2 * rng.standard_normal(shape)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 4:
        return rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    if len(shape) == 2:
        return rng.standard_normal(shape) * np.sqrt(1 / shape[1])
    if name.endswith("weight"):
        return rng.uniform(0.7, 1.3, shape)
    return 0.1 * rng.standard_normal(shape)


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory):
    """A small convolutional network with batch normalisation as a user's own .keras file."""
    import keras

    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, padding="same", name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    x = keras.layers.ReLU(name="relu1")(x)
    x = keras.layers.Dropout(0.1, name="dropout")(x)
    x = keras.layers.Conv2D(12, 3, padding="same", name="conv2")(x)
    path = tmp_path_factory.mktemp("backbone") / "small.keras"
    keras.Model(inputs, x, name="small").save(path)
    return str(path)


@pytest.fixture(scope="session")
def one_layer_backbone_file(tmp_path_factory):
    """One convolution as a user's own .keras file: the least that trains."""
    import keras

    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(6, 3, strides=4, activation="relu", name="conv")(inputs)
    path = tmp_path_factory.mktemp("backbone") / "small.keras"
    keras.Model(inputs, x, name="small").save(path)
    return str(path)
