"""Colorizers and models that travel between runs, people and frameworks."""
