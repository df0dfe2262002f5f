"""Runs a study: each run in a process of its own, finished ones skipped, failed ones told."""

import functools
import os
import shlex
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from medcolor_tf import interrupts
from medcolor_tf.data import schema
from medcolor_tf.errors import InputError
from medcolor_tf.files import (
    read_json,
    remove_leftovers,
    write_atomically,
    write_json,
    writing,
)
from medcolor_tf.interrupts import Interrupted, StopRequest
from medcolor_tf.locks import locked, refusal
from medcolor_tf.private_paths import (
    command_without_folders,
    text_without_folders,
    without_folders,
)
from medcolor_tf.progress import counted
from medcolor_tf.runs.folder import DIVERGED, Run
from medcolor_tf.studies import candidates, grid, tuning
from medcolor_tf.studies import workers as study_workers
from medcolor_tf.studies.grid import PlannedRun, StudyConfig
from medcolor_tf.studies.workers import NOT_BEGUN, THREADS, RunEnd, RunTask, Workers


def run_study(config: StudyConfig) -> int:
    """Does what is left of a study; the same command continues after an interruption.

    A run that fails does not end the others, only those that start from it. A signal is passed on
    to the runs at work, and nothing new is started.

    Args:
        config: options.

    Returns:
        Exit status: 0, or 1 when a run failed.

    Raises:
        InputError: a study that cannot be run, or a folder with runs of other options.
        Interrupted: after a signal, once the runs at work have ended.
    """
    planned = grid.plan(config)
    candidates.check(config)
    folder = Path(config.study_dir)
    if config.dry_run:
        if candidates.axes(config):
            print("\n".join(tuning.describe(config)))
            planned = _plan_of_finished_tuning(config)
        _list(grid.shard_of(planned, config.shard), _states(planned, config))
        return 0
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with (
        _only_one(folder, config.shard) as lock,
        study_workers.started(config, lock) as workers,
    ):
        for place in (folder, folder / grid.FAILURES):
            remove_leftovers(place)
        if candidates.axes(config):
            chosen = tuning.tune(config, functools.partial(_run_trials, config, workers))
            if chosen is None:
                print("the tuning is not finished; the same command goes on")
                return 1
            if config.tune_only:
                return 0
            planned = grid.plan(config, chosen)
        _save_plan(folder, config, planned)
        mine = grid.shard_of(planned, config.shard)
        # Another process may have finished runs while this one waited.
        status = _Schedule(config, mine, _states(planned, config), workers).work()
    if status == 0:
        print(f"next: python -m medcolor_tf.report {folder} --out={folder / 'report'}")
    return status


def _states(planned: list[PlannedRun], config: StudyConfig) -> dict[str, str]:
    return {run.name: state(run, config) for run in planned}


def _plan_of_finished_tuning(config: StudyConfig) -> list[PlannedRun]:
    """The runs with the options that were chosen; [] and a word where trials are left to do."""

    def all_done(trials: list[PlannedRun], title: str) -> bool:
        return not _unfinished(config, trials)

    chosen = tuning.tune(config, all_done, save=False)
    if chosen is None:
        print("# the study's own runs are known when the tuning is done")
        return []
    return grid.plan(config, chosen)


def _run_trials(
    config: StudyConfig, workers: Workers, trials: list[PlannedRun], title: str
) -> bool:
    """Brings trials to their end; False where one failed, other than by diverging."""
    left = _unfinished(config, trials)
    if left and config.shard:
        raise InputError(
            f"--shard={config.shard}: {len(left)} trials of the tuning are left, which all shards "
            "need; run the same command with --tune_only and without --shard first"
        )
    if left:
        states = {run.name: "new" for run in left}
        return _Schedule(config, left, states, workers, title).work() == 0
    return True


def _unfinished(config: StudyConfig, trials: list[PlannedRun]) -> list[PlannedRun]:
    """The trials that are neither finished nor known to diverge."""
    unfinished = []
    for run in trials:
        now = state(run, config)
        if now == "failed":
            failure = read_json(_failure_path(config, run.name))
            now = "finished" if _is_divergence(run, failure) else now
        if now != "finished":
            unfinished.append(run)
    return unfinished


def _is_divergence(run: PlannedRun, failure: Mapping) -> bool:
    """Whether a trial, which has no split to evaluate, failed because of the values it tried."""
    return (
        not run.config.evaluate
        and DIVERGED in failure["reason"]
        and failure["command"] in (run.command, command_without_folders(run.command))
    )


def state(run: PlannedRun, config: StudyConfig) -> str:
    """Returns "finished", "interrupted", "failed" or "new".

    Raises:
        InputError: the folder holds a run of other options or data, which must not be taken for
            this one.
    """
    files = Run(Path(run.config.run_dir))
    started = files.finished or files.started
    if started:
        fingerprint = schema.DatasetInfo.load(run.config.data_dir).fingerprint
        record = {
            "flags": vars(run.config),
            "data_fingerprint": fingerprint,
            "lr_multipliers": run.config.lr_factors,
        }
        if changed := files.differences(record):
            raise InputError(
                f"{files.folder} holds a run with other options: {'; '.join(changed)}. Choose "
                "another --study_dir, or delete that run"
            )
    if files.finished and all(files.evaluation(s).is_file() for s in run.config.evaluate):
        return "finished"
    if _failure_path(config, run.name).is_file():
        return "failed"
    return "interrupted" if started else "new"


class _Schedule:
    """Starts runs as their sources finish, some at a time.

    Args:
        config: the study.
        planned: the runs to do, each after its source.
        states: name -> state, of all runs of the study.
        workers: that do the runs.
        title: of the runs, in what is printed.
    """

    def __init__(
        self,
        config: StudyConfig,
        planned: list[PlannedRun],
        states: dict,
        workers: Workers,
        title: str = "",
    ):
        self.config, self.workers, self.states = config, workers, dict(states)
        self.title = title or f"study {config.name}"
        self.waiting = [run for run in planned if states[run.name] != "finished"]
        self.total, self.done = len(planned), len(planned) - len(self.waiting)
        self.jobs = workers.jobs
        self.free_gpus = list(config.gpus)
        self.failed: list[str] = []
        self.stop = StopRequest()

    def work(self) -> int:
        """Returns the exit status when nothing is left to do; Interrupted after a signal."""
        before = f"{self.title}: {self.total} runs, {self.done} finished before"
        print(before + ("" if self.config.cluster else f"; {self.jobs} at a time"), flush=True)
        running: dict[Future[RunEnd], tuple[PlannedRun, str | None]] = {}
        words = "the runs at work save and end, no other one is started"
        with interrupts.deferred(words, self.workers.stop) as self.stop:
            while self.waiting or running:
                while len(running) < self.jobs and not self.stop.signum and (run := self._next()):
                    gpu = self.free_gpus.pop(0) if self.free_gpus else None
                    running[self._start(run, gpu)] = run, gpu
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    run, gpu = running.pop(future)
                    if gpu is not None:
                        self.free_gpus.append(gpu)
                    self._report(run, future.result())
        if self.stop.signum:
            raise Interrupted(
                self.stop.signum,
                f"{self.done} of {self.total} runs are done; the same command goes on",
            )
        for run in self.waiting:
            print(f"not run: {run.name}, which starts from {run.needs}")
        if self.failed:
            print(f"{len(self.failed)} of {self.total} runs failed; the same command tries again")
        return 1 if self.failed else 0

    def _next(self) -> PlannedRun | None:
        """The first run whose source is finished, taken off the list."""
        for run in self.waiting:
            if not run.needs or self.states[run.needs] == "finished":
                self.waiting.remove(run)
                return run
        return None

    def _start(self, run: PlannedRun, gpu: str | None) -> Future[RunEnd]:
        """Hands a run to the workers, with a log that can be written."""
        log = _log_path(self.config, run.name)
        with writing(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.open("ab").close()
        words = tuple(shlex.split(run.command)[1:])
        environment = _environment(self.jobs, gpu)
        return self.workers.submit(
            RunTask(words, os.getcwd(), str(log), run.config.run_dir, environment)
        )

    def _report(self, run: PlannedRun, end: RunEnd) -> None:
        status, seconds, log = end.status, end.seconds, _log_path(self.config, run.name)
        if self.config.private_paths:
            text = log.read_text(encoding="utf-8", errors="replace")
            write_atomically(log, text_without_folders(text, _paths(self.config, run)))
        if status and self.stop.signum:
            if end != NOT_BEGUN:
                print(f"interrupted: {run.name}", flush=True)
            return
        failure = _failure_path(self.config, run.name)
        self.states[run.name] = "failed" if status else "finished"
        self.done += 1
        head = f"[{self.done}/{self.total}] {run.name}"
        if status == 0:
            failure.unlink(missing_ok=True)
            split, auc = _outcome(run)
            shown = "undefined" if auc is None else f"{auc:.4f}"
            print(f"{head}: {split} mean AUC {shown} ({seconds:.0f} s)", flush=True)
            return
        reason = f"{end.reason}; " * bool(end.reason) + _last_line(log)
        about = {"command": run.command, "exit_status": status, "reason": reason, "log": str(log)}
        if self.config.private_paths:
            about |= {"command": command_without_folders(run.command), "log": log.name}
        failure.parent.mkdir(parents=True, exist_ok=True)
        write_json(failure, about)
        if _is_divergence(run, about):
            print(f"{head}: diverged, the worst of values ({seconds:.0f} s)", flush=True)
            return
        self.failed.append(run.name)
        print(f"{head}: FAILED with exit status {status}: {reason} ({log})", flush=True)


def _outcome(run: PlannedRun) -> tuple[str, float | None]:
    """The split that a run was evaluated on, and its mean AUC; of a trial, the validation's."""
    files = Run(Path(run.config.run_dir))
    for split in run.config.evaluate:
        return split, files.read_json(files.evaluation(split))["mean_auc"]
    return "validation", files.read_result()["best_valid_mean_auc"]


def _environment(jobs: int, gpu: str | None) -> dict[str, str]:
    """Runs at the same time share the processor; each gets its part of it."""
    environment = {}
    if jobs > 1 and THREADS not in os.environ:
        environment[THREADS] = str(max(1, (os.cpu_count() or 1) // jobs))
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment


def _only_one(folder: Path, shard: str):
    """The study's lock, which runs of this machine inherit.

    So a study that was killed stays locked until its last run is gone, and the same command,
    given again at once, waits for that one instead of training in the same folder.
    """
    path = folder / f".lock-{shard.replace('/', '-of-') or 'all'}"

    def busy():
        print(f"{refusal(f'study {path.parent}', path)}; waiting", flush=True)

    return locked(path, busy)


def _list(planned: list[PlannedRun], states: dict[str, str]) -> None:
    """Prints what a shell can run: a count, then a comment and a command for every run."""
    if planned:
        counts = Counter(states[run.name] for run in planned)
        listed = ", ".join(f"{count:,} {state}" for state, count in counts.items())
        print(f"# {counted(len(planned), 'run')}: {listed}")
    for run in planned:
        needs = f", starts from {run.needs}" if run.needs else ""
        print(f"# {run.name}: {states[run.name]}{needs}\n{run.command}")


def _save_plan(folder: Path, config: StudyConfig, planned: list[PlannedRun]) -> None:
    """Writes what a report needs to say which runs are missing."""
    runs = [
        {"name": run.name, "needs": run.needs, "command": run.command, "flags": vars(run.config)}
        for run in planned
    ]
    if config.private_paths:
        for run in runs:
            run["command"] = command_without_folders(run["command"])
            run["flags"] = without_folders(run["flags"])
    content = {"name": config.name, "split": config.evaluate, "runs": runs}
    path = folder / grid.PLAN.format(config.name)
    write_json(path, content)


def _paths(config: StudyConfig, run: PlannedRun) -> list[str]:
    """Returns the paths that a run's log may name."""
    flags = vars(run.config)
    paths = (flags[name] for name in ("run_dir", "data_dir", "init_from", "backbone"))
    return [config.study_dir, *filter(None, paths)]


def _last_line(log: Path) -> str:
    """The last line of a log that says something: an error message, or a traceback's end."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def _log_path(config: StudyConfig, name: str) -> Path:
    return Path(config.study_dir) / grid.LOGS / f"{name}.log"


def _failure_path(config: StudyConfig, name: str) -> Path:
    return Path(config.study_dir) / grid.FAILURES / f"{name}.json"
