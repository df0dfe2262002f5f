"""Small images first (--progressive): which steps of a run see images of which size."""

import itertools
from dataclasses import dataclass

from medcolor_tf.errors import InputError

# A smaller image than that is none.
LEAST_SCALE = 0.01


@dataclass(frozen=True)
class Stage:
    """Steps of a run that see images of one size.

    Attributes:
        first, last: number of steps done before the first of them and after the last.
        side: of the square images, in pixels.
    """

    first: int
    last: int
    side: int


def parse_progressive(text: str) -> list[tuple[float, float]]:
    """Parses a --progressive: "0.5:0.4,0.75:0.3" is [(0.5, 0.4), (0.75, 0.3)], "" is [].

    Returns:
        (scale of the images' side, share of the run) of each stage but the last, which has the
        whole size.

    Raises:
        InputError: something else, a number that is not between 0 and 1, or shares that leave
            nothing for the whole size.
    """
    stages = []
    for item in text.split(",") if text else ():
        try:
            scale, share = (float(number) for number in item.split(":"))
        except ValueError:
            scale = share = float("nan")
        if not (LEAST_SCALE <= scale < 1 and 0 < share < 1):
            raise InputError(
                f"--progressive={text}: expected SCALE:SHARE, two numbers between 0 and 1, as "
                f"0.5:0.6, received {item!r}"
            )
        stages.append((scale, share))
    if (total := sum(share for _, share in stages)) >= 1:
        raise InputError(
            f"--progressive={text}: expected shares that leave a part of the run for images of the "
            f"whole size, received {total:g} in all"
        )
    return stages


def image_stages(text: str, side: int, total_steps: int, interval: int) -> list[Stage]:
    """Divides a run into stages: the size is a function of the step alone.

    A stage ends at the checkpoint that is nearest to its share.

    Args:
        text: of --progressive.
        side: of the whole images, in pixels.
        total_steps: of the run.
        interval: steps between checkpoints.

    Raises:
        InputError: see :func:`parse_progressive`; or a stage that would have no step.
    """
    ends, sides, done = [], [], 0.0
    for scale, share in parse_progressive(text):
        done += share
        ends.append(round(done * total_steps / interval) * interval)
        sides.append(max(1, round(scale * side)))
    edges = [0, *ends, total_steps]
    if any(first >= last for first, last in itertools.pairwise(edges)):
        raise InputError(
            f"--progressive={text}: sizes change at checkpoints, which of {total_steps:,} steps "
            f"are every {interval:,}, so that a size would have no step; expected other shares, or "
            "a smaller --checkpoint_every"
        )
    return [
        Stage(first, last, size)
        for first, last, size in zip(edges[:-1], edges[1:], [*sides, side], strict=True)
    ]


def describe_progressive(text: str) -> str:
    """Says a --progressive in words, without numbers of a run; "" for none.

    Example: "0.5 of the side in 60 % of the steps".
    """
    words = (
        f"{scale:g} of the side in {100 * share:g} % of the steps"
        for scale, share in parse_progressive(text)
    )
    return ", then ".join(words)
