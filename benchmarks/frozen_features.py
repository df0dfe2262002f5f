"""An epoch of C alone: features computed once against the plain loop, interleaved in one process.

    python -m benchmarks.frozen_features --data_dir=tfrecords/nih64 --backbone=mobilenet.keras

Both train the same run (`baseline`, no augmentation). Each repetition times one epoch of the plain
loop, images resident in memory so that it is at its best, and then epochs on stored features, with
validation and checkpoint left out of both; then the same with them. Times are wall time: on a
machine that does other work look at the ratios, and at their spread.
"""

import argparse
import contextlib
import os
import tempfile
import time
from pathlib import Path

import numpy as np


def main(argv=None) -> None:
    """Prints seconds an epoch of both and their ratio: median and extremes over repetitions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--backbone", default="ResNet18")
    parser.add_argument("--backbone_weights", default="imagenet")
    parser.add_argument("--observations", default="", help="comma-separated; all when empty")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from medcolor_tf.data import image_cache

    with tempfile.TemporaryDirectory() as folder:
        plain, stored = (_session(options, Path(folder) / name) for name in ("plain", "stored"))
        image_cache.keep("ram", (plain.train, plain.valid))
        seconds = _compute_features(stored)
        print(f"{len(plain.train)} images, {plain.steps_per_epoch} steps an epoch")
        print(f"computing the features of both splits, once: {seconds:.2f} s")
        for checkpoint in (False, True):
            _compare(plain, stored, options.repetitions, checkpoint)


def _session(options, run_dir: Path):
    from medcolor_tf.runs import folder as runs
    from medcolor_tf.runs.config import TrainConfig
    from medcolor_tf.training.session import Plan

    config = TrainConfig(
        data_dir=options.data_dir,
        run_dir=str(run_dir),
        strategy="baseline",
        backbone=options.backbone,
        backbone_weights=options.backbone_weights,
        observations=tuple(filter(None, options.observations.split(","))),
        batch_size=options.batch_size,
        epochs=1000,
        augment_probability=0.0,
    )
    run = runs.Run(run_dir)
    session = Plan.of(config).build(run)
    run_dir.mkdir()
    return session


def _compute_features(session) -> float:
    from medcolor_tf.training.feature_cache import Features

    start = time.perf_counter()
    session.pooled = Features.compute(
        session.config, session.classifier, session.train, session.valid
    )
    return time.perf_counter() - start


def _compare(plain, stored, repetitions: int, checkpoint: bool) -> None:
    """Times both in turn; the first repetition, which traces and fills buffers, does not count."""
    times = np.array(
        [
            (_seconds_an_epoch(plain, 2, checkpoint), _seconds_an_epoch(stored, 12, checkpoint))
            for _ in range(repetitions + 1)
        ][1:]
    )
    ratio = times[:, 0] / times[:, 1]
    print("an epoch " + ("with validation and checkpoint" if checkpoint else "of training steps"))
    for name, values in (("plain", times[:, 0]), ("stored", times[:, 1]), ("ratio", ratio)):
        low, high = values.min(), values.max()
        print(f"  {name:<7} {np.median(values):10.4g}   ({low:.4g} to {high:.4g})")


def _seconds_an_epoch(session, epochs: int, checkpoint: bool) -> float:
    """Median over the epochs of one fit but the first, which opens the stream."""
    from medcolor_tf.runs import folder as runs
    from medcolor_tf.training import callbacks, trainer
    from medcolor_tf.training.schedule import OneCycle
    from medcolor_tf.training.tensorboard import Log

    ends = []
    log = Log(session.run.folder / runs.TENSORBOARD)

    def at_end(step: int, loss: float) -> None:
        if checkpoint:
            trainer._checkpoint(session, log, step, loss, cycle(step - 1)[0])
        ends.append(time.perf_counter())

    cycle = OneCycle(session.total_steps, 0.01)
    first, steps = int(session.model.optimizer.iterations), session.steps_per_epoch
    every, size = session.config.log_every, session.config.batch_size
    told = [
        callbacks.LossCurve(first, steps, log, every, size, cycle),
        callbacks.AtCheckpoint(first, steps, at_end),
    ]
    with contextlib.redirect_stdout(None):
        session.fit(first, epochs, steps, cycle, told)
    log.close()
    return float(np.median(np.diff(ends)))


if __name__ == "__main__":
    main()
