"""Ten thousand made-up and damaged images, and as many tables, beside readings of their own."""

import pytest
from fuzzing import fuzz_images, fuzz_tables

pytestmark = pytest.mark.nightly


@pytest.mark.parametrize("fuzz", [fuzz_images, fuzz_tables])
def test_ten_thousand(tmp_path, fuzz):
    seen = fuzz(tmp_path, 10_000, seed=2026)
    assert seen.total() == 10_000
    print(f"{fuzz.__name__}: " + ", ".join(f"{kind} {n:,}" for kind, n in seen.most_common()))
