"""Thresholds of whole studies: those that ``evaluate --unit=study`` chose for a run's decision.

A threshold of single images says nothing of the mean or the largest of several. Imports no Keras.
"""

from dataclasses import dataclass
from pathlib import Path

from medcolor_tf.evaluation.units import STUDY
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import Decision


@dataclass(frozen=True)
class StudyThresholds:
    """Thresholds of studies, or why there are none.

    Attributes:
        values: observation -> threshold of the mean or largest calibrated probability of a study's
            images; None where none could be chosen. Empty where there are none at all.
        origin: how they were chosen, or why there are none.
    """

    values: dict[str, float | None]
    origin: str


def find_study_thresholds(
    run_dir: str | Path, decision: Decision, aggregate: str
) -> StudyThresholds:
    """Looks for thresholds of studies in a run's ``units-SPLIT.json``.

    Args:
        run_dir: the run folder.
        decision: whose calibration and weights they have to be of.
        aggregate: "mean" or "max" of the images, for which they have to be.

    Raises:
        InputError: such a file is damaged.
    """
    run = runs.Run(Path(run_dir))
    found: dict[str, tuple[dict[str, float | None], str]] = {}
    for path in sorted(run.folder.glob(runs.UNITS.format("*"))):
        content = run.read_json(path)
        if (content["unit"], content["aggregate"]) != (STUDY, aggregate):
            continue
        observations = content["observations"]
        if content.get("decision_digest") != decision.digest:
            continue
        if sorted(observations) == sorted(decision.observations):
            values = {name: observations[name]["threshold"] for name in decision.observations}
            found[path.name] = values, content["threshold_from"]
    if not found:
        return StudyThresholds(
            {},
            "the decision's thresholds are of single images, and none of studies was chosen for "
            f"it in {run.folder}: `python -m medcolor_tf.evaluate --run_dir={run.folder} "
            f"--data_dir=... --unit=study --aggregate={aggregate}` chooses them",
        )
    (values, origin), *others = found.values()
    if any(other != values for other, _ in others):
        names = ", ".join(found)
        return StudyThresholds(
            {}, f"{names} in {run.folder} hold different thresholds of studies; delete all but one"
        )
    return StudyThresholds(values, origin)
