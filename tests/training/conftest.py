"""Fixtures of the tests that train."""

import keras
import pytest


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory):
    """A small convolutional network with batch normalisation as a user's own .keras file."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, padding="same", name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    x = keras.layers.ReLU(name="relu1")(x)
    x = keras.layers.Dropout(0.1, name="dropout")(x)
    x = keras.layers.Conv2D(12, 3, padding="same", name="conv2")(x)
    path = tmp_path_factory.mktemp("backbone") / "small.keras"
    keras.Model(inputs, x, name="small").save(path)
    return str(path)
