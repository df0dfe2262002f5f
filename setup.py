"""Installs what pyproject.toml describes."""

from setuptools import setup

setup()
