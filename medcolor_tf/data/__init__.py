"""From TFRecord shards to batches. ``schema`` alone imports without TensorFlow."""


def __getattr__(name):
    # Lazy, so that data_prep's worker processes and `--help` do not pay for importing TensorFlow.
    if name == "make_dataset":
        from medcolor_tf.data.pipeline import make_dataset

        return make_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
