"""The machine that is measured on: its name, its software, and whether others use it."""

import importlib.metadata
import os
import platform
import time
from pathlib import Path

PACKAGES = (
    *("tensorflow", "keras", "jax", "torch", "numpy", "pillow"),
    *("onnxruntime", "ai-edge-litert"),
)
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TF_ENABLE_ONEDNN_OPTS", "LD_PRELOAD")
BUSY = 0.1


def processor() -> str:
    """Returns the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def software() -> str:
    """Returns system, versions, and the environment's variables that matter."""
    versions = ", ".join(map(_version, PACKAGES))
    found = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ)
    return (
        f"{platform.platform()}, Python {platform.python_version()}, {versions}. "
        f"Set in the environment: {found or 'none of ' + ', '.join(VARIABLES)}."
    )


def busy_share(seconds: float = 1.0) -> float:
    """Returns the share of all cores' time, 0 to 1, that is used now; 0 where nobody tells."""
    before = _times()
    time.sleep(seconds)
    spent = [now - then for now, then in zip(_times(), before, strict=True)]
    return 1 - (spent[3] + spent[4]) / sum(spent) if sum(spent) else 0.0  # idle, waiting for disks


def waiting(busy: float) -> dict[str, str]:
    """Returns what the environment of PyTorch's workers needs on a machine that others use.

    GNU OpenMP's threads wait for each other in busy loops. On two cores at a load average of 10
    that took 25 times what waiting asleep took (a training step: 0.6 and 15 images/s), and
    TensorFlow, whose threads sleep, would have looked that much better. Alone on its cores the busy
    loop is what PyTorch's users have, so it stays there.
    """
    return {"OMP_WAIT_POLICY": "PASSIVE"} if busy > BUSY else {}


def _times() -> list[int]:
    """Ticks of user, nice, system, idle, waiting, ..., stolen."""
    try:
        line = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return [0] * 8
    return [int(field) for field in line.split()[1:9]]


def _version(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {name}"
