"""The methods of the runs of an evaluation set, in words that a paper can use.

All is read from run folders; what runs do not agree in is said with all its values.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from medcolor_tf.catalog import (
    BACKBONES,
    LOSSES,
    NO_COLORIZER,
    OPTIMIZERS,
    STRATEGIES,
)
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.units import PLURAL
from medcolor_tf.reporting import breakdown_tables, compare
from medcolor_tf.reporting.collect import EvaluationSet
from medcolor_tf.reporting.settings import init_label, percent, title
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.runs.decision import NO_CALIBRATION, Decision, load_decision
from medcolor_tf.runs.folder import Run
from medcolor_tf.runs.image_stages import describe_progressive

PARTS = {"colorizer": "T", "backbone": "E", "head": "C"}
POLICIES = {"ones": "positive", "zeros": "negative", "ignore": "left out"}
_DEFAULTS = {entry.name: entry.default for entry in dataclasses.fields(TrainConfig)}


class Facts:
    """What the run folders of an evaluation set say, each fact as text, "" where none says it.

    Args:
        group: the runs.
    """

    def __init__(self, group: EvaluationSet):
        self.group = group
        self.runs: list[dict[str, Any]] = group.runs.to_dict("records")

    def of_runs(self, read: Callable[[Mapping[str, Any]], Any]) -> str:
        """The values that occur, in the order of the runs: "a", "a or b", "a, b or c"."""
        return alternatives(read(run) for run in self.runs)

    def option(self, name: str) -> str:
        """The values of an option of ``train``."""
        return self.of_runs(lambda run: _shown(_option(run, name)))

    def option_if_set(self, name: str) -> str:
        """As :meth:`option`, of the runs where it is not zero."""
        return self.of_runs(lambda run: _shown(_option(run, name)) if _option(run, name) else "")

    def model(self, name: str) -> str:
        """The values of an entry of model.json."""
        return self.of_runs(lambda run: _shown(run["model"].get(name)))

    def result(self, name: str) -> str:
        """The values of a number of result.json."""
        return self.of_runs(lambda run: _shown(run["result"].get(name)))

    @cached_property
    def evaluation(self) -> Mapping[str, Any]:
        """The evaluation of the first run; all are of the same images and labels."""
        return self.runs[0]["evaluation"]

    @cached_property
    def sizes(self) -> str:
        """How many training images there were and what share that is, the smallest first."""
        pairs = sorted((run["fraction"], run["result"]["train_images"]) for run in self.runs)
        return alternatives(f"{images:,} ({percent(fraction)})" for fraction, images in pairs)

    @cached_property
    def labels(self) -> str:
        """The observations and their counts in the split that was evaluated."""
        counts = self.evaluation["observations"]
        return "; ".join(
            f"{name}: {counts[name]['positive']:,} positive, {counts[name]['negative']:,} negative"
            + (f", {unknown:,} unknown" if (unknown := counts[name].get("unknown")) else "")
            for name in self.group.observations
        )

    @cached_property
    def policy(self) -> str:
        """What uncertain labels count as."""
        policy = self.evaluation["uncertain_policy"]
        if isinstance(policy, str):
            return policy
        return ", ".join(
            f"{name} {POLICIES.get(policy[name], policy[name])}"
            for name in self.group.observations
            if name in policy
        )

    @cached_property
    def strategies(self) -> str:
        """The strategies, each with the parts that train."""
        return ", ".join(
            f"{title(STRATEGIES, name)} ({_trains(name)})"
            for name in dict.fromkeys(run["strategy"] for run in self.runs)
        )

    @cached_property
    def colorizers(self) -> str:
        """The colorizers; "" where none has one."""
        pairs = ((run["colorizer"], run["colorizer_init"]) for run in self.runs)
        return alternatives(init_label(*pair) for pair in pairs if pair[0] != NO_COLORIZER)

    @cached_property
    def backbones(self) -> str:
        """The backbones and what their weights began as."""
        return self.of_runs(lambda run: f"{_backbone(run)} ({_backbone_start(run)})")

    @cached_property
    def repeats(self) -> str:
        """How many runs each setting has: "3", "2 to 3"."""
        counts = sorted({len(runs) for runs in self.group.settings.values()})
        return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"

    @cached_property
    def most_repeats(self) -> int:
        """How many runs the setting with the most of them has."""
        return max(len(runs) for runs in self.group.settings.values())

    @cached_property
    def has_paired_tests(self) -> bool:
        """Whether strategies could be compared over repeats: two of them share two."""
        group = self.group
        pairs = [*compare.pairs(group.largest), *compare.colorizer_pairs(group.own)]
        return compare.most_common_repeats(group.settings, pairs) > 1

    @cached_property
    def has_tests_on_same_images(self) -> bool:
        """Whether single runs were compared: two strategies share a repeat."""
        pairs = compare.colorizer_pairs(self.group.largest)
        return compare.most_common_repeats(self.group.settings, pairs) > 0

    @cached_property
    def subgroups(self) -> list[Mapping[str, Any]]:
        """What ``evaluate --by`` found of each run where it was asked."""
        return list(breakdown_tables.usable(Run.subgroups, self.group))

    @cached_property
    def units(self) -> list[Mapping[str, Any]]:
        """What ``evaluate --unit`` found of each run where it was asked."""
        return list(breakdown_tables.usable(Run.units, self.group))

    @cached_property
    def groupings(self) -> str:
        """By what images or units were put into groups, "" where they were not."""
        return alternatives(f"{', '.join(c['by'])} of {PLURAL[c['unit']]}" for c in self.subgroups)

    @cached_property
    def has_group_tests(self) -> bool:
        """Whether a group was tested against all others."""
        return any(count for count, _ in map(breakdown_tables.tests_of, self.subgroups))

    @cached_property
    def versions(self) -> str:
        """The software that the runs recorded."""
        names: dict[str, None] = {}
        for run in self.runs:
            names.update(dict.fromkeys(run["config"].get("versions", {})))
        values = {
            name: self.of_runs(lambda run, name=name: run["config"].get("versions", {}).get(name))
            for name in names
        }
        return ", ".join(f"{name} {value}" for name, value in values.items() if value)

    @cached_property
    def rates(self) -> str:
        """The peak learning rates that were used, with the parts' factors."""
        return self.of_runs(_rate)

    @cached_property
    def augmentation(self) -> str:
        """What is done to training images at random."""
        return self.of_runs(_augmentation)

    @cached_property
    def tuned(self) -> str:
        """The options that a tuning chose, "" for none."""
        return alternatives(", ".join(_option(run, "tuned")) for run in self.runs)

    @cached_property
    def decisions(self) -> list[Decision]:
        """The decisions of the runs that have one; what is wrong with one is said elsewhere."""
        found = []
        for run in self.runs:
            with contextlib.suppress(InputError):
                decision = load_decision(run["folder"], run["evaluation"].get("weights", "best"))
                found += [decision] if decision else []
        return found

    @cached_property
    def thresholds(self) -> str:
        """By what rule and on which images thresholds were chosen, "" without a decision."""
        return alternatives(f"{d.rule} on {d.images}" for d in self.decisions)

    @cached_property
    def calibrations(self) -> str:
        """How probabilities were calibrated, "" where none was."""
        entries = (entry for d in self.decisions for entry in d.observations.values())
        return alternatives(entry.method for entry in entries if entry.method != NO_CALIBRATION)


def paragraphs(facts: Facts) -> Iterator[str]:
    """The methods in plain text: data, model, training, evaluation, software."""
    yield _data(facts)
    yield _model(facts)
    yield _training(facts)
    yield _evaluation(facts)
    if facts.versions:
        yield f"Software: {facts.versions}."


def _data(facts: Facts) -> str:
    group, evaluation = facts.group, facts.evaluation
    valid = facts.result("valid_images")
    words = [
        f"Models were trained on {facts.sizes} of the training images",
        f"selected on {valid} validation images" if valid else "selected on validation images",
        f"and evaluated on {evaluation['images']:,} {group.split} images of "
        f"{evaluation['patients']:,} patients of {group.data}",
    ]
    text = f"{', '.join(words)}. Labels there: {facts.labels}. Uncertain labels: {facts.policy}."
    size, short = facts.model("image_size"), facts.model("short_side")
    if size and short:
        text += (
            f" Gray images, their shorter side scaled to {short} pixels, were cropped to squares "
            f"of {size} pixels (at a random place in training, at the centre in evaluation) and "
            "normalised with one mean and standard deviation."
        )
    return text


def _model(facts: Facts) -> str:
    backbone = f"a convolutional backbone E, {facts.backbones}"
    classifier = "a linear classifier C on its averaged features gives a logit per observation"
    if facts.colorizers:
        text = (
            f"A colorizer T, {facts.colorizers}, turns the gray image into three channels for "
            f"{backbone}; {classifier}. Baselines have no T: E sees the gray channel three times."
        )
    else:
        text = f"The gray channel is given three times to {backbone}; {classifier}."
    return f"{text} Strategies, with the parts that train: {facts.strategies}."


def _training(facts: Facts) -> str:
    tuned = facts.tuned
    how = (
        f" {tuned}: chosen for each strategy by validation AUC on seeds of their own."
        if tuned
        else ""
    )
    own = ", each with its own seed or subset" if facts.most_repeats > 1 else ""
    target = facts.option_if_set("stop_at_auc")
    ended = f" Training ended when that AUC reached {target}." if target else ""
    losses = facts.of_runs(lambda run: _component(LOSSES, _option(run, "loss")))
    optimizers = facts.of_runs(lambda run: _component(OPTIMIZERS, _option(run, "optimizer")))
    return (
        f"Training minimised the {losses} by {optimizers}, {facts.result('steps')} steps of "
        f"{facts.option('batch_size')} images, learning rate schedule {facts.option('schedule')} "
        f"with a peak of {facts.rates}.{how} Augmentation: {facts.augmentation}. Of every run the "
        "checkpoint with the highest mean AUC of the validation images was kept."
        f"{ended} Runs per setting: {facts.repeats}{own}."
    )


def _evaluation(facts: Facts) -> str:
    group = facts.group
    mean = ", and their unweighted mean" if len(group.observations) > 1 else ""
    words = [
        f"Performance is the exact area under the ROC curve (AUC) of each observation{mean}, with "
        f"95 % intervals of {group.n_resamples:,} bootstrap resamples of patients."
    ]
    if facts.most_repeats > 1:
        words.append("Means and sample standard deviations are over runs.")
    if facts.has_paired_tests:
        words.append(
            "Strategies are compared by two-sided paired t-tests over runs of the same seed and "
            "subset."
        )
    if facts.has_tests_on_same_images:
        words.append("Single runs are compared by DeLong's test with patients as clusters.")
    if facts.has_paired_tests or facts.has_tests_on_same_images:
        words.append(
            "P values are adjusted by Benjamini and Hochberg's procedure within each table."
        )
    return " ".join([*words, *_decisions(facts), *_breakdown(facts)])


def _breakdown(facts: Facts) -> Iterator[str]:
    """Groups and studies or patients, where runs were evaluated by them."""
    if facts.groupings:
        tests = (
            "; p values, of Student's t from the deviation over resamples of patients, are "
            "adjusted by Benjamini and Hochberg's procedure within each run"
        )
        yield (
            f"Groups (by {facts.groupings}) were each compared with all others in AUC, "
            "sensitivity, specificity and calibration gap, with 95 % intervals over resamples of "
            f"patients{tests if facts.has_group_tests else ''}."
        )
    for content in {(c["unit"], c["aggregate"]): c for c in facts.units}.values():
        yield (
            f"Images of a {content['unit']} were put together by the {content['aggregate']} of "
            "their probabilities, for AUC, Cohen's kappa, sensitivity and specificity per "
            f"{content['unit']}, {content['threshold_from']}."
        )


def _decisions(facts: Facts) -> Iterator[str]:
    if not facts.thresholds:
        return
    how = f" after calibration of the probabilities by {facts.calibrations}"
    yield (
        f"Sensitivity, specificity and predictive values are at thresholds chosen by "
        f"{facts.thresholds}{how if facts.calibrations else ''}, with intervals over patients."
    )


def alternatives(values: Iterable[Any]) -> str:
    """Different values in words: "a", "a or b", "a, b or c"; those that are None or "" left out."""
    texts = [*dict.fromkeys(str(value) for value in values if value not in (None, ""))]
    return " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _option(run: Mapping[str, Any], name: str) -> Any:
    """A run's option; its default where an older version did not record it."""
    return run["config"]["flags"].get(name, _DEFAULTS[name])


def _shown(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else value


def _trains(strategy: str) -> str:
    parts = STRATEGIES[strategy].trains if strategy in STRATEGIES else ()
    return ", ".join(PARTS[part] for part in parts) or "unknown to this version"


def _backbone(run: Mapping[str, Any]) -> str:
    return title(BACKBONES, run["backbone"])


def _backbone_start(run: Mapping[str, Any]) -> str:
    origin = run["config"].get("init_from")
    entry = STRATEGIES.get(run["strategy"])
    if origin and entry and entry.backbone == "source":
        return "weights of an earlier run"
    if str(_option(run, "backbone")).endswith(".keras"):
        return "weights of a file"
    weights = _option(run, "backbone_weights")
    named = {"imagenet": "ImageNet weights", "none": "random weights"}
    return named.get(str(weights), "weights of a file")


def _component(table: Mapping[str, Any], name: str) -> str:
    return re.split("; |, which", table[name].title)[0] if name in table else name


def _rate(run: Mapping[str, Any]) -> str:
    factors = run["config"].get("lr_multipliers") or {}
    words = ", ".join(f"{PARTS.get(part, part)} times {value:g}" for part, value in factors.items())
    return f"{run['result']['max_lr']:.3g}" + (f" ({words})" if words else "")


def _augmentation(run: Mapping[str, Any]) -> str:
    degrees, zoom = float(_option(run, "rotation_degrees")), float(_option(run, "max_zoom"))
    probability = float(_option(run, "augment_probability"))
    changes = [f"rotation up to {degrees:g} degrees to either side"] if degrees else []
    changes += [f"magnification up to {zoom:g}"] if zoom > 1 else []
    sizes = describe_progressive(str(_option(run, "progressive")))
    later = f"; images scaled to {sizes}, then the whole size" if sizes else ""
    if not changes or not probability:
        return f"none{later}"
    return f"{' and '.join(changes)}, each with probability {percent(probability)}{later}"
