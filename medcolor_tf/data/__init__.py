"""From TFRecord shards to batches. ``schema``, ``labels`` and ``subsets`` import no TensorFlow."""


def __getattr__(name):
    # Lazy, so that data_prep's worker processes and `--help` do not pay for importing TensorFlow.
    if name == "make_dataset":
        from medcolor_tf.data.dataset import make_dataset

        return make_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
