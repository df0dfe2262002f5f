"""What is refused before anything is built or written."""

from pathlib import Path

import pytest

from medcolor_tf import train as command
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


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(
    tmp_path, write_small_dataset, capsys
):
    write_small_dataset(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    flags = [
        *("--dry_run", f"--data_dir={tmp_path / 'data'}", f"--run_dir={tmp_path / 'run'}"),
        *("--strategy=color_module", "--colorizer=color_map", "--backbone=ResNet18"),
        *("--backbone_weights=none", "--batch_size=8", "--epochs=2", "--max_lr=auto"),
    ]
    assert command.main([*flags, "--lr_multipliers=head=4"]) == 0
    output = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    for line in (
        "24 training and 12 validation images of 32 px; 6 steps of 8",
        "peak learning rate from the LR finder, head 4 times",
        "shapes: images (8, 32, 32, 1) -> colours (8, 32, 32, 3) -> features (8, 1, 1, 512)",
        "colorizer 1,219 (1,219 of them trained), backbone 11,186,112 (frozen), head 1,539 (1,539",
        f"{tmp_path / 'run'}: would be made\nnothing was written\n",
    ):
        assert line in output
    # What would end the run ends the rehearsal.
    assert command.main([*flags, "--observations=Nothing"]) == 2
    assert "Nothing" in capsys.readouterr().err
