"""What reporting guidelines ask of a paper, answered from run folders where these know it.

Items by number: CLAIM, the checklist for artificial intelligence in medical imaging (2024 update,
doi:10.1148/ryai.240300), and TRIPOD+AI (doi:10.1136/bmj-2023-078378). What they ask is said here in
our words; the guidelines' own texts count.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from medcolor_tf.progress import counted
from medcolor_tf.reporting import breakdown_tables
from medcolor_tf.reporting.contents import Content, Section, Table
from medcolor_tf.reporting.methods import Facts, paragraphs

YOURS = "to be filled by you"
NONE = "-"
CAPTION = (
    "Item numbers of CLAIM (2024 update) and TRIPOD+AI; what they ask is in our words, the "
    "guidelines' own texts count. Answers are read from the run folders; what these cannot know is "
    f"left: {YOURS}."
)


@dataclass(frozen=True)
class Item:
    """A question of the guidelines.

    Attributes:
        group: part of the paper.
        topic: what is asked, in our words.
        claim, tripod: item numbers, "" where a guideline does not ask.
        answer: what the runs know, "" for nothing.
        rest: what they cannot know, "" for nothing; all of it where there is no answer.
    """

    group: str
    topic: str
    claim: str
    tripod: str
    answer: Callable[[Facts], str] = lambda facts: ""
    rest: str = ""

    def text(self, facts: Facts) -> str:
        """The answer, and what is left to the paper's authors."""
        known = self.answer(facts)
        left = f"{self.rest}: {YOURS}" if self.rest and known else YOURS
        return known if known and not self.rest else f"{known} {left}".strip()


def section(facts: Facts) -> Section:
    """The methods of an evaluation set and its table of items."""
    group = facts.group
    contents: tuple[Content, ...] = (*paragraphs(facts), table(facts))
    return Section(f"Methods on {group.data}", f"methods-{group.number}", contents)


def table(facts: Facts) -> Table:
    """The items with their answers."""
    rows = [(i.topic, i.claim or NONE, i.tripod or NONE, i.text(facts)) for i in ITEMS]
    known = sum(bool(item.answer(facts)) for item in ITEMS)
    title = "Checklist of CLAIM and TRIPOD+AI"
    return Table(
        f"checklist-{facts.group.number}",
        title,
        ("What is asked", "CLAIM", "TRIPOD+AI", "Answer"),
        tuple(rows),
        CAPTION,
        groups=tuple(item.group for item in ITEMS),
        summary=f"{title}: the runs say something on {known} of {len(rows)} points",
        stacked=True,
    )


def _data(facts: Facts) -> str:
    source = facts.group.source
    kind = f", read as {source}" if source else ""
    fingerprint = facts.evaluation["data_fingerprint"][:12]
    return f"{facts.group.data}{kind} (fingerprint {fingerprint})."


def _sizes(facts: Facts) -> str:
    evaluation, valid = facts.evaluation, facts.result("valid_images")
    return (
        f"{facts.sizes} training, {valid or 'some'} validation and "
        f"{evaluation['images']:,} {facts.group.split} images; {facts.group.split} images are of "
        f"{evaluation['patients']:,} patients."
    )


def _excluded(facts: Facts) -> str:
    counts = {
        split: len(places)
        for run in facts.runs
        for split, places in (run["config"].get("bad_records") or {}).items()
    }
    words = ", ".join(f"{count} of {split}" for split, count in counts.items())
    return f"Damaged records left out: {words}." if words else ""


def _subsets(facts: Facts) -> str:
    if facts.group.fractions == [1.0]:
        return "All training images were used."
    return f"{facts.sizes} of the training images, drawn at random within labels."


def _missing(facts: Facts) -> str:
    return (
        "Unknown labels count in neither loss nor AUC. Uncertain labels: "
        f"{facts.policy}. In the {facts.group.split} images: {facts.labels}."
    )


def _preparation(facts: Facts) -> str:
    short, size = facts.model("short_side"), facts.model("image_size")
    bits, mean, std = (facts.model(name) for name in ("bits", "pixel_mean", "pixel_std"))
    if not (short and size):
        return ""
    return (
        f"Gray images of {bits} bits, shorter side {short} pixels, square crop of {size} pixels, "
        f"normalised by mean {mean} and standard deviation {std} on the scale from 0 to 1."
    )


def _model(facts: Facts) -> str:
    colorizers = facts.colorizers
    colorizer = f"Colorizer T: {colorizers}. " if colorizers else "No colorizer. "
    return (
        f"{colorizer}Backbone E: {facts.backbones}. Classifier C: "
        f"{facts.option('head')}, a logit per observation. Every layer follows from the options "
        "under Runs."
    )


def _training(facts: Facts) -> str:
    words = [
        *(f"optimizer {facts.option('optimizer')}", f"loss {facts.option('loss')}"),
        *(f"{facts.option('batch_size')} images per step", f"{facts.result('steps')} steps"),
        f"schedule {facts.option('schedule')} with a peak rate of {facts.rates}",
        *(f"augmentation: {facts.augmentation}", f"{counted(len(facts.runs), 'model')} in all"),
    ]
    tuned = f" Tuned on validation images: {facts.tuned}." if facts.tuned else ""
    text = ", ".join(words)
    return f"{text[0].upper()}{text[1:]}.{tuned}"


def _imbalance(facts: Facts) -> str:
    if "focal" in facts.option("loss"):
        return "Focal loss in some or all runs; no resampling."
    return "Nothing was resampled or weighted; probabilities are those of the data set's shares."


def _output(facts: Facts) -> str:
    text = "A probability per observation, the sigmoid of its logit"
    if facts.calibrations:
        text += f", calibrated by {facts.calibrations}"
    if not facts.thresholds:
        return f"{text}. No threshold was chosen: no decisions."
    return f"{text}. Thresholds: by {facts.thresholds}."


def _measures(facts: Facts) -> str:
    text = "AUC, average precision, Brier score, expected calibration error"
    if facts.thresholds:
        text += ", sensitivity, specificity, predictive values, calibration slope and intercept"
    for unit in dict.fromkeys(content["unit"] for content in facts.units):
        text += f", AUC and Cohen's kappa per {unit}"
    return f"{text}; curves."


def _tests(facts: Facts) -> str:
    words = [f"Bootstrap over patients ({facts.group.n_resamples:,} resamples)"]
    words += ["DeLong's test with patients as clusters"] * facts.has_tests_on_same_images
    words += ["paired t-tests over runs"] * facts.has_paired_tests
    words += ["Student's t of groups over resamples of patients"] * facts.has_group_tests
    words += ["Benjamini and Hochberg's adjustment"] * (len(words) > 1)
    return f"{', '.join(words)}."


def _fairness(facts: Facts) -> str:
    if not facts.subgroups:
        return ""
    counts = [breakdown_tables.tests_of(content) for content in facts.subgroups]
    tests, strong = (sum(column) for column in zip(*counts, strict=True))
    few = sum(bool(row["few"]) for content in facts.subgroups for row in content["groups"])
    rows = sum(len(content["groups"]) for content in facts.subgroups)
    return (
        f"Groups by {facts.groupings}, each compared with all others: {strong} of "
        f"{counted(tests, 'test')} with adjusted p < {breakdown_tables.SIGNIFICANT}; {few} of "
        f"{counted(rows, 'row')} (group and observation) too few to measure."
    )


def _updates(facts: Facts) -> str:
    places = {d.data["name"]: None for d in facts.decisions if d.made_by == "calibrate"}
    if not places:
        return ""
    how = facts.calibrations or "new thresholds alone"
    return f"Adapted to the labelled images of {', '.join(places)}: {how}."


def _repeats(facts: Facts) -> str:
    seeds = facts.option("seed")
    word = "seed" if seeds.isdecimal() else "seeds"
    words = f"{counted(facts.repeats, 'run')} per setting, {word} {seeds}"
    sizes = ", and training sizes" if len(facts.group.fractions) > 1 else ""
    return f"{words}{sizes}."


def _external(facts: Facts) -> str:
    others = [r for r in facts.runs if r["config"]["data_fingerprint"] != _fingerprint(r)]
    if not others:
        return "None here: training and evaluation images are of the same data set."
    share = "All" if len(others) == len(facts.runs) else f"{len(others)} of {len(facts.runs)}"
    return f"{share} runs were trained on another data set than {facts.group.data}."


def _fingerprint(run) -> str:
    return run["evaluation"]["data_fingerprint"]


def _characteristics(facts: Facts) -> str:
    counts = next(filter(None, (r["config"].get("train_labels") for r in facts.runs)), {})
    training = "; ".join(f"{name} {count['positive']:,}" for name, count in counts.items())
    first = f"Positive training labels: {training}. " if training else ""
    return f"{first}{facts.group.split.capitalize()} labels: {facts.labels}."


def _results(facts: Facts) -> str:
    return f"Tables and figures of this report on {facts.group.data}, with intervals."


def _versions(facts: Facts) -> str:
    return f"{facts.versions}." if facts.versions else ""


def _say(text: str) -> Callable[[Facts], str]:
    return lambda facts: text


def _items() -> Iterator[Item]:
    start, data, standard = "Title to introduction", "Study and data", "Reference standard"
    yield Item(start, "Title names the method and the task", "1", "1")
    yield Item(start, "Abstract", "2", "2")
    yield Item(start, "Clinical background, existing models", "3", "3a")
    yield Item(start, "Whom it is meant for, and who would use it", "3", "3b")
    yield Item(start, "Known differences in health between groups of people", "", "3c")
    yield Item(start, "Aims and hypotheses", "4", "4")
    yield Item(data, "Prospective or retrospective", "5", "5a")
    yield Item(
        data,
        "Kind of study",
        "6",
        "4",
        lambda f: f"Development and evaluation of models; compared: {f.strategies}.",
    )
    yield Item(data, "Source of the images", "7", "5a", _data, "Where they come from")
    yield Item(data, "Dates, setting, centres", "7", "5b, 6a")
    yield Item(data, "Who was included and excluded", "8", "6b", _excluded, "Criteria")
    yield Item(data, "Treatments", "", "6c")
    yield Item(data, "Preparation of the images", "9", "7", _preparation)
    yield Item(data, "Subsets of the data", "10", "", _subsets)
    yield Item(
        data,
        "De-identification",
        "11",
        "",
        _say("The data set holds keyed ids of patients and images."),
        "What the source did",
    )
    yield Item(data, "Missing and uncertain values", "12", "11", _missing)
    yield Item(data, "How images were acquired", "13", "")
    yield Item(
        data,
        "Predictors, how they were chosen, defined and read",
        "",
        "9a, 9b, 9c",
        _say("The pixels of one image; nobody reads them."),
    )
    yield Item(
        standard,
        "What counts as positive",
        "14",
        "8a",
        lambda f: f"Observations: {', '.join(f.group.observations)}.",
        "Definition",
    )
    yield Item(standard, "Why this standard", "15", "")
    yield Item(standard, "Who labelled the images, and what they knew", "16, 17", "8b, 8c")
    yield Item(standard, "Agreement between readers", "18", "")
    yield from _items_of_models()
    yield from _items_of_results()


def _items_of_models() -> Iterator[Item]:
    parts, model, training = "Partitions", "Model", "Training"
    yield Item(parts, "How images were assigned", "19", "12a", _sizes, "By what rule")
    yield Item(
        parts,
        "Level at which partitions are apart",
        "20",
        "12a",
        _say("The patient, where it is known: images of one in two partitions are refused."),
    )
    yield Item(parts, "Sample size", "21", "10", _sizes, "Why it is enough")
    yield Item(model, "Description of the model", "22", "12c", _model)
    yield Item(
        model,
        "What the model gives",
        "22",
        "15",
        _output,
    )
    yield Item(model, "Handling of the predictors", "22", "12b", _preparation)
    yield Item(model, "Software", "23", "18f", _versions)
    yield Item(
        model,
        "How weights started",
        "24",
        "12c",
        lambda f: f"Backbone: {f.backbones}. Classifier: random, by seed.",
    )
    yield Item(training, "Training and choice of its options", "25", "12c", _training)
    yield Item(training, "Unequal classes", "25", "13", _imbalance)
    yield Item(
        training,
        "Choice of the final model",
        "26",
        "12c",
        _say("Of each run the checkpoint with the highest mean AUC of the validation images."),
    )
    yield Item(training, "Ensembles", "27", "", _say("None: every run is evaluated alone."))


def _items_of_results() -> Iterator[Item]:
    evaluation, results, end = "Evaluation", "Results", "Discussion and statements"
    yield Item(
        evaluation,
        "Measures of performance",
        "28",
        "12e",
        _measures,
    )
    yield Item(
        evaluation,
        "Uncertainty and tests",
        "29",
        "12e",
        _tests,
    )
    yield Item(
        evaluation,
        "How predictions were made for the evaluation",
        "",
        "12g",
        lambda f: (
            "Centre crop, every image once, weights of the checkpoint called "
            f"{f.of_runs(lambda run: run['evaluation']['weights'])}."
        ),
    )
    yield Item(evaluation, "Robustness", "30", "", _repeats, "Other analyses")
    yield Item(evaluation, "Differences between centres or other clusters", "", "12d, 23b")
    yield Item(evaluation, "Explaining single predictions", "31", "")
    yield Item(
        evaluation,
        "Evaluation on data of the same source",
        "32",
        "12a",
        lambda f: f"On its {f.group.split} images." if f.group.source else "",
    )
    yield Item(
        evaluation,
        "Evaluation on other data, and how these differ",
        "33",
        "16",
        _external,
        "Differences in setting, eligibility and labels",
    )
    yield Item(evaluation, "Updating or recalibrating the model", "", "12f, 24", _updates)
    yield Item(evaluation, "Fairness between groups of people", "", "14", _fairness, "What follows")
    yield Item(results, "Flow of patients and images", "35", "20a", _sizes, "From the source")
    yield Item(
        results,
        "Characteristics in each partition",
        "36",
        "20b, 20c",
        _characteristics,
        "Age, sex and the like",
    )
    yield Item(
        results,
        "Numbers and events behind each analysis",
        "36",
        "21",
        lambda f: f"{f.sizes} training images; {f.labels}.",
    )
    yield Item(results, "The model itself", "22", "22", _say("The run folders."), "Where they are")
    yield Item(results, "Performance with its uncertainty", "37, 38", "23a", _results)
    yield Item(results, "What goes wrong on which images", "39", "")
    yield Item(end, "Limitations", "40", "26")
    yield Item(end, "Interpretation, use in practice", "41", "25")
    yield Item(end, "Poor or missing images, what users must know", "41", "27a, 27b")
    yield Item(end, "Next steps", "41", "27c")
    yield Item(end, "Ethics", "", "17")
    yield Item(end, "Registration", "34", "18d")
    yield Item(end, "Protocol", "42", "18c")
    yield Item(
        end,
        "Availability of code, model and data",
        "43",
        "18e, 18f",
        _say("Code: medcolor_tf; commands and options of every run are under Runs."),
        "Model and data",
    )
    yield Item(end, "Funding", "44", "18a")
    yield Item(end, "Conflicts of interest", "", "18b")
    yield Item(end, "Patients and public in the study", "", "19")


ITEMS = tuple(_items())
