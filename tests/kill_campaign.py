"""Kills training runs with SIGKILL at random places and goes on, until they end by themselves.

Run as a program, this file forks a process for each try, before TensorFlow has started anything.
What a try does is counted in events: a step, or a file that is about to be flushed, about to get
its name, or has got it. At one of them it kills itself.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a fork does not find it
    from forks import Forks

COMPARED = ("last.safetensors", "best.safetensors", "log.csv", "result.json", "lr_find.csv")


def campaign(forks: "Forks", folder: Path, flags: list[str], kills: int, seed: int) -> int:
    """Trains a run whole, and again killed at random places; both must be the same bytes.

    Runs are begun anew until there were ``kills`` kills.

    Returns:
        How often a process was killed.

    Raises:
        AssertionError: a killed run ended in other bytes, or a process failed by itself.
    """
    words = ["-m", "tests.kill_campaign", str(folder), str(kills), str(seed), *flags]
    done = forks.run(words, timeout=3600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])["kills"]


def arm(at: int) -> None:
    """Has this process kill itself at its event number ``at``."""
    from medcolor_tf.training import callbacks, feature_cache, lr_finder

    count = 0

    def event():
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner, name, before=True, after=False):
        real = getattr(owner, name, None)

        def function(*arguments, **options):
            if before:
                event()
            result = real(*arguments, **options) if real else None
            if after:
                event()
            return result

        setattr(owner, name, function)

    around(os, "fsync")
    around(os, "replace", after=True)
    around(callbacks.AtCheckpoint, "on_train_batch_end")
    around(feature_cache, "_step")
    around(lr_finder._Ramp, "on_train_batch_end")


def attempt(flags: list[str], at: int, log: Path) -> int:
    """Runs the train command in a fork; returns its wait status."""
    child = os.fork()
    if not child:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        from medcolor_tf.train import main

        arm(at)
        status = main(flags)
        sys.stdout.flush()
        os._exit(status)
    return os.waitpid(child, 0)[1]


def main(folder: Path, kills: int, seed: int, flags: list[str]) -> None:
    """Does what :func:`campaign` says."""
    from medcolor_tf.commandline import ENVIRONMENT, import_tensorflow

    os.environ.update(ENVIRONMENT)
    sys.modules["tensorflow"] = __import__("tensorflow")  # imported, not started
    assert import_tensorflow
    import medcolor_tf.evaluation.evaluate
    import medcolor_tf.training.trainer  # noqa: F401

    chance = random.Random(seed)
    log = folder / "log.txt"
    status = attempt([*flags, f"--run_dir={folder / 'whole'}"], -1, log)
    assert status == 0, log.read_text()[-3000:]
    expected = content(folder / "whole")
    killed = number = 0
    while killed < kills:
        run = folder / f"run{number}"
        number += 1
        while True:
            # Tries that get nowhere do not count for ever: the later, the further they come.
            at = chance.randint(1, 60) if killed < kills else -1
            status = attempt([*flags, f"--run_dir={run}"], at, log)
            if status == 0:
                break
            assert status == signal.SIGKILL, (status, log.read_text()[-3000:])
            killed += 1
        assert content(run) == expected, run
        assert not list(run.glob(".*.tmp")), "left-overs"
    print(json.dumps({"kills": killed, "runs": number}))


def content(run: Path) -> dict[str, bytes]:
    """Returns the files that two equal runs have in common."""
    return {name: (run / name).read_bytes() for name in COMPARED if (run / name).exists()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
