"""A run's decision: a calibration and a threshold per observation, bound to the weights.

``decision.json`` of a run folder. Made by ``evaluate --operating_point`` and ``calibrate``, read by
whatever gives probabilities to people: :func:`load_decision` gives a :class:`Decision`, which makes
calibrated probabilities and positive / negative of logits. It holds the SHA-256 of the files that
make the model, and is refused for any other. Imports no Keras.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json
from medcolor_tf.runs import contents
from medcolor_tf.runs import folder as runs

FORMAT_VERSION = 1
# Values of :meth:`Decision.classify`, and what tables write for them.
POSITIVE, NEGATIVE, UNDECIDED = 1, 0, -1
WORDS = {POSITIVE: "positive", NEGATIVE: "negative", UNDECIDED: ""}
NO_CALIBRATION = "none"
MOST_PREVIOUS = 10
# Value of --decision with which no decision is used.
NO_DECISION = "none"


@dataclass(frozen=True)
class ObservationDecision:
    """The calibration and the threshold of one observation.

    Attributes:
        threshold: an image is positive where its *calibrated* probability is at least this; None
            where none could be chosen.
        method: "none", "temperature" or "platt".
        slope, intercept: the calibrated probability is ``sigmoid(slope * logit + intercept)``; 1
            and 0 without calibration.
        positive, negative, unknown: labels of the images on which both were chosen.
        reason: why there is no threshold, "" where there is one.
    """

    threshold: float | None
    method: str = NO_CALIBRATION
    slope: float = 1.0
    intercept: float = 0.0
    positive: int = 0
    negative: int = 0
    unknown: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Decision:
    """What ``decision.json`` holds.

    Attributes:
        made_by: "evaluate" or "calibrate".
        rule: how thresholds were chosen: "youden", "sensitivity=0.9", ...
        weights: "best" or "last", of which ``step`` is the step.
        step: of the weights.
        digests: SHA-256 of the files that make the model, by name; see
            :func:`medcolor_tf.runs.folder.weights_digests`.
        data: on which images: "name" of the data set (no folders), "fingerprint", "split",
            "uncertain_policy", "images", "patients".
        observations: name -> calibration and threshold, in the model's order.
        comparison: of ``calibrate``: measures before and after, see
            :func:`medcolor_tf.evaluation.adaptation.compare`.
        previous: content of the decision that this one replaced, with that one's own, and so on
            (the last MOST_PREVIOUS of them).
    """

    made_by: str
    rule: str
    weights: str
    step: int
    digests: Mapping[str, str]
    data: Mapping[str, Any]
    observations: Mapping[str, ObservationDecision]
    comparison: Mapping[str, Any] = field(default_factory=dict)
    previous: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, content: Mapping) -> "Decision":
        """Returns the decision of a file's content, which :data:`contents.DECISION` accepts."""
        values = {f.name: content[f.name] for f in dataclasses.fields(cls) if f.name in content}
        names = content["observation_order"]
        values["observations"] = {
            name: ObservationDecision(**content["observations"][name]) for name in names
        }
        return cls(**values)

    def to_dict(self) -> dict:
        """Returns the content of a JSON file."""
        content = {
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            "format_version": FORMAT_VERSION,
            "observations": {
                name: dataclasses.asdict(entry) for name, entry in self.observations.items()
            },
            # Files have their keys sorted.
            "observation_order": list(self.observations),
        }
        for name in ("comparison", "previous"):
            if not content[name]:
                del content[name]
        return content

    def before(self, fingerprint: str) -> "Decision | None":
        """Returns this decision, or the last before it that was not chosen on a data set.

        Args:
            fingerprint: of the data set.
        """
        if self.data["fingerprint"] != fingerprint:
            return self
        if not self.previous:
            return None
        contents.DECISION(self.previous, "previous decision")
        return Decision.from_dict(self.previous).before(fingerprint)

    @property
    def calibrates(self) -> bool:
        """Whether any observation's probabilities are changed."""
        return any(entry.method != NO_CALIBRATION for entry in self.observations.values())

    @property
    def thresholds(self) -> list[float | None]:
        """(L) thresholds of the calibrated probabilities, in the order of the observations."""
        return [entry.threshold for entry in self.observations.values()]

    def calibrated_logits(self, logits: ArrayLike) -> np.ndarray:
        """Returns slope * logit + intercept of (..., L) logits, float64."""
        entries = self.observations.values()
        slope = np.array([entry.slope for entry in entries])
        intercept = np.array([entry.intercept for entry in entries])
        return slope * np.asarray(logits, np.float64) + intercept

    def calibrated(self, logits: ArrayLike) -> np.ndarray:
        """Returns the calibrated probabilities of (..., L) logits, float64."""
        from scipy.special import expit

        return expit(self.calibrated_logits(logits))

    def calibrated_only(self, logits: ArrayLike) -> np.ndarray:
        """As :meth:`calibrated`, NaN where an observation has no calibration.

        For what people read: a probability that nothing was changed in is not called calibrated.
        """
        methods = np.array([entry.method for entry in self.observations.values()])
        return np.where(methods == NO_CALIBRATION, np.nan, self.calibrated(logits))

    @property
    def bounds(self) -> np.ndarray:
        """(L,) float64 thresholds as calibrated logits, NaN where there is none.

        Logits are compared, not probabilities: an overconfident model has many that float32 rounds
        to 1. -inf: everything is positive; inf: nothing is.
        """
        from scipy.special import logit

        bounds = np.array([np.nan if t is None else t for t in self.thresholds], np.float64)
        return np.where(bounds > 1, np.inf, logit(np.minimum(bounds, 1)))

    def classify(self, *, logits: ArrayLike) -> np.ndarray:
        """Returns (..., L) int32 of (..., L) logits: POSITIVE, NEGATIVE or UNDECIDED.

        Args:
            logits: of the model, before the calibration. Named in every call: probabilities given
                in their place would make nearly every image positive, without an error.
        """
        bounds = self.bounds
        called = np.where(self.calibrated_logits(logits) >= bounds, POSITIVE, NEGATIVE)
        return np.where(np.isnan(bounds), UNDECIDED, called).astype(np.int32)

    @property
    def columns(self) -> list[str]:
        """Names of the columns that a table of predictions has for :meth:`cells`."""
        return [
            f"{kind} {name}" for name in self.observations for kind in ("calibrated", "decision")
        ]

    def cells(self, logits: ArrayLike) -> list[list[str]]:
        """Returns, per image of (B, L) logits, calibrated probability and decision of each name."""
        return [
            [cell for chance, called in zip(*row, strict=True) for cell in (chance, WORDS[called])]
            for row in zip(
                [[f"{chance:.7g}" for chance in row] for row in self.calibrated(logits)],
                self.classify(logits=logits).tolist(),
                strict=True,
            )
        ]

    @property
    def digest(self) -> str:
        """SHA-256 of what it decides: not of how that was found out, nor of what it replaced."""
        content = dataclasses.replace(self, comparison={}, previous={}).to_dict()
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def images(self) -> str:
        """On which images it was chosen: ``197 images of away (split train)``."""
        data = self.data
        split = "all splits" if data["split"] == "all" else f"split {data['split']}"
        return f"{data['images']:,} images of {data['name']} ({split})"

    def describe(self) -> str:
        """Returns a line: the rule, the data, what the decision is of."""
        data = self.data
        split = "all splits" if data["split"] == "all" else data["split"]
        methods = sorted({e.method for e in self.observations.values()} - {NO_CALIBRATION})
        calibration = f", calibrated ({', '.join(methods)})" if methods else ""
        return (
            f"{self.rule}{calibration}, chosen on {split} of {data['name']}: "
            f"{data['images']:,} images of {data['patients']:,} patients, "
            f"{self.weights} weights of step {self.step}"
        )

    def check(self, folder: str | Path, which: str, origin: str | Path) -> None:
        """Checks that it was chosen for these weights.

        Args:
            folder: a run folder.
            which: "best" or "last".
            origin: the decision's file, for the message.

        Raises:
            InputError: it is of other weights.
        """
        advice = (
            "choose anew with `evaluate --operating_point=... --replace_decision`, or give "
            f"--decision={NO_DECISION} to go without"
        )
        if self.weights != which:
            raise InputError(
                f"{origin}: chosen for --weights={self.weights}, received --weights={which}; "
                f"{advice}"
            )
        here = runs.weights_digests(folder, which)
        for name in sorted(here.keys() | self.digests.keys()):
            was, now = (digests.get(name, "none") for digests in (self.digests, here))
            if was != now:
                raise InputError(
                    f"{origin}: chosen for other weights: {name} had SHA-256 {was[:12]}... (step "
                    f"{self.step}), the one in {folder} has {now[:12]}...; {advice}"
                )


def load_decision(folder: str | Path, which: str = "best", source: str = "") -> Decision | None:
    """Reads the decision that belongs to a run's weights.

    Args:
        folder: a run folder.
        which: "best" or "last", the weights in use.
        source: a command's --decision: "" for the run's own, NO_DECISION for none, or the path of
            a file.

    Returns:
        None where the run has none, or none is wanted.

    Raises:
        InputError: ``source`` is no file, or the file is damaged or of other weights.
    """
    if source == NO_DECISION:
        return None
    path = Path(source) if source else runs.Run(Path(folder)).folder / runs.DECISION
    if source and not path.is_file():
        received = "is a folder" if path.is_dir() else "no such file"
        raise InputError(
            f"--decision={source}: {received}; expected a {runs.DECISION}, as evaluate "
            f"--operating_point and calibrate write it, or {NO_DECISION}"
        )
    content = _read(path, named=bool(source))
    if content is None:
        return None
    decision = Decision.from_dict(content)
    decision.check(folder, which, path)
    return decision


def _read(path: Path, named: bool = False) -> dict | None:
    """Reads a decision's file; None where there is none, unless a flag has named it."""
    run = runs.Run(path.parent)
    listed = run.lists(path.name)
    if not named and not listed and not path.is_file():
        return None
    if listed or not named:
        content = run.read_json(path)
    else:
        content = read_json(path)
        contents.DECISION(content, str(path))
    names = content["observation_order"]
    if sorted(names) != sorted(content["observations"]):
        raise InputError(
            f"{path}: observation_order: expected the names of observations "
            f"({', '.join(content['observations'])}), received {', '.join(names)}"
        )
    return content


def existing_decision(folder: str | Path) -> Decision | None:
    """Reads the decision in a folder, of whatever weights; None without one."""
    content = _read(Path(folder) / runs.DECISION)
    return None if content is None else Decision.from_dict(content)


def check_not_another(
    folder: str | Path, run_dir: str | Path, *, fingerprint: str, split: str, **made
) -> None:
    """Refuses, before the work, what :func:`save_decision` would refuse after it.

    What would be the same as far as these arguments tell passes: the same command may be given
    again.

    Args:
        folder: where the decision is to be written.
        run_dir: of the weights.
        fingerprint: of the data set on which it is to be chosen.
        split: of it, or "all".
        made: ``made_by``, ``rule`` and ``weights`` of the new decision.

    Raises:
        InputError: another decision is there.
    """
    there = existing_decision(folder)
    if there is None:
        return
    same = (
        all(getattr(there, name) == value for name, value in made.items())
        and (there.data["fingerprint"], there.data["split"]) == (fingerprint, split)
        and there.digests == runs.weights_digests(run_dir, made["weights"])
    )
    if not same:
        raise _another(runs.Run(Path(folder)).folder / runs.DECISION, there)


def _another(path: Path, there: Decision) -> InputError:
    return InputError(
        f"{path}: holds another decision ({there.describe()}); expected none, or the same. "
        "Give --replace_decision to write over it (the old one is kept inside the new one)"
    )


def save_decision(decision: Decision, folder: str | Path, replace: bool = False) -> Path:
    """Writes ``decision.json`` into a run folder; the same again leaves the file as it is.

    Args:
        decision: to write; its ``previous`` is filled in here.
        folder: of the run, or where a command's --out says.
        replace: write over another decision, which is kept in the new one as ``previous``.

    Returns:
        The file's path.

    Raises:
        InputError: another decision is there, or the file cannot be written.
    """
    run = runs.Run(Path(folder))
    path = run.folder / runs.DECISION
    there = existing_decision(folder)
    if there is not None:
        new = Decision.from_dict(_plain(dataclasses.replace(decision, previous={})))
        if dataclasses.replace(there, previous={}) == new:
            return path
        if not replace:
            raise _another(path, there)
        decision = dataclasses.replace(decision, previous=_cut(there.to_dict(), MOST_PREVIOUS))
    run.folder.mkdir(parents=True, exist_ok=True)
    with run.only_writer():
        run.write({runs.DECISION: decision.to_dict()})
    return path


def _cut(content: Mapping, most: int) -> dict:
    """Returns a decision's content with at most ``most`` in its chain of previous ones."""
    rest = {name: value for name, value in content.items() if name != "previous"}
    if most > 1 and content.get("previous"):
        rest["previous"] = _cut(content["previous"], most - 1)
    return rest


def _plain(decision: Decision) -> dict:
    """Returns the content as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(decision.to_dict()))
