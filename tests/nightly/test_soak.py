"""20,000 steps: memory stays flat, the loss stays finite; tests/training/test_stopping.py: 400."""

import pytest
from soak import soak

pytestmark = [pytest.mark.nightly, pytest.mark.slow]


@pytest.mark.parametrize(
    "flags",
    [
        ["--strategy=baseline_all", "--cache=ram"],
        ["--strategy=baseline_all", "--cache=none"],
        ["--strategy=baseline", "--features=once", "--augment_probability=0"],
    ],
    ids=["from memory", "from the shards", "frozen features"],
)
def test_memory_is_flat_and_the_loss_finite(forks, flags, square_dataset, backbone_file, tmp_path):
    soak(forks, tmp_path / "run", square_dataset, backbone_file, flags, 20_000)
