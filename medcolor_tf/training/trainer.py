"""Trains any strategy, resumes exactly, and leaves a run folder.

:func:`train` reads from top to bottom: plan, build, restore, loop, finish. :class:`Trainer` holds
what is open meanwhile, in the order data, model, state, loop, finish.
"""

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from medcolor_tf.commandline import command_line
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.color_table import ColorTable
from medcolor_tf.evaluation.evaluate import first_pictures
from medcolor_tf.evaluation.inference import Predict, predict_split, predictor
from medcolor_tf.evaluation.metrics import mean_auc, roc_auc
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.parallel import multihost, replicas, runtime
from medcolor_tf.parallel.multihost import ALONE, Processes
from medcolor_tf.parallel.replicas import unsharded
from medcolor_tf.runs import checkpoint, resume
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.checkpoint import Best, TrainState
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
from medcolor_tf.training.build import initial_classifier, training_model
from medcolor_tf.training.lr_finder import LRCurve, find_lr
from medcolor_tf.training.optimizer import follow
from medcolor_tf.training.plan import TrainPlan
from medcolor_tf.training.schedule import tabulate
from medcolor_tf.training.tensorboard import Log


def train(config: TrainConfig) -> dict | None:
    """Trains, or goes on with, the run that ``config`` describes.

    Args:
        config: options; :meth:`TrainConfig.check` is called here.

    Returns:
        The content of ``result.json`` (steps, best step, best validation AUC, ...) and, under
        "evaluations", what :func:`medcolor_tf.serving.evaluate_run.evaluate_run` says of each split
        in --evaluate. Of several processes (--hosts) the first returns it, the others None.

    Raises:
        InputError: contradictory options, unfit data or weights, or a run folder of another run.
    """
    config.check()
    if config.deterministic:
        runtime.make_deterministic()
    with (
        runtime.precision(config.mixed_precision),
        runtime.seeded(config.seed),
        multihost.joined(config) as processes,
    ):
        plan, run = TrainPlan.from_config(config), Run(Path(config.run_dir))
        record = _checked_record(plan, run, processes)
        if processes.broadcast_from_main(lambda: resume.has_result(run)):
            return _finished_result(plan, run) if processes.is_main_process else None
        loaded = resume.load_state(run)
        processes.check_same({"the checkpoint of step": loaded[0].step if loaded else 0})
        trainer = Trainer.build(plan, run, processes, loaded)
        trainer.claim_folder(record)
        with processes.distribution():
            trainer.restore(loaded)
            del loaded  # as large as the model and its optimizer
            trainer.fit()
            result = trainer.finish() | {"evaluations": trainer.evaluate()}
    return result if processes.is_main_process else None


def range_test(config: TrainConfig) -> LRCurve:
    """Runs the LR finder for the run that ``config`` describes; writes its curve to --run_dir."""
    config.check()
    if config.hosts:
        raise InputError(f"--hosts={','.join(config.hosts)}: the LR finder runs in one process")
    run = Run(Path(config.run_dir))
    if run.folder.is_dir() and any(run.folder.iterdir()):
        raise InputError(f"--run_dir={run.folder}: not empty; give the LR finder a new folder")
    with runtime.precision(config.mixed_precision), runtime.seeded(config.seed):
        trainer = Trainer.build(TrainPlan.from_config(config), run)
        curve = find_lr(trainer.model, trainer.batches(0)).of_parts(config.lr_factors)
    run.folder.mkdir(parents=True, exist_ok=True)
    curve.save(run.folder)
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
        steps_left = plan.total_steps - self.step
        once, reason = False, ""
        if processes.count == 1:  # several would not choose the same; --features=once is refused
            once, reason = feature_cache.choose(
                plan.config, self.classifier, plan.train, steps_left
            )
        if reason:
            print(reason)
        if once and steps_left:
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
        self.step, self.best = state.step, state.best
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
            self.log = Log(self.run.folder / runs.TENSORBOARD)
            if self.step == 0:
                self.log.hyper_parameters(config)
        for first, last, interval in plan.segments(self.step):
            self._fit_segment(first, (last - first) // interval, interval)
        if self.log:
            self.log.close()

    @functools.cached_property
    def schedule(self) -> callbacks.Schedule:
        """Step -> (learning rate, momentum)."""
        return self.plan.schedule(self.max_lr)

    def _describe(self) -> None:
        """Says, before it takes time, what is about to be trained on what."""
        parameters = sum(int(np.prod(v.shape)) for v in self.model.trainable_variables)
        lines = self.plan.describe(self.spec, parameters, self.max_lr)
        if note := runtime.xla_note(self.model):
            lines.append(note)
        lines += self.plan.one_sided_labels()
        if self.step:
            lines.append(f"resuming at step {self.step:,}")
        print("\n".join(lines))

    def _fit_segment(self, first: int, epochs: int, steps: int) -> None:
        """Trains ``epochs`` times ``steps`` steps from step ``first`` on."""
        config, batches = self.plan.config, self.batches(first)
        observers = self._callbacks(first, steps)
        if self.frozen_features is not None:
            every = config.log_every
            multiplier = config.lr_factors.get("head", 1.0)
            feature_cache.fit_head(
                self.model, batches, epochs, steps, self.schedule, every, observers, multiplier
            )
            return
        model = self.model if self.device_images is None else self.device_images.model
        together = runtime.steps_together(config.steps_per_execution, steps)
        table = tabulate(self.schedule, self.plan.total_steps)
        # The optimizer looks rate and momentum up inside the step, by its iterations.
        if follow(model.optimizer, table) or together != model.steps_per_execution:
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

    def _callbacks(self, first: int, interval: int) -> list[keras.callbacks.Callback]:
        total, config = self.plan.total_steps, self.plan.config
        at_checkpoint = callbacks.AtCheckpoint(first, interval, self._checkpoint)
        if not self.log:
            return [at_checkpoint]
        size, schedule = config.batch_size, self.schedule
        curve = callbacks.LossCurve(
            first, interval, self.log, config.log_every, size, schedule, config.lr_factors
        )
        progress = callbacks.Progress(first, interval, total, size, schedule)
        return [curve, at_checkpoint, progress]

    def _checkpoint(self, step: int, loss: float) -> None:
        """Validates in all processes and saves in one."""
        auc = roc_auc(*self._validate())
        if self.processes.is_main_process:
            self.save_checkpoint(step, loss, auc)
        self.processes.all_gather(None)  # nobody waits for the file inside a collective operation

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
        # The loss alone does not tell: a ReLU inside a convolution's kernel turns NaN into 0.
        callbacks.check_finite(state.arrays, step)
        # Not ">": where no observation has both classes the AUC is NaN, and the last weights count.
        if not mean <= self.best.auc:
            self.best = Best(mean, step)
            best = resume.best_content(state.weights, self.best, self.spec)
        log = self._log_checkpoint(step, loss, auc)
        resume.write_checkpoint(self.run, dataclasses.replace(state, best=self.best), best, log)
        tqdm.write(f"step {step}: training loss {loss:.4f}, validation mean AUC {mean:.4f}")

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
        if self.frozen_features is None or not self.run.read_log():  # a frozen T paints them once
            self.log.pictures(step, *first_pictures(self._colorize, self.plan.valid))
            if self.spec.is_gray_map:
                self.log.color_table(step, self._color_table().to_picture())
        scalars = {"valid/mean_auc": row["valid_mean_auc"], "train/interval_loss": loss}
        self.log.scalars(step, scalars)
        self.log.scalars(step, {f"valid_auc/{k}": v for k, v in per_observation.items()})
        return self.run.log_with(row | {f"valid_auc {k}": v for k, v in per_observation.items()})

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
            colormap.write_to_run(self.run.folder)
        result = {
            "steps": plan.total_steps,
            "best_step": best.step,
            "best_valid_mean_auc": best.auc if np.isfinite(best.auc) else None,
            "max_lr": self.max_lr,
            **({"lr_multipliers": factors} if (factors := plan.config.lr_factors) else {}),
            "train_images": len(plan.train),
            "valid_images": len(plan.valid),
        }
        self.run.write({runs.RESULT: result})
        return result

    def evaluate(self) -> list[dict]:
        """Evaluates the best weights on the splits of --evaluate, in the model at hand."""
        config, run, processes = self.plan.config, self.run, self.processes
        metadata = checkpoint.load_parts(self.classifier, run.checked(runs.BEST))
        processes.check_same({"the best weights of step": metadata["step"]})
        origin = origin_of(config.run_dir, "best", metadata["step"], config.mixed_precision)
        return [
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


def _checked_record(plan: TrainPlan, run: Run, processes: Processes) -> dict:
    """Returns the content of config.json; the folder is new or holds this very run.

    Raises:
        InputError: it holds another one, or the processes do not see the same folder and data.
    """
    command = command_line("medcolor_tf.train", plan.config)
    record = runs.record(plan.config, command, plan.train, plan.source)
    run.check(record)
    processes.check_same({"data": record["data_fingerprint"], "of": record["init_from"]})
    run.check_shared(processes)
    processes.advise(run.resume_advice)
    return record


def _finished_result(plan: TrainPlan, run: Run) -> dict:
    """Returns what a finished run found; evaluates where an evaluation is missing or another's."""
    config = plan.config
    print(f"{config.run_dir}: already finished")
    result = run.read_json(runs.RESULT)
    evaluations = [
        evaluate_once(config.run_dir, split, config.batch_size, config.mixed_precision)
        for split in plan.evaluated
    ]
    return result | {"evaluations": evaluations}
