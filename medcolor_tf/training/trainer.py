"""One loop that trains any strategy, resumes exactly, and leaves a run folder."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from medcolor_tf.commandline import command_line
from medcolor_tf.data.pipeline import Split, label_counts
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation import mean_auc, roc_auc
from medcolor_tf.evaluation.evaluate import evaluate, evaluate_model, first_pictures
from medcolor_tf.models.spec import BACKBONE_FILE, ModelSpec
from medcolor_tf.parallel import multihost, runtime
from medcolor_tf.parallel.multihost import Processes
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.training import callbacks, strategies
from medcolor_tf.training.lr_finder import LRCurve, find_lr
from medcolor_tf.training.schedule import OneCycle
from medcolor_tf.training.session import Plan, Session
from medcolor_tf.training.tensorboard import Log


def train(config: TrainConfig) -> dict | None:
    """Trains, or goes on with, the run that ``config`` describes.

    Args:
        config: options; :meth:`TrainConfig.check` is called here.

    Returns:
        The content of ``result.json`` (steps, best step, best validation AUC, ...) and, under
        "evaluations", what :func:`medcolor_tf.evaluation.evaluate.evaluate` says of each split in
        --evaluate. Of several processes (--hosts) the first returns it, the others None.

    Raises:
        InputError: contradictory options, unfit data or weights, or a run folder of another run.
    """
    config.check()
    if config.deterministic:
        runtime.make_deterministic()
    with (
        runtime.precision(config.mixed_precision),
        runtime.seeded(config.seed),
        multihost.joined(config) as group,
    ):
        result = _train_among(config, group)
    return result if group.writes else None


def _train_among(config: TrainConfig, group: Processes) -> dict:
    plan = Plan.of(config)
    run = runs.Run(Path(config.run_dir))
    command = command_line("medcolor_tf.train", config)
    record = runs.record(config, command, plan.train, plan.source)
    run.check(record)
    multihost.check_same(group, {"data": record["data_fingerprint"], "of": record["init_from"]})
    multihost.check_shared(group, run.folder, lambda: run.last_step)
    group.advise(lambda: _what_is_kept(run))
    if group.first(lambda: run.finished):
        if not group.writes:
            return {}
        print(f"{config.run_dir}: already finished")
        result = runs.read_json(run.folder / runs.RESULT)
        return result | {"evaluations": [_evaluate_again(config, s) for s in plan.others]}
    session = plan.build(run, group)
    if group.writes:
        run.claim(record)
        session.spec = run.save_model_spec(session.spec)
    with group.distribution():
        return _train(session) | {"evaluations": _evaluate(session, plan.others)}


def range_test(config: TrainConfig) -> LRCurve:
    """Runs the LR finder for the run that ``config`` describes; writes its curve to --run_dir."""
    config.check()
    if config.hosts:
        raise InputError(f"--hosts={','.join(config.hosts)}: the LR finder runs in one process")
    run = runs.Run(Path(config.run_dir))
    if run.folder.is_dir() and any(run.folder.iterdir()):
        raise InputError(f"--run_dir={run.folder}: not empty; give the LR finder a new folder")
    with runtime.precision(config.mixed_precision), runtime.seeded(config.seed):
        session = Plan.of(config).build(run)
        curve = find_lr(session.model, session.batches(0))
    run.folder.mkdir(parents=True, exist_ok=True)
    curve.save(run.folder)
    return curve


def _train(session: Session) -> dict:
    config, run = session.config, session.run
    start = _restore(session)
    max_lr = config.peak_rate() or _found_rate(session)
    _describe(session, start, max_lr)
    session.keep_in_memory(start)
    log = Log(run.folder / runs.TENSORBOARD) if session.group.writes else None
    if log and start == 0:
        log.hyper_parameters(config)
    cycle = OneCycle(
        session.total_steps,
        max_lr,
        div_factor=config.div_factor,
        final_div_factor=config.final_div_factor,
        pct_start=config.pct_start,
        momentum_range=config.momentum_range,
    )

    def at_checkpoint(step: int, loss: float) -> None:
        auc = roc_auc(*session.validate())
        if log:
            _checkpoint(session, log, step, loss, cycle(step - 1)[0], auc)
        session.group.exchange(None)  # nobody waits for the file inside a collective operation

    total, size = session.total_steps, config.batch_size
    for first, last, interval in _legs(start, total, session.interval):
        told = [callbacks.AtCheckpoint(first, interval, at_checkpoint)]
        if log:
            curve = callbacks.LossCurve(first, interval, log, config.log_every, size, cycle)
            told = [curve, *told, callbacks.Progress(first, interval, total, size, cycle)]
        session.fit(first, (last - first) // interval, interval, cycle, told)
    if log:
        log.close()
    return _finish(session, max_lr) if session.group.writes else {}


def _legs(start: int, total: int, interval: int) -> list[tuple[int, int, int]]:
    """Splits [start, total) into whole intervals and one shorter one: (first, last, interval)."""
    whole = start + (total - start) // interval * interval
    legs = [(start, whole, interval), (whole, total, total - whole)]
    return [leg for leg in legs if leg[0] < leg[1]]


def _restore(session: Session) -> int:
    """Loads the last checkpoint, if any, and returns its step."""
    if not session.run.started:
        return 0
    path = session.run.folder / runs.LAST
    arrays, metadata = checkpoint.load(path)
    checkpoint.assign(checkpoint.named_state(session.model, session.classifier), arrays, path)
    session.best = metadata["best"]
    return metadata["step"]


def _found_rate(session: Session) -> float:
    """Peak rate of --max_lr=auto: the one found before, or a new range test."""
    path = session.run.folder / "lr_find.json"
    before = session.group.first(lambda: path.is_file() and runs.read_json(path)["suggestion"])
    if before:
        return before
    print("LR finder:", end=" ", flush=True)
    curve: LRCurve = find_lr(session.model, session.batches(0))
    if session.group.writes:
        curve.save(session.run.folder)
    print(f"suggests {curve.suggestion:.3g} (curve: {session.run.folder / 'lr_find.png'})")
    return curve.suggestion


def _checkpoint(session: Session, log: Log, step: int, loss: float, rate: float, auc) -> None:
    """Keeps the best weights, logs, and last of all saves the full state."""
    folder, spec = session.run.folder, session.spec
    state = checkpoint.to_arrays(checkpoint.named_state(session.model, session.classifier))
    # The loss alone does not tell: a ReLU inside a convolution's kernel turns NaN into 0.
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise callbacks.diverged(f"{name} is not finite", step)
    mean = mean_auc(auc)
    # Not ">": where no observation has both classes the AUC is NaN, and the last weights count.
    if not mean <= session.best["auc"]:
        session.best = {"auc": mean, "step": step}
        named = checkpoint.to_arrays(checkpoint.named_weights(session.classifier))
        about = {"step": step, "valid_mean_auc": mean, "model": _about(spec)}
        checkpoint.save(folder / runs.BEST, named, about)
    per_observation = dict(zip(spec.observations, map(float, auc), strict=True))
    row = {"step": step, "loss": loss, "learning_rate": rate, "valid_mean_auc": mean}
    if session.pooled is None or not session.run.read_log():  # a frozen T paints them once
        log.pictures(step, *first_pictures(session.colorize, session.valid))
    session.run.append_log(row | {f"valid_auc {k}": v for k, v in per_observation.items()})
    log.scalars(step, {"valid/mean_auc": mean, "train/interval_loss": loss})
    log.scalars(step, {f"valid_auc/{name}": value for name, value in per_observation.items()})
    checkpoint.save(folder / runs.LAST, state, {"step": step, "best": session.best})
    tqdm.write(f"step {step}: training loss {loss:.4f}, validation mean AUC {mean:.4f}")


def _finish(session: Session, max_lr: float) -> dict:
    """Writes the best colorizer and, last, result.json."""
    folder, best = session.run.folder, session.best
    if session.spec.has_colorizer:
        arrays, _ = checkpoint.load(folder / runs.BEST)
        arrays = {k: v for k, v in arrays.items() if k.startswith("colorizer/")}
        about = {"model": _about(strategies.colorizer_spec(session.spec))}
        checkpoint.save(folder / runs.COLORIZER, arrays, about)
    result = {
        "steps": session.total_steps,
        "best_step": best["step"],
        "best_valid_mean_auc": best["auc"] if np.isfinite(best["auc"]) else None,
        "max_lr": max_lr,
        "train_images": len(session.train),
        "valid_images": len(session.valid),
    }
    runs.write_json(folder / runs.RESULT, result)
    return result


def _evaluate(session: Session, splits: Iterable[Split]) -> list[dict]:
    """Evaluates the best weights, in the model that is built already."""
    metadata = checkpoint.load_parts(session.classifier, session.run.folder / runs.BEST)
    multihost.check_same(session.group, {"the best weights of step": metadata["step"]})
    config = session.config
    about = {
        "run_dir": config.run_dir,
        "weights": "best",
        "step": metadata["step"],
        "mixed_precision": config.mixed_precision,
    }
    parts = session.spec, session.classifier, session.colorize
    size, folder = config.batch_size, session.run.folder
    group = session.group
    return [evaluate_model(*parts, split, size, about, folder, group) for split in splits]


def _what_is_kept(run: runs.Run) -> str:
    """The end of the message when another process is gone."""
    try:
        step = run.last_step
    except InputError:
        step = 0
    if step:
        return (
            f". The checkpoint of step {step} in {run.folder} is kept: the same command on all "
            "machines goes on there"
        )
    return ". There was no checkpoint yet: the same command on all machines starts anew"


def _evaluate_again(config: TrainConfig, split: Split) -> dict:
    """Reads the evaluation of a finished run, or makes it where it is missing or another's."""
    path = Path(config.run_dir) / f"evaluation-{split.split}.json"
    wanted = {
        "weights": "best",
        "uncertain_policy": dict(split.policy),
        "mixed_precision": config.mixed_precision,
    }
    if path.is_file():
        found = runs.read_json(path)
        if all(found.get(name) == value for name, value in wanted.items()):
            return found
    policy, size = config.uncertain_policy, config.batch_size
    chosen = split.split, "best", policy, size
    return evaluate(
        config.run_dir, config.data_dir, *chosen, mixed_precision=config.mixed_precision
    )


def _about(spec: ModelSpec) -> dict:
    """The description kept inside weight files; the path of a local backbone is left out."""
    if spec.backbone.endswith(".keras"):
        spec = dataclasses.replace(spec, backbone=BACKBONE_FILE)
    return dataclasses.asdict(spec)


def _describe(session: Session, start: int, max_lr: float) -> None:
    """Says, before it takes time, what is about to be trained on what."""
    config, spec, train = session.config, session.spec, session.train
    trained = sum(int(np.prod(v.shape)) for v in session.model.trainable_variables)
    parts = ", ".join(strategies.STRATEGIES[config.strategy].trains)
    print(
        f"strategy {config.strategy}: trains {parts} ({trained:,} parameters); "
        f"colorizer {spec.colorizer}, backbone {spec.backbone}"
    )
    if config.backbone_weights == "none" and not config.init_from:
        print("the backbone starts from RANDOM weights, not from ImageNet's")
    print(
        f"{len(train):,} training and {len(session.valid):,} validation images of "
        f"{spec.image_size} px; {session.total_steps:,} steps of {config.batch_size}, "
        f"checkpoint every {session.interval:,}; peak learning rate {max_lr:.3g}"
    )
    if note := runtime.xla_note(session.model):
        print(note)
    for name, counts in label_counts(train.labels, spec.observations).items():
        if not counts["positive"] or not counts["negative"]:
            print(f"warning: {name} has only one class in the training images: {counts}")
    if start:
        print(f"resuming at step {start:,}")
