"""Training: plan, trainer, strategies, schedule, optimizer, losses, augmentation, caches."""


def __getattr__(name):
    # Lazy, so that a command's `--help` and flag errors do not pay for importing Keras.
    if name in ("OneCycle", "one_cycle"):
        from medcolor_tf.training import schedule

        return getattr(schedule, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
