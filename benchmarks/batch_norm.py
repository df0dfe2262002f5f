"""Measures a whole training step with Keras' batch normalisation and with the fused one.

    python -m benchmarks.batch_norm --repeats=9 --side=160 --batch=16

Stock Keras, the fused layer, stock Keras, ... in turns on random images, so that what else runs on
the machine meets both. Printed for each row: seconds of wall clock and of processor time a step
(median), and stock / fused of both with the spread (lowest to highest) over the turns. Processor
time is the one to read on a busy machine. Nothing is asserted: timings are no tests.
"""

import argparse
import itertools
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

STRATEGIES = ("color_module", "all")
POLICIES = ("float32", "mixed_bfloat16")


def main() -> None:
    """Parses the flags and prints one line a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--side", type=int, default=160, help="pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--policies", nargs="+", default=POLICIES, choices=POLICIES)
    flags = parser.parse_args()
    for strategy, policy in itertools.product(flags.strategies, flags.policies):
        steps = {kind: build_step(kind, strategy, policy, flags) for kind in ("stock", "fused")}
        print(f"{strategy:13s} {policy:15s} {compare(steps, flags.repeats)}", flush=True)


def build_step(kind: str, strategy: str, policy: str, flags):
    """Returns a function that runs one training step and waits for its loss."""
    import keras
    import numpy as np

    from medcolor_tf.models import build_classifier, classifier, torch_layers
    from medcolor_tf.models.fast_layers import use_fast_layers
    from medcolor_tf.models.fused import batch_normalization
    from medcolor_tf.training.strategies import set_trainable

    stock = kind == "stock"
    layer = keras.layers.BatchNormalization if stock else batch_normalization
    torch_layers.batch_normalization = layer
    # The classifier fuses whatever parts it is given.
    classifier.use_fast_layers = (lambda model: model) if stock else use_fast_layers
    keras.config.set_dtype_policy(policy)
    parts = {"colorizer": "pixel_shuffle", "backbone": "ResNet18", "backbone_weights": None}
    model = build_classifier(**parts, labels=5, pixel_mean=0.5, pixel_std=0.29, seed=0)
    norm = model.get_layer("backbone").get_layer("bn1")
    assert (type(norm) is keras.layers.BatchNormalization) == stock
    set_trainable(model, strategy)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, 0.9), loss, jit_compile=False)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (flags.batch, flags.side, flags.side, 1)).astype("uint8")
    labels = random.integers(0, 2, (flags.batch, 5)).astype("float32")
    return lambda: float(model.train_on_batch(images, labels))


def compare(steps: dict, repeats: int) -> str:
    """Runs the steps in turns and returns the row's text."""
    first = {kind: step() for kind, step in steps.items()}  # traces, and shows the same loss
    seconds = {kind: [] for kind in steps}
    for _ in range(repeats):
        for kind, step in steps.items():
            wall, processor = time.perf_counter(), time.process_time()
            step()
            seconds[kind].append((time.perf_counter() - wall, time.process_time() - processor))
    texts = []
    for number, name in enumerate(("wall", "processor")):
        stock, fused = ([turn[number] for turn in seconds[kind]] for kind in ("stock", "fused"))
        ratios = [a / b for a, b in zip(stock, fused, strict=True)]
        texts.append(
            f"{name} {statistics.median(stock):.2f} s / {statistics.median(fused):.2f} s "
            f"= {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )
    losses = " ".join(f"{value:.5f}" for value in first.values())
    return "   ".join([*texts, f"first losses {losses}"])


if __name__ == "__main__":
    main()
