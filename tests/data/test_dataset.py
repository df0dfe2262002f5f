"""make_dataset with Keras' own fit: cardinality, order, epochs, masked labels."""

# Keras has no annotations: pyright takes the type of a default for all that a parameter accepts.
# pyright: reportArgumentType=false, reportCallIssue=false

import keras
import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.data import make_dataset
from medcolor_tf.data.pipeline import Split
from medcolor_tf.errors import InputError
from medcolor_tf.training.losses import MaskedBinaryCrossentropy

pytestmark = pytest.mark.slow

INFINITE = tf.data.INFINITE_CARDINALITY
IMAGES, BATCH = 24, 7  # three full batches and three images


def read(dataset, count=-1):
    return [tuple(part.numpy() for part in batch) for batch in dataset.take(count)]


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for batch, other in zip(first, second, strict=True):
        for part, other_part in zip(batch, other, strict=True):
            np.testing.assert_array_equal(part, other_part)


def images_of(batches):
    return sorted(image.tobytes() for images, *_ in batches for image in images)


@pytest.mark.parametrize(
    ("options", "cardinality"),
    [
        ({}, 4),
        ({"training": True}, INFINITE),
        ({"training": True, "repeat": False}, 3),
        ({"training": True, "shuffle": False}, INFINITE),
        ({"training": True, "shuffle": False, "repeat": False}, 4),
        ({"shuffle": True}, 4),
        ({"repeat": True}, INFINITE),
        ({"shuffle": True, "repeat": True}, INFINITE),
        ({"training": True, "repeat": False, "masked_labels": True}, 3),
        ({"masked_labels": True}, 4),
    ],
)
def test_the_cardinality_is_told_and_true(small_dataset, options, cardinality):
    dataset = make_dataset(small_dataset, "train", BATCH, **options)
    assert dataset.cardinality() == cardinality
    if cardinality == INFINITE:
        assert len(read(dataset, 9)) == 9
    else:
        batches = read(dataset)  # which fails where the dataset has told another number
        sizes = [len(batch[0]) for batch in batches]
        assert sizes == [BATCH] * 3 + [3] * (cardinality - 3)


def test_passes_are_the_epochs_of_the_endless_stream(small_dataset):
    stream = read(make_dataset(small_dataset, "train", BATCH, training=True, seed=5), 9)
    once = make_dataset(small_dataset, "train", BATCH, training=True, seed=5, repeat=False)
    passes = [read(once) for _ in range(3)]
    assert_same(stream, [batch for one_pass in passes for batch in one_pass])
    assert images_of(passes[0]) != images_of(passes[1])
    again = make_dataset(small_dataset, "train", BATCH, training=True, seed=5, repeat=False)
    tf.random.set_seed(11)  # another global seed changes nothing
    try:
        assert_same(passes[0], read(again))
    finally:
        tf.random.set_seed(None)


def test_shuffled_centre_crops_are_every_image_once_in_a_new_order(small_dataset):
    in_order = read(make_dataset(small_dataset, "train", BATCH))
    shuffled = make_dataset(small_dataset, "train", BATCH, shuffle=True, seed=1)
    passes = [read(shuffled) for _ in range(2)]
    for one_pass in passes:
        assert images_of(one_pass) == images_of(in_order)
    first_images = [batches[0][0].tobytes() for batches in (in_order, *passes)]
    assert len(set(first_images)) == 3
    by_image = {
        image.tobytes(): label
        for images, labels in in_order
        for image, label in zip(images, labels, strict=True)
    }
    for images, labels in passes[0]:
        for image, label in zip(images, labels, strict=True):
            np.testing.assert_array_equal(by_image[image.tobytes()], label)


def test_random_crops_in_order_move_from_epoch_to_epoch(small_dataset):
    options = {"training": True, "shuffle": False}
    endless = read(make_dataset(small_dataset, "train", BATCH, **options), 8)
    once = make_dataset(small_dataset, "train", BATCH, **options, repeat=False)
    assert_same(endless, read(once) + read(once))
    labels = np.concatenate([batch[1] for batch in endless[:4]])
    np.testing.assert_array_equal(labels, Split(small_dataset, "train").labels)
    np.testing.assert_array_equal(labels, np.concatenate([batch[1] for batch in endless[4:]]))
    assert images_of(endless[:4]) != images_of(endless[4:])


def linear_model(labels=3):
    return keras.Sequential(
        [
            keras.Input((32, 32, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(labels, kernel_initializer=keras.initializers.GlorotUniform(1)),
        ]
    )


class Batches(keras.callbacks.Callback):
    """Counts what each epoch of a fit had."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def on_epoch_begin(self, epoch, logs=None):
        self.counts.append(0)

    def on_train_batch_end(self, batch, logs=None):
        self.counts[-1] += 1


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"training": True, "repeat": False}, 3), ({}, 4), ({"shuffle": True}, 4)],
)
def test_fit_needs_no_steps_and_no_data_is_missing(small_dataset, recwarn, options, steps):
    dataset = make_dataset(small_dataset, "train", BATCH, **options)
    valid = make_dataset(small_dataset, "valid", BATCH)
    model, counter = linear_model(), Batches()
    model.compile("sgd", MaskedBinaryCrossentropy())
    history = model.fit(
        dataset, epochs=3, shuffle=False, validation_data=valid, verbose=0, callbacks=[counter]
    )
    assert counter.counts == [steps] * 3
    assert np.isfinite([*history.history["loss"], *history.history["val_loss"]]).all()
    assert len(model.predict(valid, verbose=0)) == 12
    assert not [warning for warning in recwarn if "ran out of data" in str(warning.message)]


def test_masked_labels_say_what_is_known(small_dataset):
    options = {"uncertain_policy": "ignore"}
    plain = read(make_dataset(small_dataset, "train", BATCH, **options))
    masked = read(make_dataset(small_dataset, "train", BATCH, masked_labels=True, **options))
    unknown = 0
    for (images, labels), (same_images, filled, weights) in zip(plain, masked, strict=True):
        np.testing.assert_array_equal(images, same_images)
        assert filled.dtype == weights.dtype == np.float32
        np.testing.assert_array_equal(weights, ~np.isnan(labels))
        np.testing.assert_array_equal(np.where(weights == 1, filled, np.nan), labels)
        assert (filled[weights == 0] == 0).all()
        unknown += (weights == 0).sum()
    assert unknown > 0
    logits, standard = np.zeros((IMAGES, 3)), keras.losses.BinaryCrossentropy(from_logits=True)
    assert np.isnan(standard(np.concatenate([batch[1] for batch in plain]), logits))
    assert np.isfinite(standard(np.concatenate([batch[1] for batch in masked]), logits))


def fitted(dataset, loss):
    """Loss of each epoch, the weights after them, and what evaluate says then."""
    model = linear_model(dataset.element_spec[1].shape[1])
    model.compile(keras.optimizers.SGD(0.05), loss)
    losses = model.fit(dataset, epochs=2, shuffle=False, verbose=0).history["loss"]
    return [*losses, model.evaluate(dataset, verbose=0)], model.get_weights()


@pytest.mark.parametrize(("observations", "axis"), [((), ()), (("Edema",), ()), (("Edema",), -1)])
def test_a_standard_loss_on_masked_labels_trains_as_ours_does(small_dataset, observations, axis):
    def dataset(masked_labels):
        return make_dataset(
            small_dataset,
            "train",
            2,  # so small that some batches have no known label at all
            training=True,
            repeat=False,
            masked_labels=masked_labels,
            observations=observations,
            uncertain_policy="ignore",
        )

    loss = keras.losses.BinaryCrossentropy(
        from_logits=True, axis=axis, reduction="mean_with_sample_weight"
    )
    losses, weights = fitted(dataset(masked_labels=True), loss)
    expected_losses, expected_weights = fitted(dataset(False), MaskedBinaryCrossentropy())
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for weight, expected in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)


def test_keras_default_reduction_is_ours_times_the_known_share(small_dataset):
    options = {"uncertain_policy": "ignore"}
    masked = make_dataset(small_dataset, "train", IMAGES, masked_labels=True, **options)
    plain = make_dataset(small_dataset, "train", IMAGES, **options)
    model = linear_model()
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True, axis=()))
    standard = model.evaluate(masked, verbose=0)
    model.compile(loss=MaskedBinaryCrossentropy())
    ours = model.evaluate(plain, verbose=0)
    share = np.mean(~np.isnan(next(iter(plain))[1].numpy()))
    assert 0.9 < share < 1
    assert standard == pytest.approx(ours * share, rel=1e-5)


def test_a_loss_that_averages_over_labels_first_is_refused(small_dataset):
    """It would count unknown labels as negative; Keras sees that the weights do not fit."""
    dataset = make_dataset(small_dataset, "train", BATCH, masked_labels=True)
    model = linear_model()
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    with pytest.raises(tf.errors.InvalidArgumentError, match="ncompatible shapes"):
        model.fit(dataset, shuffle=False, verbose=0)


def test_bad_input_is_named(tmp_path, small_dataset):
    with pytest.raises(InputError, match=r"nowhere/dataset.json: no such file"):
        make_dataset(tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match=r"no images in split 'tests'; it has train, valid, test"):
        make_dataset(small_dataset, "tests")
    with pytest.raises(InputError, match=r"24 images selected for train, fewer than --batch_size"):
        make_dataset(small_dataset, "train", 25, training=True)
    with pytest.raises(TypeError, match="fraction"):
        make_dataset(small_dataset, "train", fraction=0.5)
