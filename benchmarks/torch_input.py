"""PyTorch's input pipeline: Pillow, a random crop, DataLoader."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.input_data import FILES
from benchmarks.torch_step import threads

__all__ = ["build", "threads"]
ENDLESS = 10**9  # as long as an epoch of a large data set: no pause in which workers start anew


class Files(Dataset):
    """JPEG files, decoded when they are asked for, or all at once and kept."""

    def __init__(self, paths: list[Path], keep: bool):
        self.paths = paths
        self.labels = torch.tensor([[float(number % 2)] for number in range(len(paths))])
        self.kept = [self.decode(number) for number in range(len(paths))] if keep else None

    def decode(self, number: int):
        """(H,W) uint8."""
        with Image.open(self.paths[number]) as image:
            return torch.from_numpy(np.array(image))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, number):
        """(1,S,S) uint8, a random square along the longer side, and (1,) float32."""
        image = self.decode(number) if self.kept is None else self.kept[number]
        side = min(image.shape)
        top, left = (int(torch.randint(size - side + 1, ())) for size in image.shape)
        return image[None, top : top + side, left : left + side], self.labels[number]


def build(spec: dict):
    """Returns ``run(steps)``, a batch of (B, 1, S, S) uint8 and (B, 1) float32 a step.

    Args:
        spec: folder (of :mod:`benchmarks.input_data`), batch, keep (decoded images in memory, or
            decode them when they are asked for), and workers (processes; 0: this one).
    """
    torch.manual_seed(0)
    if not spec["workers"]:
        torch.set_num_threads(1)  # stacks a batch of 1.6 MB faster than two do
    folder = Path(spec["folder"]) / FILES
    paths = sorted(folder.iterdir(), key=lambda path: int(path.stem))
    data = Files(paths, keep=spec["keep"])
    batches = iter(
        DataLoader(
            data,
            spec["batch"],
            sampler=RandomSampler(data, num_samples=ENDLESS),
            num_workers=spec["workers"],
            drop_last=True,
        )
    )

    def run(steps: int) -> None:
        for _ in range(steps):
            next(batches)

    return run
