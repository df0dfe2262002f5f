"""Which steps see images of which size."""

import pytest

from medcolor_tf.errors import InputError
from medcolor_tf.runs.image_stages import Stage, describe_progressive, image_stages


def test_sizes_change_at_the_nearest_checkpoint():
    assert image_stages("", 112, 160, 20) == [Stage(0, 160, 112)]
    assert image_stages("0.5:0.6", 112, 160, 20) == [Stage(0, 100, 56), Stage(100, 160, 112)]
    # The end of the run is no multiple of the interval.
    stages = image_stages("0.5:0.4,0.75:0.3", 320, 1003, 10)
    assert stages == [Stage(0, 400, 160), Stage(400, 700, 240), Stage(700, 1003, 320)]
    words = "0.5 of the side in 40 % of the steps, then 0.75 of the side in 30 % of the steps"
    assert describe_progressive("0.5:0.4,0.75:0.3") == words
    assert describe_progressive("") == ""


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("0.5", "received '0.5'"),
        ("half:0.5", "received 'half:0.5'"),
        ("1:0.5", "received '1:0.5'"),
        ("0.5:0", "received '0.5:0'"),
        ("0.5:nan", "received '0.5:nan'"),
        ("0.5:0.3,", "received ''"),
        ("0.5:0.6,0.75:0.4", "leave a part of the run for images of the whole size"),
    ],
)
def test_what_is_no_division_is_refused(text, received):
    with pytest.raises(InputError, match=f"--progressive={text}: .*{received}"):
        image_stages(text, 64, 100, 10)


@pytest.mark.parametrize("text", ["0.5:0.1", "0.5:0.9", "0.5:0.5,0.75:0.1"])
def test_a_size_without_a_step_is_refused(text):
    with pytest.raises(InputError, match=r"of 80 steps are every 40, .*smaller --checkpoint_every"):
        image_stages(text, 64, 80, 40)
