"""The checkpoints of a run: how they are written, and which of them a run goes on from."""

from collections.abc import Mapping
from pathlib import Path

from medcolor_tf.errors import InputError
from medcolor_tf.progress import say
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs.checkpoint import Best, TrainState
from medcolor_tf.runs.folder import BEST, LAST, LOG, LR_FINDER, PREVIOUS, RESULT, Run


def write_checkpoint(run: Run, state: TrainState, best: bytes = b"", log: str = "") -> None:
    """Writes a checkpoint; the one that was the last becomes the previous one.

    Args:
        run: the run folder.
        state: of the run.
        best: new content of the best weights' file; b"" where it stays.
        log: the whole log; "" where it stays.
    """
    files: dict[str, bytes | str | Path] = {}
    if best:
        files[BEST] = best
    if log:
        files[LOG] = log
    if (run.folder / LAST).is_file():
        files[PREVIOUS] = run.folder / LAST
    run.write(files | {LAST: state.to_bytes()}, log)


def best_content(weights: Mapping, best: Best, spec) -> bytes:
    """Returns the content of the best weights' file.

    Args:
        weights: of T, E and C by name.
        best: their validation mean AUC and step.
        spec: :class:`medcolor_tf.models.spec.ModelSpec` of the model.
    """
    metadata = {"step": best.step, "valid_mean_auc": best.auc, "model": spec.to_dict()}
    return checkpoint.to_bytes(weights, metadata)


def load_state(run: Run) -> tuple[TrainState, Path] | None:
    """Reads the checkpoint that a run goes on from: the last one, else the previous one.

    Returns:
        (state, file); None for a run that has not reached its first checkpoint.

    Raises:
        InputError: there were checkpoints, and none can be read; names both files.
    """
    if not run.started and not _had_checkpoint(run):
        if (run.folder / BEST).is_file():
            say(
                f"note: {run.folder}: stopped before its first checkpoint was complete; training "
                "starts anew"
            )
        return None
    problems = []
    for name in (LAST, PREVIOUS):
        try:
            path = run.checked(name)
            state = TrainState.load(path)
        except InputError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            say(
                f"warning: {problem}\nwarning: going on from the checkpoint before it, {path} of "
                f"step {state.step:,}"
            )
        return state, path
    raise InputError(
        f"{run.folder}: no checkpoint can be read, so the run cannot go on:\n  "
        + "\n  ".join(problems)
        + "\nRestore one of the two from a copy, or delete the folder to train anew"
    )


def _had_checkpoint(run: Run) -> bool:
    """Whether a folder without a checkpoint file shows that there was one."""
    if (run.folder / RESULT).is_file() or run.lists(LAST) or run.lists(PREVIOUS):
        return True
    if run.manifest(LAST) is not None:
        return False  # killed while it wrote its first checkpoint: the log may be there already
    return len(run.read_log()) > 1


def mend(run: Run, state: TrainState, origin: Path, spec) -> Best:
    """Makes the files of a run agree with the checkpoint that it goes on from.

    The best weights may be those of a later checkpoint, which was lost: they count, since a run
    that does it again finds the same. Damaged ones are written again where a checkpoint has them.

    Args:
        run: the run folder.
        state: of the checkpoint.
        origin: its file.
        spec: :class:`medcolor_tf.models.spec.ModelSpec` of the model.

    Returns:
        The best checkpoint so far.

    Raises:
        InputError: the best weights are damaged, and no checkpoint has them.
    """
    if origin.name == PREVIOUS:
        run.write({LAST: origin})
    if not state.best.step and not (run.folder / BEST).is_file():
        return state.best  # stopped before the first interval was complete
    try:
        stored = checkpoint.load_best(run.checked(BEST))
        if stored.step >= state.best.step:
            return stored
        problem = (
            f"{run.folder / BEST}: of step {stored.step:,}, expected the best weights, of step "
            f"{state.best.step:,}"
        )
    except InputError as error:
        problem = str(error)
    weights = _weights_of_best(run, state)
    if weights is None:
        raise InputError(
            f"{problem}\nThe checkpoints there are do not have the best weights, of step "
            f"{state.best.step:,}; restore the file from a copy, or delete {run.folder} to train "
            "anew"
        )
    run.write({BEST: best_content(weights, state.best, spec)})
    say(
        f"warning: {problem}\nwarning: written again from the checkpoint of step "
        f"{state.best.step:,}"
    )
    return state.best


def _weights_of_best(run: Run, state: TrainState) -> Mapping | None:
    if state.best.step == state.step:
        return state.weights
    try:
        earlier = TrainState.load(run.checked(PREVIOUS))
    except InputError:
        return None
    return earlier.weights if earlier.step == state.best.step else None


def has_result(run: Run) -> bool:
    """Whether the run is finished; a damaged result is said, and is made again."""
    if not run.finished:
        return False
    try:
        run.read_json(RESULT)
    except InputError as error:
        say(f"warning: {error}\nwarning: it is made again from the last checkpoint")
        return False
    return True


def suggested_rate(run: Run, step: int) -> float | None:
    """Returns the peak rate that the LR finder found; None where it has to find one.

    Args:
        run: the run folder.
        step: steps done; the finder needs the weights of a new run.

    Raises:
        InputError: after the first step, the finder's result is missing or damaged.
    """
    if step == 0 and not (run.folder / LR_FINDER).is_file():
        return None
    try:
        return run.read_json(LR_FINDER)["suggestion"]
    except InputError as error:
        if step:
            raise InputError(
                f"{error}\nThe peak rate of this run stands there; give it as --max_lr in a new "
                "--run_dir, or restore the file from a copy"
            ) from None
        say(f"warning: {error}\nwarning: the LR finder runs again")
        return None
