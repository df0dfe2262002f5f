"""Trains any strategy, resumes exactly, and leaves a run folder.

:func:`train` reads from top to bottom: plan, build, restore, loop, finish. :class:`Trainer` holds
what is open meanwhile, in the order data, model, state, loop, finish.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from medcolor_tf import interrupts
from medcolor_tf.commandline import command_line
from medcolor_tf.data import damage
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.color_table import ColorTable
from medcolor_tf.evaluation.evaluate import first_pictures
from medcolor_tf.evaluation.inference import Predict, predict_split, predictor
from medcolor_tf.evaluation.metrics import mean_auc, roc_auc
from medcolor_tf.interrupts import StopRequest
from medcolor_tf.keras_ops import ops
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.parallel import multihost, replicas, runtime
from medcolor_tf.parallel.multihost import ALONE, Processes
from medcolor_tf.parallel.replicas import unsharded
from medcolor_tf.private_paths import recorded
from medcolor_tf.progress import say
from medcolor_tf.runs import checkpoint, resume
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.checkpoint import Best, LossSums, TrainState
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.runs.folder import Run
from medcolor_tf.serving.evaluate_run import (
    colorizer_of,
    evaluate_model,
    evaluate_once,
    origin_of,
)
from medcolor_tf.sharing import colormap, pretrained
from medcolor_tf.training import callbacks, device_cache, feature_cache, strategies
from medcolor_tf.training.build import initial_classifier, set_image_side, training_model
from medcolor_tf.training.inspection import NO_INSPECTION, Inspection
from medcolor_tf.training.lr_finder import LRCurve, find_lr
from medcolor_tf.training.optimizer import follow
from medcolor_tf.training.plan import TrainPlan
from medcolor_tf.training.schedule import tabulate
from medcolor_tf.training.stopping import IntervalLoss, KerasLoss, StopAtStep
from medcolor_tf.training.tensorboard import Log

SHOWN_IDS = 64


def train(config: TrainConfig, inspection: Inspection = NO_INSPECTION) -> dict | None:
    """Trains, or goes on with, the run that ``config`` describes.

    Args:
        config: options; :meth:`TrainConfig.check` is called here.
        inspection: what TensorBoard is to show of how the model computes.

    Returns:
        The content of ``result.json`` (steps, best step, best validation AUC, ...) and, under
        "evaluations", what :func:`medcolor_tf.serving.evaluate_run.evaluate_run` says of each split
        in --evaluate. Of several processes (--hosts) the first returns it, the others None.

    Raises:
        InputError: contradictory options, unfit data or weights, or a run folder of another run.
    """
    config.check()
    inspection.check()
    if config.deterministic:
        runtime.make_deterministic()
    with (
        runtime.precision(config.mixed_precision),
        runtime.seeded(config.seed),
        multihost.joined(config) as processes,
    ):
        plan, run = TrainPlan.from_config(config), Run(Path(config.run_dir))
        run.check(record_of(plan))  # before the folder is touched
        only_writer = run.only_writer() if processes.is_main_process else contextlib.nullcontext()
        with only_writer, damage.named(*plan.splits):
            record = _checked_record(plan, run, processes)
            if processes.broadcast_from_main(lambda: resume.has_result(run)):
                return _finished_result(plan, run) if processes.is_main_process else None
            loaded = resume.load_state(run)
            processes.check_same({"the checkpoint of step": loaded[0].step if loaded else 0})
            trainer = Trainer.build(plan, run, processes, loaded)
            trainer.inspection = inspection
            trainer.claim_folder(record)
            with processes.distribution():
                trainer.restore(loaded)
                del loaded  # as large as the model and its optimizer
                trainer.fit()
                result = trainer.finish() | {"evaluations": trainer.evaluate()}
            for line in damage.describe(plan.splits):
                print(line)
    return result if processes.is_main_process else None


def range_test(config: TrainConfig) -> LRCurve:
    """Runs the LR finder for the run that ``config`` describes; writes its curve to --run_dir."""
    config.check()
    if config.hosts:
        raise InputError(f"--hosts={','.join(config.hosts)}: the LR finder runs in one process")
    run = Run(Path(config.run_dir))
    with (
        runtime.precision(config.mixed_precision),
        runtime.seeded(config.seed),
    ):
        plan = TrainPlan.from_config(config)
        with run.only_writer(), damage.named(plan.train):
            if not run.is_empty:
                raise InputError(
                    f"--run_dir={run.folder}: not empty; give the LR finder a new folder"
                )
            trainer = Trainer.build(plan, run)
            curve = find_lr(trainer.model, trainer.batches(0)).of_parts(config.lr_factors)
            curve.save(run.folder)
            for line in damage.describe([plan.train]):
                print(line)
    return curve


@dataclass
class Trainer:
    """A run while it trains.

    Attributes:
        plan: what is trained on what.
        run: the run folder.
        processes: that train together.
        spec: of the model; once the folder is claimed, with the folder's copy of a backbone file.
        classifier: raw images to logits, all weights.
        model: the compiled training model around it.
        step: steps done when training starts.
        best: the best checkpoint so far.
        max_lr: peak learning rate.
        frozen_features: where only C trains and its input is computed once, else None.
        device_images: where training images are in the accelerator's memory, else None.
        log: TensorBoard, in the process that writes.
        inspection: what TensorBoard is to show of how the model computes.
        loss: of an interval between checkpoints in whose middle training starts, else None.
        stop: whether a signal has come.
        open: what is closed when training ends, however it does.
    """

    plan: TrainPlan
    run: Run
    processes: Processes
    spec: ModelSpec
    classifier: keras.Model
    model: keras.Model
    step: int = 0
    best: Best = field(default_factory=Best)
    max_lr: float = 0.0
    frozen_features: feature_cache.FrozenFeatures | None = None
    device_images: device_cache.DeviceImageCache | None = None
    log: Log | None = None
    inspection: Inspection = NO_INSPECTION
    loss: LossSums | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    # -- data --------------------------------------------------------------------------------------

    def batches(self, start_step: int) -> Any:
        """The training stream from a step on: images, image places or features, and labels."""
        config, train = self.plan.config, self.plan.train
        stream = config.batch_size, config.seed, start_step, config.shuffle_buffer
        if self.frozen_features is not None:
            return self.frozen_features.batches(train, *stream)
        if self.device_images is not None:
            return self.device_images.batches(*stream)
        return unsharded(train.training_batches(*stream, self.processes.part))

    def _cache_data(self) -> None:
        """Computes the features, or caches the decoded images, that every epoch needs again."""
        plan, processes = self.plan, self.processes
        once, reason = False, ""
        if processes.count == 1:  # several would not choose the same; --features=once is refused
            # Of the whole run, not of what is left: a resumed run must choose as it did before.
            once, reason = feature_cache.choose(
                plan.config, self.classifier, plan.train, plan.total_steps
            )
        if reason:
            print(reason)
        if once and self.step < plan.total_steps:
            self.frozen_features = feature_cache.FrozenFeatures.compute(
                plan.config, self.classifier, plan.train, plan.valid
            )
        elif not once:
            copies = max(replicas.of(self.model), processes.count)
            self.device_images, note = device_cache.cache_images(
                plan.config.cache,
                plan.train,
                plan.valid,
                self.model,
                copies,
                processes.local_process_count,
            )
            print(note)

    # -- model -------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        plan: TrainPlan,
        run: Run,
        processes: Processes = ALONE,
        loaded: tuple[TrainState, Path] | None = None,
    ) -> "Trainer":
        """Builds and compiles the model with the weights it starts from.

        Args:
            plan: what is trained on what.
            run: the run folder.
            processes: that train together.
            loaded: the checkpoint whose weights are taken and its file; None where the run is new.
        """
        state, origin = loaded or (None, "")
        with plan.devices.scope():
            if plan.devices.note:
                print(plan.devices.note)
            classifier = initial_classifier(plan, state, origin)
            strategies.set_trainable(classifier, plan.config.strategy, plan.config.frozen_bn)
            plan.devices.prepare(classifier)
            model = training_model(classifier, plan.spec.image_size, plan.config, processes)
            set_image_side(model, plan.image_side(0))
        return cls(plan, run, processes, plan.spec, classifier, model)

    @functools.cached_property
    def _colorize(self) -> Predict:
        return colorizer_of(self.classifier)

    def _color_table(self) -> ColorTable:
        """The colours of T, a color_map, as it is now."""
        spec, colorizer = self.spec, self.classifier.get_layer("colorizer")
        return ColorTable.from_colorizer(colorizer, spec.pixel_mean, spec.pixel_std, spec.max_value)

    # -- state -------------------------------------------------------------------------------------

    def claim_folder(self, record: dict) -> None:
        """Writes what the run is to its folder: config.json and the model's description."""
        if self.processes.is_main_process:
            self.run.claim(record)
            self.spec = self.run.save_model_spec(self.spec)

    def restore(self, loaded: tuple[TrainState, Path] | None) -> None:
        """Goes on from a checkpoint; None leaves a new run as it is."""
        if loaded is None:
            return
        state, origin = loaded
        state.restore(self.classifier, self.model, origin)
        self.step, self.best, self.loss = state.step, state.best, state.loss
        if self.processes.is_main_process:  # which writes the best weights
            self.best = resume.mend(self.run, state, origin, self.spec)

    # -- loop --------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Trains from where the run is to its end, with a checkpoint after each interval."""
        config, plan = self.plan.config, self.plan
        self.max_lr = config.peak_rate() or self._suggested_rate()
        self._describe()
        self._cache_data()
        if self.processes.is_main_process:
            self.log = Log(self.run.folder)
            if self.step == 0:
                self.log.hyper_parameters(self._options_used(), config.evaluate)
            if self.inspection.graph:
                side = self.spec.image_size
                self.log.graph(self.classifier, (None, side, side, self.spec.input_channels))
        stoppable = interrupts.deferred("finishing the step, then saving")
        with contextlib.ExitStack() as self.open, stoppable as self.stop:
            for first, last, interval in plan.segments(self.step):
                if self._ends_early(first):
                    break
                self._fit_segment(first, (last - first) // interval, interval)

    def _options_used(self) -> dict[str, Any]:
        """The options of the run, with what stands for those that were not set."""
        plan = self.plan
        options = dataclasses.asdict(recorded(plan.config))
        for name, value in options.items():
            if isinstance(value, tuple):
                options[name] = ",".join(value)
        return options | {
            "max_lr": self.max_lr,
            "lr_multipliers": ",".join(f"{k}={v:g}" for k, v in plan.config.lr_factors.items()),
            "steps": plan.total_steps,
            "checkpoint_every": plan.checkpoint_interval,
            "image_size": plan.spec.image_size,
            "backbone": Path(plan.spec.backbone).name,
            "observations": ",".join(plan.spec.observations),
            "colorizer": plan.spec.colorizer,
            "colorizer_init": plan.spec.colorizer_init,
            "train_images": len(plan.train),
        }

    @functools.cached_property
    def schedule(self) -> callbacks.Schedule:
        """Step -> (learning rate, momentum)."""
        return self.plan.schedule(self.max_lr)

    def _describe(self) -> None:
        """Says, before it takes time, what is about to be trained on what."""
        parameters = parameter_count(self.model.trainable_variables)
        lines = self.plan.describe(self.spec, parameters, self.max_lr)
        if note := runtime.xla_note(self.model):
            lines.append(note)
        lines += self.plan.one_sided_labels() + damage.describe(self.plan.splits)
        if self.step:
            lines.append(f"resuming at step {self.step:,}")
        print("\n".join(lines))

    def _fit_segment(self, first: int, epochs: int, steps: int) -> None:
        """Trains ``epochs`` times ``steps`` steps from step ``first`` on."""
        config, batches = self.plan.config, self.batches(first)
        model = self.model if self.device_images is None else self.device_images.model
        if self.frozen_features is not None:
            loss = feature_cache.HeadLoss()
            feature_cache.fit_head(
                model,
                batches,
                epochs,
                steps,
                self.schedule,
                config.log_every,
                self._callbacks(first, steps, loss),
                loss,
                self.stop,
                config.lr_factors.get("head", 1.0),
            )
            return
        observers = self._callbacks(first, steps, KerasLoss(model))
        together = runtime.steps_together(config.steps_per_execution, steps)
        table = tabulate(self.schedule, self.plan.total_steps)
        resized = set_image_side(self.model, self.plan.image_side(first))
        # The optimizer looks rate and momentum up inside the step, by its iterations.
        if follow(model.optimizer, table) or resized or together != model.steps_per_execution:
            model.steps_per_execution = together
            model.make_train_function(force=True)
        model.fit(
            batches,
            epochs=epochs,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=observers,
        )

    def _callbacks(
        self, first: int, interval: int, loss: IntervalLoss
    ) -> list[keras.callbacks.Callback]:
        total, config = self.plan.total_steps, self.plan.config
        at_checkpoint = callbacks.AtCheckpoint(first, interval, self._checkpoint)
        segment = first, interval, self.loss if first == self.step else None
        stop = StopAtStep(*segment, self._agreed, loss, self._save_amid, self.run.how_to_go_on)
        if not self.log:
            return [at_checkpoint, stop]
        size, schedule = config.batch_size, self.schedule
        curve = callbacks.LossCurve(
            *segment, self.log, config.log_every, size, schedule, config.lr_factors
        )
        progress = callbacks.Progress(*segment, total, size, schedule, self._diverged)
        self.open.callback(progress.close)  # a run that ends in an error too
        profile = callbacks.Profile(*segment, self.run.folder, self.inspection.profiled)
        return [curve, at_checkpoint, progress, *([profile] if profile.steps else []), stop]

    def _agreed(self, step: int, loss: Any) -> int:
        """Returns the signal at which all processes end after this step, 0 to go on."""
        if self.processes.count > 1:
            float(loss)  # waits for the step, so that nobody is further ahead than the next one
        return self.processes.stop_signal(self.stop.signum, step)

    def _save_amid(self, step: int, loss: LossSums) -> None:
        """Saves the state alone, in the middle of an interval: no validation, no row in the log."""
        if self.processes.is_main_process:
            state = TrainState.capture(step, self.best, self.classifier, self.model)
            self._check_finite(state)
            resume.write_checkpoint(self.run, dataclasses.replace(state, loss=loss))
        self.processes.all_gather(None)

    def _check_finite(self, state: TrainState) -> None:
        """Refuses to save what cannot be gone on from.

        The loss alone does not tell: a ReLU inside a convolution's kernel turns NaN into 0.
        """
        if name := callbacks.not_finite(state.arrays):
            what = f"{name} is not finite at step {state.step}, nor perhaps in the steps before"
            raise callbacks.diverged(what, self.run.what_is_kept())

    def _diverged(self, what: str, before: int, step: int) -> InputError:
        """Returns the error of a run that diverged in the steps after ``before`` up to ``step``."""
        config = self.plan.config
        stream = config.batch_size, config.seed, config.shuffle_buffer
        ids = self.plan.train.ids_of_steps(before, step, *stream)
        shown = ", ".join(ids[:SHOWN_IDS]) + (", ..." if len(ids) > SHOWN_IDS else "")
        where = f"at step {step}"
        if step - before > 1:
            where = (
                f"in steps {before + 1} to {step}, which were one execution (the same command with "
                "--steps_per_execution=1 tells which)"
            )
        images = f"Its {len(ids)} images (keyed ids): {shown}. " if ids else ""
        return callbacks.diverged(f"{what} {where}", images + self.run.what_is_kept())

    def _checkpoint(self, step: int, loss: float) -> bool:
        """Validates in all processes and saves in one; returns whether training ends there."""
        labels, logits = self._validate()
        if self.processes.is_main_process:
            auc = roc_auc(labels, logits)
            self.save_checkpoint(step, loss, auc)
            self._log_validation(step, labels, logits)
        self.processes.all_gather(None)  # nobody waits for the file inside a collective operation
        return self._ends_early(step)

    def _ends_early(self, step: int) -> bool:
        """Whether the run has reached --stop_at_auc after ``step`` steps; all processes agree."""
        if not self.plan.config.stop_at_auc:
            return False
        return self.processes.broadcast_from_main(lambda: self._reached(step))

    def _reached(self, step: int) -> bool:
        """The same in the process that writes; of no step that is still to be done again."""
        target, best = self.plan.config.stop_at_auc, self.best
        return bool(0 < target <= best.auc and best.step <= step)

    def _validate(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns labels and logits of the validation images."""
        if self.frozen_features is not None:
            return self.frozen_features.validate(self.classifier)
        size, processes = self.plan.config.batch_size, self.processes
        predict = predictor(self.classifier, size)
        predictions = predict_split(
            predict, self.plan.valid, size, part=processes.part, gather=processes.gather_rows
        )
        return predictions.labels, predictions.logits

    def save_checkpoint(self, step: int, loss: float, auc: np.ndarray) -> None:
        """Saves the best weights, logs, and last of all saves the full state.

        Args:
            step: steps done.
            loss: mean training loss since the last checkpoint.
            auc: (L,) of the validation images, NaN where undefined.
        """
        mean, best = mean_auc(auc), b""
        state = TrainState.capture(step, self.best, self.classifier, self.model)
        self._check_finite(state)
        # Not ">": where no observation has both classes the AUC is NaN, and the last weights count.
        if not mean <= self.best.auc:
            self.best = Best(mean, step)
            best = resume.best_content(state.weights, self.best, self.spec)
        log = self._log_checkpoint(step, loss, auc)
        resume.write_checkpoint(self.run, dataclasses.replace(state, best=self.best), best, log)
        say(f"step {step}: training loss {loss:.4f}, validation mean AUC {mean:.4f}")

    def _log_checkpoint(self, step: int, loss: float, auc: np.ndarray) -> str:
        """Adds pictures and points to TensorBoard; returns log.csv with another row."""
        assert self.log is not None, "only the process that writes logs"
        per_observation = dict(zip(self.spec.observations, map(float, auc), strict=True))
        rate, _ = self.schedule(step - 1)
        row = {
            "step": step,
            "loss": loss,
            "learning_rate": rate,
            **{f"learning_rate {p}": rate * f for p, f in self.plan.config.lr_factors.items()},
            "valid_mean_auc": mean_auc(auc),
        }
        sizes = {"image_size": self.plan.image_side(step - 1)} if len(self.plan.stages) > 1 else {}
        painted = self.frozen_features is not None and self.run.read_log()  # a frozen T, once
        if self.spec.has_colorizer and not painted:
            self.log.pictures(step, *first_pictures(self._colorize, self.plan.valid))
            if self.spec.is_gray_map:
                self.log.color_table(step, self._color_table().to_picture())
        named = {f"train/{name}": float(side) for name, side in sizes.items()}
        self.log.scalars(step, {"train/interval_loss": loss} | named)
        per_observation = {f"valid_auc {name}": value for name, value in per_observation.items()}
        return self.run.log_with(row | sizes | per_observation)

    def _log_validation(self, step: int, labels: np.ndarray, logits: np.ndarray) -> None:
        assert self.log is not None, "only the process that writes logs"
        loss = ops.convert_to_numpy(self.model.loss(labels, logits.astype(np.float32)))
        self.log.validation(step, self.spec.observations, labels, logits, float(loss))

    def _suggested_rate(self) -> float:
        """Peak rate of --max_lr=auto: the one found before, or a new range test's."""
        before = self.processes.broadcast_from_main(
            lambda: resume.suggested_rate(self.run, self.step)
        )
        if before:
            return before
        print("LR finder:", end=" ", flush=True)
        curve: LRCurve = find_lr(self.model, self.batches(0)).of_parts(self.plan.config.lr_factors)
        if self.processes.is_main_process:
            curve.save(self.run.folder)
            self.run.write({runs.LR_FINDER: curve.to_dict()})
        plot = self.run.folder / runs.LR_FINDER_PLOT
        parts = f"; {curve.parts}" if curve.parts else ""
        print(f"suggests {curve.suggestion:.3g}{parts} (curve: {plot})")
        if curve.warning:
            print(curve.warning)
        return curve.suggestion

    # -- finish ------------------------------------------------------------------------------------

    def finish(self) -> dict:
        """Writes the best colorizer and, last, result.json; returns its content."""
        if not self.processes.is_main_process:
            return {}
        plan, best = self.plan, self.best
        if self.spec.has_colorizer:
            pretrained.save_colorizer(self.run.folder, self.spec)
        if self.spec.is_gray_map:
            colormap.write_to_run(self.run)
        stopped = self._reached(plan.total_steps) and best.step < plan.total_steps
        result = {
            "steps": best.step if stopped else plan.total_steps,
            "best_step": best.step,
            "best_valid_mean_auc": best.auc if np.isfinite(best.auc) else None,
            "max_lr": self.max_lr,
            **({"lr_multipliers": factors} if (factors := plan.config.lr_factors) else {}),
            "train_images": len(plan.train),
            "valid_images": len(plan.valid),
        }
        if stopped:
            result["stopped"] = (
                f"at step {best.step:,} of {plan.total_steps:,}: the mean AUC of the validation "
                f"images, {best.auc:.4f}, reached --stop_at_auc={plan.config.stop_at_auc:g}"
            )
            say(f"training ended {result['stopped']}")
        if plan.config.max_bad_records:
            result["bad_records"] = {s.split: len(s.bad_records) for s in plan.splits}
        self.run.write({runs.RESULT: result})
        return result

    def evaluate(self) -> list[dict]:
        """Evaluates the best weights on the splits of --evaluate, in the model at hand."""
        config, run, processes = self.plan.config, self.run, self.processes
        metadata = checkpoint.load_parts(self.classifier, run.checked(runs.BEST))
        processes.check_same({"the best weights of step": metadata["step"]})
        origin = origin_of(
            config.run_dir,
            "best",
            metadata["step"],
            config.mixed_precision,
            config.data_dir if config.private_paths else "",
        )
        evaluations = [
            evaluate_model(
                self.spec,
                self.classifier,
                split,
                config.batch_size,
                origin,
                run.folder,
                self._colorize,
                processes,
            )
            for split in self.plan.evaluated
        ]
        if self.log:
            for evaluation in evaluations:
                self.log.evaluation(metadata["step"], evaluation)
            self.log.close()
        return evaluations


def _checked_record(plan: TrainPlan, run: Run, processes: Processes) -> dict:
    """Returns the content of config.json; the folder is new or holds this very run.

    Raises:
        InputError: it holds another one, or the processes do not see the same folder and data.
    """
    record = record_of(plan)
    run.check(record)  # once more: another process may have written in between
    processes.check_same({"data": record["data_fingerprint"], "of": record["init_from"]})
    run.check_shared(processes)
    processes.advise(run.resume_advice)
    return record


def parameter_count(variables: Iterable[keras.Variable]) -> int:
    """Returns how many numbers the variables hold."""
    return sum(int(np.prod(v.shape)) for v in variables)


def record_of(plan: TrainPlan) -> dict:
    """Returns the content of config.json."""
    config = recorded(plan.config)
    command = command_line("medcolor_tf.train", config)
    bad_records = damage.record_places((plan.train, plan.valid))
    return runs.record(config, command, plan.train, plan.source, bad_records)


def _finished_result(plan: TrainPlan, run: Run) -> dict:
    """Returns what a finished run found; evaluates where an evaluation is missing or another's."""
    config = plan.config
    print(f"{config.run_dir}: already finished")
    result = run.read_json(runs.RESULT)
    evaluations = [
        evaluate_once(
            config.run_dir, split, config.batch_size, config.mixed_precision, config.private_paths
        )
        for split in plan.evaluated
    ]
    return result | {"evaluations": evaluations}
