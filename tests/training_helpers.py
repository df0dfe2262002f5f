"""What tests that train share. Test modules import this one by its bare name."""

from typing import Any

from medcolor_tf.runs.config import TrainConfig

SILENT: Any = 0  # for ``verbose=``, which Keras declares as a str


def train_alone(config: TrainConfig, *inspection: Any) -> dict:
    """Trains in this process alone, which therefore has a result: that of ``train``."""
    from medcolor_tf.training.trainer import train

    result = train(config, *inspection)
    assert result is not None
    return result
