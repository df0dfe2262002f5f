"""An evaluation by group, and per study or patient: from predictions of images to a run's files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcolor_tf.data.groups import CROSS, SplitGroups, cross
from medcolor_tf.data.pipeline import Split
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation import group_tables, groups, units
from medcolor_tf.evaluation.decisions import choose_thresholds
from medcolor_tf.evaluation.inference import Predictions, sigmoid
from medcolor_tf.evaluation.operating_points import YOUDEN, Rule
from medcolor_tf.evaluation.units import (
    IMAGE,
    PATIENT,
    PLURAL,
    STUDY,
    BreakdownOptions,
    UnitPredictions,
)
from medcolor_tf.files import file_sha256
from medcolor_tf.progress import Progress
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import Decision


@dataclass(frozen=True)
class Scored:
    """Labels and probabilities of images, or of units: (N, L) each, with ids of (N,)."""

    labels: np.ndarray
    probabilities: np.ndarray
    patient: np.ndarray
    together: UnitPredictions | None = None


class Breakdown:
    """An evaluation by group and unit, of one split.

    Args:
        options: of the command.
        split: images and labels.

    Raises:
        InputError: the data set has no such group, or no studies.
    """

    def __init__(self, options: BreakdownOptions, split: Split):
        options.check()
        self._options, self._split = options, split
        self._check(split)
        # Read before an hour of predictions, not after it.
        names = [split.split, "valid"] if options.unit == STUDY else [split.split]
        info = split.info.groups
        self._stored = {
            name: SplitGroups.load(split.folder, name, info)
            for name in names
            if info and name in info.sha256 and (options.by or options.unit == STUDY)
        }

    def _check(self, split: Split) -> None:
        """Raises InputError where the data set has not what is asked for."""
        info = split.info.groups
        for entry in self._options.by:
            if not info or not info.columns:
                raise InputError(
                    f"--by={entry}: {split.folder} has no groups; data_prep.build "
                    f"--group_columns={entry.replace(CROSS, ',')} stores them"
                )
            missing = [name for name in entry.split(CROSS) if name not in info.columns]
            if missing:
                raise InputError(
                    f"--by={entry}: {split.folder} has no group {missing[0]!r} (it has "
                    f"{', '.join(info.columns)}); data_prep.build --group_columns={missing[0]} "
                    "stores it"
                )
        if self._options.unit == STUDY and not (info and info.studies):
            raise InputError(
                f"--unit=study: {split.folder} has no studies; data_prep.build --study_column "
                "stores them (for CheXpert and MURA: --study_column=path)"
            )

    @property
    def is_asked_for(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._options.by) or self._options.unit != IMAGE

    def needs_validation(self, decision: Decision | None) -> bool:
        """Whether thresholds have to be chosen: those of single images are not those of studies."""
        return self.is_asked_for and (decision is None or self._options.unit != IMAGE)

    def measure(
        self,
        predictions: Predictions,
        decision: Decision | None,
        validation: tuple[Split, Predictions] | None,
        files: runs.Run,
    ) -> str:
        """Writes ``units-`` and ``subgroups-SPLIT``; returns both as text.

        Args:
            predictions: of the split's images, whose table is written already.
            decision: the run's, None without one.
            validation: the validation images and their predictions, where they are needed.
            files: the folder for the files.
        """
        if not self.is_asked_for:
            return ""
        split, names = self._split, self._split.observations
        scored = self._scored(split, predictions, decision)
        thresholds, origin, missing = self._thresholds(decision, validation)
        common = {
            "unit": self._options.unit,
            "aggregate": self._options.aggregate if self._options.unit != IMAGE else None,
            "split": split.split,
            "data_fingerprint": split.info.fingerprint,
            "threshold_from": origin,
            "decision_digest": None if decision is None else decision.digest,
            "predictions_sha256": file_sha256(files.predictions(split.split)),
            "n_resamples": groups.N_RESAMPLES,
            "confidence_level": groups.CONFIDENCE_LEVEL,
        }
        texts = []
        if scored.together is not None:
            found = common | self._assess_units(scored.together, thresholds)
            path = files.units(split.split)
            csv_file = path.with_suffix(".csv").name
            files.write({csv_file: units.to_csv(names, scored.together), path.name: found})
            texts += [units.table(found), *missing, f"all of it: {path}, {csv_file}"]
        if self._options.by:
            groupings = self._groupings(predictions, scored)
            found = common | self._compare_groups(scored, groupings, thresholds)
            path = files.subgroups(split.split)
            csv_file = path.with_suffix(".csv").name
            replaced = self._replaced(files, path)
            files.write({csv_file: group_tables.to_csv(found["groups"]), path.name: found})
            counted = PLURAL[self._options.unit]
            texts.append(f"groups of {counted}; {origin}")
            shown = group_tables.table(found["groups"], counted)
            missing = missing if scored.together is None else []  # said above
            texts += [shown, *missing, *replaced, f"all of it: {path}, {csv_file}"]
        return "\n".join(texts)

    def _replaced(self, files: runs.Run, path: Path) -> list[str]:
        """Says which groups an earlier comparison had that the new one has not.

        They are not kept: p-values are adjusted over the tests of one command.
        """
        try:
            earlier = files.read_json(path)["by"] if path.is_file() else []
        except InputError:
            return []
        gone = [entry for entry in earlier if entry not in self._options.by]
        if not gone:
            return []
        both = ",".join([*gone, *self._options.by])
        return [
            f"note: replaces the earlier comparison by {', '.join(gone)} in {path.name}; "
            f"--by={both} compares all in one family of tests"
        ]

    def _assess_units(self, together: UnitPredictions, thresholds: list[float | None]) -> dict:
        return {
            "units": len(together.unit),
            "images": int(together.images.sum()),
            "patients": len(np.unique(together.patient)),
            "observations": units.assess(self._split.observations, together, thresholds),
        }

    def _compare_groups(
        self, scored: Scored, groupings: dict[str, np.ndarray], thresholds: list[float | None]
    ) -> dict:
        names = self._split.observations
        with Progress("comparing groups", len(names), "observations") as progress:
            results = groups.compare_groups(
                names,
                scored.labels,
                scored.probabilities,
                thresholds,
                groupings,
                scored.patient,
                progress=progress.update,
            )
        return {
            "by": list(self._options.by),
            "least": groups.LEAST,
            "least_tested": groups.LEAST_TESTED,
            "thresholds": dict(zip(names, thresholds, strict=True)),
            "groups": group_tables.to_json(results),
        }

    def _scored(self, split: Split, predictions: Predictions, decision: Decision | None) -> Scored:
        """Labels and probabilities of images, or put together to units."""
        # In double precision: an overconfident model has many that float32 rounds to 1.
        chances = sigmoid(predictions.logits.astype(np.float64))
        if decision is not None:
            chances = decision.calibrated(predictions.logits)
        if self._options.unit == IMAGE:
            return Scored(predictions.labels, chances, predictions.patient)
        ids = predictions.patient
        if self._options.unit != PATIENT:
            ids = self._of_images(split, predictions).study
            assert ids is not None, "checked when it was opened"
        try:
            together = units.aggregate(
                predictions.labels, chances, ids, predictions.patient, self._options.aggregate
            )
        except ValueError as error:
            raise InputError(f"{SplitGroups.path(split.folder, split.split)}: {error}") from None
        return Scored(together.labels, together.probabilities, together.patient, together)

    def _of_images(self, split: Split, predictions: Predictions) -> SplitGroups:
        """The data set's groups and studies of the images, in their order."""
        path = SplitGroups.path(split.folder, split.split)
        return self._stored[split.split].take(predictions.image_id, path)

    def _groupings(self, predictions: Predictions, scored: Scored) -> dict[str, np.ndarray]:
        columns = self._of_images(self._split, predictions).columns
        found = {entry: cross(columns, entry) for entry in self._options.by}
        if scored.together is not None:
            found = {name: scored.together.values(values) for name, values in found.items()}
        return found

    def _thresholds(
        self, decision: Decision | None, validation: tuple[Split, Predictions] | None
    ) -> tuple[list[float | None], str, list[str]]:
        """Thresholds of the observations, in words where they are from, and why some are missing.

        The last are lines, one per observation without a threshold.
        """
        if decision is not None and self._options.unit == IMAGE:
            missing = {name: entry.reason for name, entry in decision.observations.items()}
            origin = f"thresholds of the decision ({decision.describe()})"
            return decision.thresholds, origin, _why_missing(missing)
        assert validation is not None, "needs_validation() says when"
        split, predictions = validation
        rule = Rule(YOUDEN) if decision is None else Rule.parse(decision.rule)
        scored = self._scored(split, predictions, decision)
        counted = PLURAL[self._options.unit]
        chosen = choose_thresholds(
            split.observations, scored.labels, scored.probabilities, rule, counted
        )
        for name, entry in decision.observations.items() if decision is not None else ():
            if entry.threshold is None:  # the reason holds for several images together too
                chosen[name] = {"threshold": None, "reason": entry.reason or "as in the decision"}
        why = "the run has no decision" if decision is None else "the decision's rule"
        origin = f"thresholds chosen on the {counted} of {split.split} by {rule} ({why})"
        if split.split == self._split.split:
            origin += "; these are the same images: new patients will fare worse"
        thresholds = [entry["threshold"] for entry in chosen.values()]
        missing = {name: entry["reason"] for name, entry in chosen.items()}
        return thresholds, origin, _why_missing(missing)


def _why_missing(reasons: Mapping[str, str]) -> list[str]:
    """Returns a line per observation that has no threshold, with the reason."""
    return [f"{name}: no threshold: {reason}" for name, reason in reasons.items() if reason]
