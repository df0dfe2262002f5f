"""The model behind docs/scaling.md: what is counted is what trains, and the formulas' limits."""

import pytest

from benchmarks.scaling import (
    Link,
    Work,
    all_reduce_seconds,
    count,
    efficiency,
    exchange_seconds,
    speedup,
)

LINK = Link.parse("wire:10:5")
WORK = Work(parameters=1_000_000, norms=3, channels=100)


def test_counted_is_what_trains():
    """PixelShuffle has 599,440 parameters, ResNet18 20 normalisations of 4,800 channels."""
    module, everything = count("color_module", "ResNet18"), count("all", "ResNet18")
    head = 512 * 5 + 5
    assert module.parameters == 599_440 + head
    resnet18 = 11_176_512  # torchvision's 11,689,512 without its 1,000 classes
    assert everything.parameters == module.parameters + resnet18
    assert (everything.norms - module.norms, everything.channels - module.channels) == (20, 4800)
    assert count("baseline", "ResNet18") == Work(head, 0, 0)


def test_bytes_are_float32_and_two_numbers_a_channel_each_way():
    assert WORK.gradient_bytes == 4_000_000
    assert WORK.statistics_bytes == 100 * 2 * 2 * 4
    assert WORK.exchanges == 1 + 1 + 3 * 2


def test_one_device_exchanges_nothing():
    assert exchange_seconds(WORK, 1, LINK) == 0
    assert efficiency(WORK, 1, LINK, step=0.1) == speedup(WORK, 1, LINK, step=0.1) == 1


def test_a_ring_sends_nearly_twice_the_bytes():
    slow = Link("slow", bandwidth=1e9, latency=0.0)
    assert all_reduce_seconds(1e9, 2, slow) == pytest.approx(1.0)
    assert all_reduce_seconds(1e9, 1000, slow) == pytest.approx(2.0, rel=2e-3)


def test_small_messages_cost_hops():
    empty = Link("wire", bandwidth=float("inf"), latency=1e-5)
    assert all_reduce_seconds(1.0, 8, empty) == pytest.approx(6e-5)
    assert all_reduce_seconds(1.0, 64, empty, exchanges=10) == pytest.approx(12e-4)
    assert (LINK.bandwidth, LINK.latency) == (10e9, pytest.approx(5e-6))


def test_efficiency_falls_with_devices_and_rises_with_the_step():
    shares = [efficiency(WORK, n, LINK, step=0.01) for n in (1, 2, 8, 64)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < efficiency(WORK, 64, LINK, step=0.1) < 1
    # With the batch fixed a device's part shrinks, and the exchanges do not.
    assert speedup(WORK, 64, LINK, step=0.1) < 64 * efficiency(WORK, 64, LINK, step=0.1)
