"""Long campaigns: `pytest -m nightly tests/nightly`."""

import pytest


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory):
    """A small network with batch normalisation and dropout, saved in a process that ends."""
    import keras

    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, padding="same", name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    x = keras.layers.Dropout(0.1, name="dropout")(x)
    path = tmp_path_factory.mktemp("backbone") / "small.keras"
    keras.Model(inputs, x, name="small").save(path)
    return str(path)


@pytest.fixture(scope="session")
def square_dataset(tmp_path_factory, write_small_dataset):
    """Square images, whose features can be computed once."""
    folder = tmp_path_factory.mktemp("data") / "square"
    write_small_dataset(folder, size=(32, 32))
    return folder
