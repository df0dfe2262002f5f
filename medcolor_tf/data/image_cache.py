"""Whether the host keeps decoded images while a run trains (--cache), chosen from the sizes.

The accelerator's memory is :mod:`medcolor_tf.training.device_cache`' part.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medcolor_tf.data.pipeline import Split
from medcolor_tf.errors import InputError

# auto leaves the other half to the training step, the operating system and other runs.
AUTO_SHARE = 0.5


def keep(cache: str, splits: Sequence[Split], sharers: int = 1) -> str:
    """Keeps the decoded images of the splits where ``cache`` says; the batches stay the same.

    Args:
        cache: "none", "ram" or "auto".
        splits: what will be read over and over.
        sharers: processes on this machine that do the same.

    Returns:
        What was done and why, for the log.

    Raises:
        InputError: "ram", and there is not enough memory.
    """
    if cache == "none":
        return "cache none: images are read and decoded anew in every epoch"
    free = available_memory() / sharers
    limit = free * (AUTO_SHARE if cache == "auto" else 1.0)
    needed = sum(least_bytes(split) for split in splits)
    if needed <= limit:  # only then is it worth reading every record's size
        needed = sum(decoded_bytes(split) for split in splits)
    images = sum(len(split) for split in splits)
    if needed <= limit:
        for split in splits:
            split.keep_decoded()
        return f"cache ram: {images:,} images, {amount(needed)} decoded, {amount(free)} were free"
    if cache == "auto":
        return (
            f"cache none: {images:,} decoded images are {amount(needed)} or more, beyond half of "
            f"the {amount(free)} of free memory; they are read and decoded anew in every epoch"
        )
    raise InputError(
        f"--cache=ram: {images:,} decoded images are {amount(needed)} or more, {amount(free)} of "
        "memory are free; expected a data set that fits, --cache=none or --cache=auto"
    )


def decoded_bytes(split: Split) -> int:
    """Returns what :meth:`Split.keep_decoded` takes, exactly; reads every record's size."""
    return int(split.kept_sizes().prod(axis=1).sum()) * _pixel_bytes(split)


def available_memory() -> int:
    """Returns the bytes of memory that this process can still take.

    The kernel's estimate, or what the container's limit leaves where that is less.
    """
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(free, _container_memory())


def _container_memory() -> float:
    """What a container's limit (cgroup v2) leaves; infinite without one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(stat["inactive_file"]))  # file pages are given back
    except (OSError, KeyError, ValueError):  # ValueError: the limit is the word "max"
        return float("inf")


def least_bytes(split: Split, enlarged: bool = False) -> int:
    """Returns what the split's images take at least, decoded, without reading any.

    ``enlarged``: images smaller than --image_size are kept at that size.
    """
    side = split.image_size if enlarged else min(split.image_size, split.info.short_side)
    return len(split) * side**2 * _pixel_bytes(split)


def _pixel_bytes(split: Split) -> int:
    return split.info.channels * split.info.bits // 8


def amount(count: float) -> str:
    """Returns a number of bytes as text with three digits."""
    power = min(int(np.log(max(count, 1)) / np.log(1000)), 4)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
