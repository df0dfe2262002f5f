"""What to expect of 1 to 64 GPUs: bytes that are counted, an input rate that is measured, a model.

    python -m benchmarks.scaling --data_dir=tfrecords/chexpert
    python -m benchmarks.scaling --backbones=ResNet18 --strategies=all --step_ms=90 --batch=32

Counted, from the models themselves: what the devices exchange in a step. Measured here: the input
rate of a processor core (with --data_dir) and, without --step_ms, a training step on this machine's
processor. Everything else is arithmetic on them and on the links' speeds, which are assumptions
(--links). docs/scaling.md says what to make of the numbers.
"""

import argparse
import math
import os
import time
from dataclasses import dataclass

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

FLOAT = 4
STRATEGIES = ("baseline", "color_module", "baseline_all", "all")
BACKBONES = ("ResNet18", "DenseNet121")
LINKS = ("NVLink:200:5", "PCIe:12:10", "100GbE:10:30", "25GbE:2.5:30")
DEVICES = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Work:
    """What one step of a strategy makes the devices exchange.

    Attributes:
        parameters: trained.
        norms: layers of batch normalisation that train.
        channels: of all of these together.
    """

    parameters: int
    norms: int
    channels: int

    @property
    def gradient_bytes(self) -> int:
        """One float32 a trained parameter, sent as one exchange."""
        return FLOAT * self.parameters

    @property
    def statistics_bytes(self) -> int:
        """Mean and mean square of each channel, and the gradients of both."""
        return 2 * 2 * FLOAT * self.channels

    @property
    def exchanges(self) -> int:
        """All-reduces a step: the gradients, the known labels, and two a normalisation."""
        return 2 + 2 * self.norms


@dataclass(frozen=True)
class Link:
    """What connects the devices, at its slowest place.

    Attributes:
        name: for the tables.
        bandwidth: bytes/s that a ring really gets, one direction.
        latency: seconds of one hop of a small message.
    """

    name: str
    bandwidth: float
    latency: float

    @classmethod
    def parse(cls, text: str) -> "Link":
        """Reads NAME:GIGABYTES_A_SECOND:MICROSECONDS."""
        name, bandwidth, latency = text.split(":")
        return cls(name, float(bandwidth) * 1e9, float(latency) * 1e-6)


def all_reduce_seconds(size: float, devices: int, link: Link, exchanges: int = 1) -> float:
    """Time of all-reducing ``size`` bytes in so many exchanges.

    A ring sends 2 (n-1)/n of the bytes through each link; what is small goes up and down a tree of
    ceil(log2 n) hops. Nothing overlaps: Keras applies the gradients after the backward pass, and a
    normalisation waits for its statistics.
    """
    hops = 2 * math.ceil(math.log2(devices))
    return 2 * (devices - 1) / devices * size / link.bandwidth + exchanges * hops * link.latency


def exchange_seconds(work: Work, devices: int, link: Link) -> float:
    """Time a step spends in exchanges; 0 for one device."""
    size = work.gradient_bytes + work.statistics_bytes
    return all_reduce_seconds(size, devices, link, work.exchanges)


def efficiency(work: Work, devices: int, link: Link, step: float) -> float:
    """Images/s of ``devices``, divided by as many times one device's, where input keeps up.

    Args:
        work: of the strategy.
        devices: number of them; each has as many images a step as the one had.
        link: between them.
        step: seconds that one device takes alone.
    """
    return step / (step + exchange_seconds(work, devices, link))


def speedup(work: Work, devices: int, link: Link, step: float) -> float:
    """How much sooner ``devices`` are done than one that has the same whole batch.

    Args:
        work, devices, link: as for :func:`efficiency`.
        step: seconds that one device takes for the whole batch; a part of it takes its part.
    """
    return step / (step / devices + exchange_seconds(work, devices, link))


def cores_wanted(images_a_second: float, images_a_core: float) -> float:
    """Processor cores that a host needs for the input of all its devices."""
    return images_a_second / images_a_core


def count(strategy: str, backbone: str) -> Work:
    """Builds the classifier with pixel_shuffle and counts what trains."""
    import keras

    from medcolor_tf.models import build_classifier
    from medcolor_tf.training.strategies import set_trainable

    colorizer = "none" if strategy.startswith("baseline") else "pixel_shuffle"
    model = build_classifier(
        colorizer, backbone, 5, pixel_mean=0.5, pixel_std=0.3, backbone_weights=None, seed=0
    )
    set_trainable(model, strategy)
    parts = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    norms = [
        layer
        for part in parts
        for layer in part.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return Work(trained, len(norms), sum(norm.moving_mean.shape[0] for norm in norms))


def input_rates(data_dir: str, batch: int, seconds: float) -> dict[str, tuple[float, float]]:
    """Measures the training stream: name -> (images a processor second, images a second)."""
    from medcolor_tf.data.pipeline import Split

    split = Split(data_dir, "train")
    encoded = split._encoded_bytes() / len(split)
    print(f"{len(split)} images of {split.image_size} px, {encoded / 1000:.0f} kB each as stored\n")
    rates = {"from TFRecords": _rate(split, batch, seconds)}
    split.keep_decoded()
    rates["--cache=ram"] = _rate(split, batch, seconds)
    return rates


def _rate(split, batch: int, seconds: float) -> tuple[float, float]:
    stream = iter(split.training_batches(min(batch, len(split))))
    for _ in range(3):  # the shuffle buffer fills
        next(stream)
    images, wall, processor = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        images += len(next(stream)[1])
    return images / (time.process_time() - processor), images / (time.perf_counter() - wall)


def step_seconds(strategy: str, side: int, batch: int, repeats: int) -> float:
    """Median time of a training step with ResNet18 on this machine, without augmentation."""
    import statistics

    from benchmarks.keras_step import build

    run = build(
        {"strategy": strategy, "size": side, "batch": batch, "bfloat16": False, "stock_bn": False}
    )
    run(1)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(1)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main(argv=None) -> None:
    """Prints the tables in Markdown, each with where its numbers come from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument(
        "--links", nargs="+", default=LINKS, help="NAME:GB/s:microseconds a hop, assumptions"
    )
    parser.add_argument("--data_dir", default="", help="data set whose input rate is measured")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement of input")
    parser.add_argument("--batch", type=int, default=32, help="images a step and device")
    parser.add_argument("--whole_batch", type=int, default=256, help="images a step, where fixed")
    parser.add_argument(
        "--step_ms", type=float, default=0, help="time of one device's step; 0: measured here"
    )
    parser.add_argument("--side", type=int, default=160, help="pixels of the step measured here")
    parser.add_argument("--repeats", type=int, default=5, help="steps measured here")
    flags = parser.parse_args(argv)
    links = [Link.parse(text) for text in flags.links]
    works = {(s, b): count(s, b) for b in flags.backbones for s in flags.strategies}
    _print_bytes(works)
    _print_exchanges(works, links)
    if flags.data_dir:
        _print_input(input_rates(flags.data_dir, flags.batch, flags.seconds))
    for strategy in flags.strategies:
        _print_efficiency(strategy, works, links, flags)


def _print_bytes(works: dict) -> None:
    print("Counted: what each device has to exchange in a step\n")
    print("| strategy | backbone | parameters | gradients | statistics | all-reduces |")
    print("|---|---|---|---|---|---|")
    for (strategy, backbone), work in works.items():
        print(
            f"| {strategy} | {backbone} | {work.parameters:,} | {work.gradient_bytes / 1e6:.3g} MB "
            f"| {work.statistics_bytes / 1e3:.3g} kB | {work.exchanges} |"
        )


def _print_exchanges(works: dict, links: list[Link]) -> None:
    print("\nComputed: milliseconds a step that exchanges take on 2 / 8 / 64 devices\n")
    print("| strategy | backbone | " + " | ".join(link.name for link in links) + " |")
    print("|---|---|" + "---|" * len(links))
    for (strategy, backbone), work in works.items():
        cells = [
            " / ".join(f"{1e3 * exchange_seconds(work, n, link):.2g}" for n in (2, 8, 64))
            for link in links
        ]
        print(f"| {strategy} | {backbone} | " + " | ".join(cells) + " |")


def _print_input(rates: dict) -> None:
    print(f"Measured on this machine's {os.cpu_count()} cores; the last columns are computed\n")
    print("| input | images/s a core | images/s here | cores for 1,000 images/s | for 10,000 |")
    print("|---|---|---|---|---|")
    for name, (core, here) in rates.items():
        cells = " | ".join(f"{cores_wanted(rate, core):.2g}" for rate in (1_000, 10_000))
        print(f"| {name} | {core:,.0f} | {here:,.0f} | {cells} |")


def _print_efficiency(strategy: str, works: dict, links: list[Link], flags) -> None:
    step, origin = flags.step_ms / 1e3, "given"
    if not step:
        step = step_seconds(strategy, flags.side, flags.batch, flags.repeats)
        origin = f"measured on this machine's processor, ResNet18, {flags.side} px"
    print(f"\nComputed: {strategy}, for a step of {1e3 * step:.0f} ms with {flags.batch} images")
    print(f"({origin}): efficiency in percent where each device has as many,")
    print(f"and times faster than one device where all together have {flags.whole_batch}\n")
    whole = step * flags.whole_batch / flags.batch
    print("| backbone | link | " + " | ".join(f"{n} devices" for n in DEVICES) + " |")
    print("|---|---|" + "---|" * len(DEVICES))
    for backbone in flags.backbones:
        for link in links:
            work = works[strategy, backbone]
            shares = (100 * efficiency(work, n, link, step) for n in DEVICES)
            factors = (speedup(work, n, link, whole) for n in DEVICES)
            pairs = zip(shares, factors, strict=True)
            cells = [f"{share:.0f} %, {factor:.3g} x" for share, factor in pairs]
            print(f"| {backbone} | {link.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
