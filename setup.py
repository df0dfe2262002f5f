"""Installs the two packages: medcolor_tf (models, training, evaluation) and data_prep."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "medcolor_tf/__init__.py").read_text())[1]

DICOM = ["pydicom>=3.0"]
JAX = ["jax>=0.10"]

setup(
    name="medcolor_tf",
    version=VERSION,
    description="Deep colorization of gray medical images for networks pretrained on photographs",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["medcolor_tf", "medcolor_tf.*", "data_prep", "data_prep.*"]),
    install_requires=[
        "tensorflow>=2.21",
        "keras>=3.15",
        "numpy",
        "pandas",
        "scipy",
        "statsmodels",
        "scikit-learn",
        "pillow>=10",
        "absl-py",
        "tensorboard",
        "matplotlib",
        "tqdm",
        "safetensors",
        "huggingface_hub",
    ],
    extras_require={
        "dicom": DICOM,
        "jax": JAX,
        "dev": [*DICOM, *JAX, "pytest", "pytest-xdist", "hypothesis", "ruff"],
        "bench": ["torch>=2.13"],
    },
)
