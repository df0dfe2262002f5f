"""The same work in PyTorch, as a good user of it would write it: one training step, one inference.

The model is the paper's: PixelShuffle colorizer (599,440 parameters), ResNet18, one linear layer.
"""

import contextlib
import itertools

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """The colorizer's residual block: x + [conv, BN, LeakyReLU] twice."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(part for _ in range(2) for part in _conv_bn(64, 64)))

    def forward(self, x):
        """(B,64,H,W) to the same."""
        return x + self.layers(x)


def _conv_bn(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.01)


class PadLeftAndTop(nn.Module):
    """nn.ReplicationPad2d((1, 0, 1, 0)), which torch.compile 2.13 cannot do channels-last."""

    def forward(self, x):
        """(B,C,H,W) to (B,C,H+1,W+1)."""
        x = torch.cat([x[:, :, :1], x], 2)
        return torch.cat([x[..., :1], x], 3)


class PixelShuffleColorizer(nn.Module):
    """T: the colorizer that the paper calls PixelShuffle."""

    def __init__(self):
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv2d(1, 64, 7, 2, 2), nn.BatchNorm2d(64), nn.LeakyReLU(0.01), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks = nn.Sequential(*(Block() for _ in range(8)))
        self.end = nn.Sequential(
            nn.Conv2d(64, 48, 1),
            nn.BatchNorm2d(48),
            nn.PixelShuffle(4),
            PadLeftAndTop(),
            nn.AvgPool2d(2, 1),
        )

    def forward(self, x):
        """(B,1,H,W) to (B,3,H,W)."""
        return self.end(self.blocks(self.front(x)))


class BasicBlock(nn.Module):
    """ResNet18's block."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        """(B,C,H,W) to (B,C',H/stride,W/stride)."""
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


def resnet18():
    """E: ResNet18 without its last layer, (B,3,H,W) to (B,512,H/32,W/32)."""
    layers = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    widths = (64, 64, 128, 256, 512)
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [BasicBlock(inputs, outputs, 1 if number == 0 else 2)]
        layers += [BasicBlock(outputs, outputs, 1)]
    return nn.Sequential(*layers)


class Classifier(nn.Module):
    """C∘E∘T; without a colorizer the gray channel is copied."""

    def __init__(self, with_colorizer: bool, labels: int = 5):
        super().__init__()
        self.colorizer = PixelShuffleColorizer() if with_colorizer else None
        self.backbone, self.head = resnet18(), nn.Linear(512, labels)

    def forward(self, x):
        """(B,1,H,W) normalised gray to (B,labels) logits."""
        colors = self.colorizer(x) if self.colorizer is not None else x.expand(-1, 3, -1, -1)
        return self.head(self.backbone(colors).mean((2, 3)))


TRAINS = {
    "baseline": ("head",),
    "color_module": ("colorizer", "head"),
    "baseline_all": ("backbone", "head"),
    "all": ("colorizer", "backbone", "head"),
}


def build(spec: dict):
    """Returns ``run(steps)``: whole training steps, or inferences where spec["strategy"] is "".

    Args:
        spec: strategy, size, batch, bfloat16, and compile (torch.compile or eager).
    """
    strategy = spec["strategy"] or "all"
    model = Classifier("colorizer" in TRAINS[strategy])
    model = model.to(memory_format=torch.channels_last).train()
    for name, part in model.named_children():
        trains = name in TRAINS[strategy]
        part.requires_grad_(trains)
        if not trains:
            part.eval()  # frozen on moving statistics, as ours
    run = torch.compile(model) if spec["compile"] else model
    images = torch.rand(spec["batch"], 1, spec["size"], spec["size"]).contiguous(
        memory_format=torch.channels_last
    )
    labels = (torch.rand(spec["batch"], 5) < 0.3).float()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9)

    def precision():
        if spec["bfloat16"]:
            return torch.autocast("cpu", torch.bfloat16)
        return contextlib.nullcontext()

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with precision():
                logits = run(images)
            functional.binary_cross_entropy_with_logits(logits.float(), labels).backward()
            optimizer.step()

    def infer(steps: int) -> None:
        model.eval()
        with torch.inference_mode(), precision():
            for _ in range(steps):
                run(images)

    return train if spec["strategy"] else infer
