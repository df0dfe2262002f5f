"""Is the heat where the finding is? ``python -m benchmarks.heat_maps RUN``, of a run on phantoms.

Draws phantoms that no run has seen, in which the place of every finding is known, and measures of
each kind of heat map, over the findings that are there:

  energy    the share of the heat that lies inside the finding
  pointing  the share of findings that hold the hottest pixel

with 95 % intervals (patients resampled), beside heat that knows nothing of the image: random, a
hill in the centre, and the place where this finding usually is (of other phantoms). A map without
any heat scores 0. Run it from the repository root.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from data_prep.phantom import PhantomConfig, draw_with_places
from data_prep.sources.chexpert import FOURTEEN
from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError

OTHER_PHANTOMS = 400  # of which the usual places are taken
FIRST_LABEL = 5  # column of a phantom's row where its fourteen observations begin


@dataclass(frozen=True)
class HeatConfig:
    """Options of the measurement."""

    run_dir: str = option("", "Run folder, trained on phantoms.", None, True, True)
    images: int = option(300, "Phantoms to draw; their frontal views count.")
    seed: int = option(3000, "Of the drawing; another than the training data's.")
    resamples: int = option(2000, "Of the intervals.")


@dataclass(frozen=True)
class Finding:
    """A finding that is there.

    Attributes:
        image: its position among the images.
        k: its position among the observations.
        patient: number of the patient.
        place: (S, S) bool, where it lies.
    """

    image: int
    k: int
    patient: int
    place: np.ndarray


@dataclass(frozen=True)
class Score:
    """Energy and pointing of one kind of map, an entry per finding."""

    energy: np.ndarray
    pointing: np.ndarray


def square(pixels: np.ndarray) -> np.ndarray:
    """Cuts the middle square of (H, W)."""
    side = min(pixels.shape)
    top, left = (round((length - side) / 2) for length in pixels.shape)
    return pixels[top : top + side, left : left + side]


def draw_frontal(images: int, seed: int, side: int) -> Iterator[tuple[tuple, np.ndarray, dict]]:
    """Yields (row of the table, (side, side) uint8, places by finding) of frontal phantoms."""
    config = PhantomConfig(out="-", images=images, seed=seed, short_side=side)
    for _, row, pixels, places in draw_with_places(config):
        if row[3] == "Frontal":
            yield row, square(pixels), {name: square(place) for name, place in places.items()}


def find(drawn: list, observations: tuple[str, ...]) -> list[Finding]:
    """Lists the findings that the table calls positive and that show in the square."""
    findings = []
    for image, (row, _, places) in enumerate(drawn):
        labels = dict(zip(FOURTEEN, row[FIRST_LABEL:], strict=True))
        patient = int(row[0].split("patient")[1][:5])
        findings += [
            Finding(image, k, patient, places[name])
            for k, name in enumerate(observations)
            if labels.get(name) == "1.0" and name in places and places[name].any()
        ]
    return findings


def score(maps: np.ndarray, findings: list[Finding]) -> Score:
    """Measures maps (N, S, S, K) against the findings' places."""
    energy, pointing = [], []
    for finding in findings:
        heat = maps[finding.image, ..., finding.k]
        total = heat.sum()
        energy.append(heat[finding.place].sum() / total if total > 0 else 0.0)
        hottest = finding.place[heat == heat.max()]  # several pixels where they are equal
        pointing.append(hottest.mean() if total > 0 else 0.0)
    return Score(np.array(energy), np.array(pointing))


def kinds_of_map(mapper, colors: np.ndarray, side: int) -> dict[str, np.ndarray]:
    """Returns (N, S, S, K) maps of each kind that a network gives, by name."""
    from medcolor_tf.evaluation.heat_maps import BATCH, enlarged, to_unit_peak

    kinds: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(colors), BATCH):
        batch = colors[start : start + BATCH]
        depths = mapper.gradients(batch)
        finest, *_, last = depths

        def fused(of_depth: Callable, finest=finest, last=last) -> np.ndarray:
            """The fusion of LayerCAM's authors: early maps through tanh, then the maximum."""
            early = np.tanh(2 * to_unit_peak(enlarged(of_depth(*finest), side, side)))
            return np.maximum(early, to_unit_peak(enlarged(of_depth(*last), side, side)))

        maps = {
            "Grad-CAM": enlarged(_hires(*last), side, side),
            "LayerCAM, finest depth": enlarged(_layer_cam(*finest), side, side),
            "LayerCAM, finest and last, fused": fused(_layer_cam),
            "Grad-CAM++, finest and last, fused": fused(_grad_cam_pp),
            "gradient x activation, finest depth": enlarged(_hires(*finest), side, side),
            "multiscale": enlarged(mapper(batch), side, side),
        }
        for name, values in maps.items():
            kinds.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in kinds.items()}


def _hires(features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Gradient times activation; of the last depth and a linear head it is Grad-CAM."""
    return np.maximum(np.einsum("bhwc,kbhwc->bhwk", features, gradients), 0)


def _layer_cam(features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """LayerCAM (Jiang et al., IEEE TIP 2021): positive gradients weigh each place."""
    return np.maximum(np.einsum("bhwc,kbhwc->bhwk", features, np.maximum(gradients, 0)), 0)


def _grad_cam_pp(features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Grad-CAM++ (Chattopadhyay et al., WACV 2018), of exp(logit)."""
    squares = gradients**2
    sums = features.sum((1, 2), keepdims=True)
    below = 2 * squares + sums * gradients**3
    alpha = np.divide(squares, below, out=np.zeros_like(below), where=np.abs(below) > 1e-12)
    weights = (alpha * np.maximum(gradients, 0)).sum((2, 3))
    return np.maximum(np.einsum("bhwc,kbc->bhwk", features, weights), 0)


def priors(shape: tuple[int, ...], observations: tuple[str, ...], seed: int) -> dict:
    """Returns maps (N, S, S, K) that know nothing of the image, by name."""
    from medcolor_tf.evaluation.heat_maps import enlarged

    count, side, _, labels = shape
    random = np.random.default_rng(seed).standard_normal((count, 5, 5, labels))
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    hill = np.exp(-(x**2 + y**2) / (2 * (side / 4) ** 2))
    usual = np.zeros((side, side, labels))
    for _, _, places in draw_frontal(OTHER_PHANTOMS, seed + 1, side):
        for k, name in enumerate(observations):
            usual[..., k] += places.get(name, 0)
    return {
        "random, 5 x 5 cells": enlarged(np.maximum(random, 0).astype(np.float32), side, side),
        "a hill in the centre": np.broadcast_to(hill[None, ..., None], shape),
        "where the finding usually is": np.broadcast_to(usual[None], shape),
        "everywhere": np.ones(shape),
    }


def interval(values: np.ndarray, patients: np.ndarray, resamples: int) -> str:
    """Formats a mean in percent with its 95 % interval, patients resampled."""
    from medcolor_tf.evaluation.bootstrap import percentiles, resample_weights

    _, group = np.unique(patients, return_inverse=True)
    sums, counts = np.bincount(group, values), np.bincount(group)
    means = np.concatenate(
        [
            (sums @ weights) / (counts @ weights)
            for weights in resample_weights(len(counts), resamples, 0.95, 0)
        ]
    )
    low, high = 100 * percentiles(means, 0.95)
    return f"{100 * values.mean():.1f} ({low:.1f} to {high:.1f})"


def table(scores: dict[str, Score], findings: list[Finding], observations, resamples) -> str:
    """Returns the Markdown table: energy, pointing, and the energy of each observation."""
    patients = np.array([finding.patient for finding in findings])
    kinds = np.array([finding.k for finding in findings])
    base = scores["Grad-CAM"].energy
    lines = [
        "| heat map | energy, % | pointing, % | energy, to Grad-CAM's | "
        + " | ".join(observations)
        + " |",
        "|---|--:|--:|--:|" + "--:|" * len(observations),
    ]
    for name, result in scores.items():
        by_kind = [result.energy[kinds == k] for k in range(len(observations))]
        cells = [
            name,
            interval(result.energy, patients, resamples),
            interval(result.pointing, patients, resamples),
            "" if name == "Grad-CAM" else interval(result.energy - base, patients, resamples),
            *(f"{100 * values.mean():.1f}" if len(values) else "-" for values in by_kind),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(config: HeatConfig) -> None:
    """Prints the table of a run."""
    commandline.import_tensorflow()
    from medcolor_tf.evaluation.heat_maps import MultiscaleMaps
    from medcolor_tf.models import colorize_model
    from medcolor_tf.runs import folder as runs

    spec, classifier, step = runs.load_predictor(config.run_dir)
    if (spec.bits, spec.input_channels, spec.short_side) != (8, 1, spec.image_size):
        raise InputError(
            f"{config.run_dir}: expected a run on phantoms of 8 bits, one channel and a short side "
            f"of the image size; received {spec.bits}, {spec.input_channels}, {spec.short_side} px "
            f"for {spec.image_size}"
        )
    drawn = list(draw_frontal(config.images, config.seed, spec.image_size))
    findings = find(drawn, spec.observations)
    if not findings:
        raise InputError(f"--images={config.images}: no finding in these phantoms; expected more")
    images = np.stack([pixels for _, pixels, _ in drawn])[..., None]
    colors = colorize_model(classifier).predict(images, batch_size=8, verbose="silent")
    mapper = MultiscaleMaps(classifier, spec.image_size, list(range(len(spec.observations))))
    maps = kinds_of_map(mapper, colors, spec.image_size)
    shape = maps["multiscale"].shape
    maps |= priors(shape, spec.observations, config.seed + 1)
    cold = sum(not maps["multiscale"][f.image, ..., f.k].any() for f in findings)
    print(
        f"{len(findings)} findings in {len(drawn)} phantoms of {spec.image_size} px, step {step}; "
        f"without any multiscale heat: {cold}\n"
    )
    scores = {name: score(values, findings) for name, values in maps.items()}
    print(table(scores, findings, spec.observations, config.resamples))


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(HeatConfig, measure, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
