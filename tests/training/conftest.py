"""Puts back what a run may change in its process for good."""

import pytest


@pytest.fixture(autouse=True)
def no_determinism_left():
    """--deterministic holds for the life of a process. A run has its own; tests share one."""
    yield
    from tensorflow.python.framework import config

    config.disable_op_determinism()
