"""PyTorch's part of each row as a good user of it would write it.

Channels-last; autocast to bfloat16; torch.compile, or eager. What is frozen is in eval mode and
asks for no gradient of its weights; where nothing in front of the head trains, it runs without any
graph. Inference that is compiled has its weights frozen into the graph (torch's documented option),
so that normalisation is folded into the convolutions and weights are laid out once. On a GPU cuDNN
looks for its fastest kernels, the optimizer is fused, and what is compiled is also replayed as CUDA
graphs, a variant of its own.
"""

# PyTorch is an optional dependency (the extra "bench"), absent where types are checked.
# pyright: reportMissingImports=false

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.input_data import FILES
from benchmarks.pytorch_augmentation import augment
from benchmarks.pytorch_models import Classifier
from benchmarks.work import TRAINS, batch_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cudnn.benchmark = True
FREEZING = {"freezing": True}
ENDLESS = 10**9  # as long as an epoch of a large data set: no pause in which workers start anew
Run = Callable[[int], None]


def step(spec: dict) -> Run:
    """Returns ``run(steps)``: whole training steps, or inferences where spec["strategy"] is "".

    Args:
        spec: strategy, backbone, size, batch, bfloat16, compile (torch.compile or eager), and
            graphs (CUDA graphs; not given: none).
    """
    torch.manual_seed(0)
    strategy = spec["strategy"] or "all"
    model = Classifier(not strategy.startswith("baseline"), spec["backbone"])
    model = model.to(DEVICE, memory_format=torch.channels_last)
    images, labels = (torch.from_numpy(array).to(DEVICE) for array in batch_of(spec))
    images = images.permute(0, 3, 1, 2)  # channels-last as it is
    if not spec["strategy"]:
        return _inference(model, images, spec)
    return _training(model, TRAINS[strategy], images, labels, spec)


def threads() -> int:
    """Returns how many threads an operation may use."""
    return torch.get_num_threads()


def freeze(model: Classifier, trains: tuple[str, ...]) -> None:
    """Switches on what trains; the rest is left on its moving statistics, without gradients."""
    for name, part in model.parts().items():
        part.requires_grad_(name in trains).train(name in trains)


def peak_bytes() -> int:
    """Returns the largest memory of the GPU that was in use so far; 0 without one."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0


def forward(model: Classifier, trains: tuple[str, ...], spec: dict):
    """Returns images -> logits, with a graph for what trains alone."""
    if trains != ("head",):
        return _compiled(model, spec, {})
    encoder = _compiled(model.encoder, spec, FREEZING)

    def run(images):
        with torch.no_grad():
            features = encoder(images)
        return model.head(features)

    return run


def _training(model, trains, images, labels, spec):
    freeze(model, trains)
    run = forward(model, trains, spec)
    trained = [p for p in model.parameters() if p.requires_grad]
    fused = DEVICE == "cuda" or None
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, fused=fused)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with _precision(spec):
                logits = run(images)
            functional.binary_cross_entropy_with_logits(logits.float(), labels).backward()
            optimizer.step()
        _wait()

    return train


def _compiled(model, spec, options):
    if not spec["compile"]:
        return model
    graphs = {"triton.cudagraphs": True} if spec.get("graphs") else {}
    return torch.compile(model, options={**options, **graphs} or None)


def _inference(model, images, spec):
    model.eval()
    run = _compiled(model, spec, FREEZING)

    def infer(steps: int) -> None:
        # Not inference_mode: the frozen graph's weights are made outside of it.
        with torch.no_grad(), _precision(spec):
            for _ in range(steps):
                run(images)
        _wait()

    return infer


def _precision(spec):
    return torch.autocast(DEVICE, torch.bfloat16) if spec["bfloat16"] else contextlib.nullcontext()


def _wait() -> None:
    """Waits for what the GPU was told to do."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def augmentation(spec: dict) -> Run:
    """Returns ``run(steps)``, a batch of (B, 1, S, S) float32 per step.

    Args:
        spec: size, batch, and compile (torch.compile or eager).
    """
    torch.manual_seed(0)
    images = torch.from_numpy(batch_of(spec)[0]).to(DEVICE).permute(0, 3, 1, 2).float()
    run_once = torch.compile(augment) if spec["compile"] else augment

    def run(steps: int) -> None:
        with torch.no_grad():
            for _ in range(steps):
                run_once(images)
        _wait()

    return run


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


def inputs(spec: dict) -> Run:
    """Returns ``run(steps)``, a batch of (B, 1, S, S) uint8 and (B, 1) float32 per step.

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
