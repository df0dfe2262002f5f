"""SIGKILL at random places, over strategies, caches and the LR finder: byte-identical ends."""

import pytest
from kill_campaign import campaign
from training_helpers import train_alone

from medcolor_tf.runs.config import TrainConfig

pytestmark = [pytest.mark.nightly, pytest.mark.slow]

KILLS = 8  # of each of the campaigns below
CAMPAIGNS = {
    "color_module, ram": ["--strategy=color_module", "--colorizer=color_u", "--cache=ram"],
    "color_module, no cache": ["--strategy=color_module", "--colorizer=color_u", "--cache=none"],
    "baseline_all, device": [
        *("--strategy=baseline_all", "--cache=device", "--steps_per_execution=2"),
    ],
    "baseline, frozen features": [
        *("--strategy=baseline", "--features=once", "--augment_probability=0"),
    ],
    "baseline, each step": ["--strategy=baseline", "--features=each_step"],
    "all": ["--strategy=all", "--init_from=SOURCE"],
    "last_layer": ["--strategy=last_layer", "--init_from=SOURCE", "--features=each_step"],
    "LR finder": ["--strategy=baseline_all", "--max_lr=auto", "--cache=ram"],
}


@pytest.fixture(scope="session")
def stage1(square_dataset, backbone_file, tmp_path_factory):
    """A finished color_module run, from which others start."""
    run = tmp_path_factory.mktemp("stage1") / "run"
    train_alone(
        TrainConfig(
            data_dir=str(square_dataset),
            run_dir=str(run),
            colorizer="color_u",
            backbone=backbone_file,
            batch_size=4,
            steps=2,
        )
    )
    return str(run)


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_killed_runs_end_as_undisturbed_ones(
    forks, name, square_dataset, backbone_file, stage1, tmp_path, record_property
):
    flags = [flag.replace("SOURCE", stage1) for flag in CAMPAIGNS[name]]
    if "--init_from" not in " ".join(flags):
        flags.append(f"--backbone={backbone_file}")
    common = [
        *(f"--data_dir={square_dataset}", "--batch_size=4", "--steps=14", "--checkpoint_every=5"),
        *("--deterministic", "--log_every=1"),
    ]
    if "--max_lr=auto" not in flags:
        common.append("--max_lr=0.05")
    kills = campaign(forks, tmp_path, [*common, *flags], KILLS, seed=len(name))
    assert kills >= KILLS
    print(f"{name}: {kills} kills")
    record_property("kills", kills)
