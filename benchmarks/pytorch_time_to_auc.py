"""A PyTorch script that trains on a folder of JPEGs, as a good user of PyTorch would write it.

Channels-last, one-cycle with a higher rate for the head, JPEGs decoded (at a reduced scale where
that loses nothing) and resized by a DataLoader's worker processes, rotation and zoom of whole
batches, validation images decoded once, autocast to bfloat16 if asked for. Where the head alone
learns, features are computed once, or with --recompute in every step, as in most scripts.
:mod:`benchmarks.time_to_auc` starts it; nothing of this project's TensorFlow side is imported.
"""

# PyTorch is an optional dependency (the extra "bench"), absent where types are checked.
# pyright: reportMissingImports=false

import argparse
import contextlib
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.pytorch_augmentation import augment
from benchmarks.pytorch_models import ResNet18

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what the backbone was trained with


class Films(Dataset):
    """JPEG files and their labels."""

    def __init__(self, rows: list[dict[str, str]], size: int, crop: bool):
        self.rows, self.size, self.crop = rows, size, crop

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        """(1,S,S) uint8, the middle square or a random one along the longer side; (1,) float32."""
        row, size = self.rows[number], self.size
        with Image.open(row["path"]) as image:
            image.draft("L", (size, size))
            image = image.convert("L")
        scale = size / min(image.size)
        width, height = (max(size, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        share = torch.rand(()).item() if self.crop else 0.5
        left, top = int((width - size) * share), int((height - size) * share)
        pixels = np.array(image)[top : top + size, left : left + size]
        return torch.from_numpy(pixels)[None], torch.tensor([float(row["label"])])


class Classifier(nn.Module):
    """ResNet18 to its third layer, features averaged, one logit."""

    def __init__(self):
        super().__init__()
        self.backbone = ResNet18()
        self.backbone.layer4 = nn.Identity()
        self.head = nn.Linear(256, 1)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def features(self, x):
        """(B,1,H,W) uint8 or float32, 0 to 255, to (B,256)."""
        colors = (x.float() / 255 - self.mean) / self.std
        return self.backbone(colors.contiguous(memory_format=torch.channels_last)).mean((2, 3))

    def forward(self, x):
        """(B,1,H,W) pixels to (B,1) logits."""
        return self.head(self.features(x))


def load_backbone(backbone: ResNet18, path: str | Path) -> None:
    """Assigns the arrays of a .npz file, named as torchvision names them."""
    with np.load(path) as arrays:
        state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    missing = backbone.load_state_dict(state, strict=False)
    wrong = [n for n in missing.missing_keys if not n.endswith("num_batches_tracked")]
    if wrong or missing.unexpected_keys:
        raise ValueError(f"{path}: missing {wrong}, unexpected {missing.unexpected_keys}")


def auc(labels: np.ndarray, logits: np.ndarray) -> float:
    """Area under the ROC curve of (N,) labels and logits; a tie counts half."""
    positive, negative = logits[labels > 0, None], logits[None, labels == 0]
    return float((positive > negative).mean() + 0.5 * (positive == negative).mean())


def read_all(films: Films, options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns all images (N,1,S,S) and labels (N,1)."""
    pairs = list(DataLoader(films, 64, num_workers=options.workers))
    images, labels = zip(*pairs, strict=True)
    return torch.cat(images), torch.cat(labels)


class Training:
    """A model, its optimizer and its schedule."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.model = Classifier().to(memory_format=torch.channels_last)
        load_backbone(self.model.backbone, options.weights)
        backbone = {"params": list(self.model.backbone.parameters())}
        head = {"params": list(self.model.head.parameters())}
        groups = [head] if options.head_only else [backbone, head]
        rates = [options.max_lr, options.max_lr * options.head_factor][-len(groups) :]
        self.optimizer = torch.optim.SGD(groups, lr=options.max_lr, momentum=0.9)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rates, total_steps=options.steps
        )

    def precision(self):
        """Autocast to bfloat16, where it is asked for."""
        wanted = self.options.bfloat16
        return torch.autocast("cpu", torch.bfloat16) if wanted else contextlib.nullcontext()

    def step(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Updates what trains."""
        loss = functional.binary_cross_entropy_with_logits(logits.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    @torch.no_grad()
    def infer(self, function, images: torch.Tensor) -> torch.Tensor:
        """Applies the model's ``function`` to all images in inference mode."""
        self.model.eval()
        with self.precision():
            return torch.cat([function(batch).float() for batch in images.split(64)])

    def batches(self, train: Films):
        """Starts the workers; yields a batch for every step."""
        options = self.options
        sampler = RandomSampler(train, num_samples=options.steps * options.batch)
        return iter(DataLoader(train, options.batch, sampler=sampler, num_workers=options.workers))

    def fine_tune(self, train: Films, valid: Films) -> None:
        """Trains everything, on augmented images."""
        options, batches = self.options, self.batches(train)
        images, labels = read_all(valid, options)
        for step, (pixels, wanted) in enumerate(batches, 1):
            self.model.train()
            with torch.no_grad():
                pixels = augment(pixels.float())
                if step <= options.small_share * options.steps:
                    size = round(options.small_scale * options.size)
                    pixels = functional.interpolate(
                        pixels, (size, size), mode="bilinear", antialias=True
                    )
            with self.precision():
                logits = self.model(pixels)
            self.step(logits, wanted)
            if step % options.interval == 0:
                report(step, labels, self.infer(self.model, images))

    def train_head_alone(self, train: Films, valid: Films) -> None:
        """Trains the head, behind a frozen backbone that runs in every step."""
        options, model, batches = self.options, self.model, self.batches(train)
        images, labels = read_all(valid, options)
        for step, (pixels, wanted) in enumerate(batches, 1):
            self.step(model.head(self.infer(model.features, pixels)), wanted)
            if step % options.interval == 0:
                report(step, labels, self.infer(model, images))

    def train_head(self, train: Films, valid: Films) -> None:
        """Trains the head on features that are computed once."""
        options, head = self.options, self.model.head
        data = [read_all(films, options) for films in (train, valid)]
        known, seen = (self.infer(self.model.features, images) for images, _ in data)
        (_, labels), (_, valid_labels) = data
        for step in range(1, options.steps + 1):
            rows = torch.randperm(len(known))[: options.batch]
            self.step(head(known[rows]), labels[rows])
            if step % options.interval == 0:
                with torch.no_grad():
                    report(step, valid_labels, head(seen))


def report(step: int, labels: torch.Tensor, logits: torch.Tensor) -> None:
    """Prints a validation."""
    value = auc(labels[:, 0].numpy(), logits[:, 0].numpy())
    print(f"step {step}: validation mean AUC {value:.4f}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads options and trains."""
    parser = argparse.ArgumentParser(description="Fine-tunes a ResNet18 to layer3 on JPEGs.")
    parser.add_argument("--films", required=True, help="CSV with path, label and split.")
    parser.add_argument("--weights", required=True, help=".npz of the backbone.")
    for name in ("size", "batch", "steps", "interval", "seed", "workers"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("max_lr", "head_factor"):
        parser.add_argument(f"--{name}", type=float, required=True)
    # The first steps on smaller images: share of the steps, and scale of the images' side.
    parser.add_argument("--small_share", type=float, default=0.0)
    parser.add_argument("--small_scale", type=float, default=0.5)
    for name in ("bfloat16", "head_only", "recompute"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    with open(options.films, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    train, valid = (
        Films([row for row in rows if row["split"] == split], options.size, split == "train")
        for split in ("train", "valid")
    )
    training = Training(options)
    head_alone = training.train_head_alone if options.recompute else training.train_head
    (head_alone if options.head_only else training.fine_tune)(train, valid)


if __name__ == "__main__":
    main()
