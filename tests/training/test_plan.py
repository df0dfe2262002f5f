"""What is refused before anything is built or written."""

from pathlib import Path

import pytest

from medcolor_tf.errors import InputError
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.training.plan import TrainPlan
from medcolor_tf.training.trainer import train


def test_an_observation_without_known_labels_is_refused(tmp_path, write_small_dataset):
    write_small_dataset(tmp_path / "data", always_uncertain="Cardiomegaly")
    options = {
        "data_dir": str(tmp_path / "data"),
        "run_dir": str(tmp_path / "run"),
        "colorizer": "color_u",
        "backbone": "ResNet18",
        "backbone_weights": "none",
        "batch_size": 8,
        "steps": 1,
    }
    config = TrainConfig(**options, uncertain_policy="ignore")
    with pytest.raises(InputError) as caught:
        train(config)
    message = str(caught.value)
    assert "all 24 training labels of 'Cardiomegaly' are unknown" in message
    assert "--observations" in message
    assert not Path(config.run_dir).exists()
    # One class alone is a warning, as it was.
    plan = TrainPlan.from_config(TrainConfig(**options, uncertain_policy="ones"))
    assert any("Cardiomegaly has only one class" in line for line in plan.one_sided_labels())
    chosen = TrainConfig(**options, uncertain_policy="ignore", observations=("Edema",))
    TrainPlan.from_config(chosen)
