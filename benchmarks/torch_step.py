"""A training step, or an inference, in PyTorch as a good user of it would write it.

Channels-last; autocast to bfloat16; torch.compile, or eager. What is frozen is in eval mode and
asks for no gradient of its weights; where nothing in front of the head trains, it runs without any
graph. Inference that is compiled has its weights frozen into the graph (torch's documented option),
so that normalisation is folded into the convolutions and weights are laid out once.
"""

import contextlib

import torch
from torch.nn import functional

from benchmarks.torch_models import Classifier
from benchmarks.work import TRAINS, batch_of

FREEZING = {"freezing": True}


def build(spec: dict):
    """Returns ``run(steps)``: whole training steps, or inferences where spec["strategy"] is "".

    Args:
        spec: strategy, backbone, size, batch, bfloat16, and compile (torch.compile or eager).
    """
    torch.manual_seed(0)
    strategy = spec["strategy"] or "all"
    model = Classifier(not strategy.startswith("baseline"), spec["backbone"])
    model = model.to(memory_format=torch.channels_last)
    images, labels = (torch.from_numpy(array) for array in batch_of(spec))
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


def forward(model: Classifier, trains: tuple[str, ...], compiled: bool):
    """Returns images -> logits, with a graph for what trains alone."""
    if trains != ("head",):
        return torch.compile(model) if compiled else model
    encoder = torch.compile(model.encoder, options=FREEZING) if compiled else model.encoder

    def run(images):
        with torch.no_grad():
            features = encoder(images)
        return model.head(features)

    return run


def _training(model, trains, images, labels, spec):
    freeze(model, trains)
    run = forward(model, trains, spec["compile"])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with _precision(spec):
                logits = run(images)
            functional.binary_cross_entropy_with_logits(logits.float(), labels).backward()
            optimizer.step()

    return train


def _inference(model, images, spec):
    model.eval()
    run = torch.compile(model, options=FREEZING) if spec["compile"] else model

    def infer(steps: int) -> None:
        # Not inference_mode: the frozen graph's weights are made outside of it.
        with torch.no_grad(), _precision(spec):
            for _ in range(steps):
                run(images)

    return infer


def _precision(spec):
    return torch.autocast("cpu", torch.bfloat16) if spec["bfloat16"] else contextlib.nullcontext()
