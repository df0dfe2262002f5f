"""The paper's model in PyTorch, with the names of the authors' colorizers and of torchvision.

PixelShuffle colorizer (599,440 parameters), ResNet18 or DenseNet121 without its last layer
(11,176,512 and 6,953,856), one linear layer. torchvision is not needed, and its weights would fit.
"""

# PyTorch is an optional dependency (the extra "bench"), absent where types are checked.
# pyright: reportMissingImports=false

import itertools
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """The colorizer's block: x + [conv, BN, LeakyReLU] twice."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = _conv_bn_leaky(), _conv_bn_leaky()

    def forward(self, x):
        """(B,64,H,W) to the same."""
        return x + self.conv2(self.conv1(x))


def _conv_bn_leaky():
    return nn.Sequential(
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.LeakyReLU(0.01, inplace=True)
    )


class PixelShuffleUp(nn.Module):
    """1x1 convolution, pixel shuffle, and a 2x2 mean that keeps the size."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(64, 48, 1), nn.BatchNorm2d(48))

    def forward(self, x):
        """(B,64,H,W) to (B,3,4H,4W)."""
        x = functional.pixel_shuffle(self.conv(x), 4)
        # nn.ReplicationPad2d((1, 0, 1, 0)), which torch.compile 2.13 cannot do channels-last.
        x = torch.cat([x[:, :, :1], x], 2)
        x = torch.cat([x[..., :1], x], 3)
        return functional.avg_pool2d(x, 2, 1)


class PixelShuffleColorizer(nn.Module):
    """T: the colorizer that the paper calls PixelShuffle."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 64, 7, 2, 2), nn.BatchNorm2d(64)
        self.resblocks = nn.Sequential(*(ResidualBlock() for _ in range(8)))
        self.pixel_shuffle = PixelShuffleUp()

    def forward(self, x):
        """(B,1,H,W) to (B,3,H,W)."""
        x = functional.leaky_relu(self.bn1(self.conv1(x)), 0.01, inplace=True)
        x = functional.max_pool2d(x, 3, 2, 1)
        return self.pixel_shuffle(self.resblocks(x))


class BasicBlock(nn.Module):
    """ResNet18's block."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        """(B,C,H,W) to (B,C',H/stride,W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(y)) + shortcut, inplace=True)


class ResNet18(nn.Module):
    """E: (B,3,H,W) to (B,512,H/32,W/32)."""

    width = 512

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        for number, (inputs, outputs) in enumerate(itertools.pairwise((64, 64, 128, 256, 512)), 1):
            first = BasicBlock(inputs, outputs, 1 if number == 1 else 2)
            self.add_module(f"layer{number}", nn.Sequential(first, BasicBlock(outputs, outputs, 1)))
        for module in self.modules():  # as torchvision
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        """Returns the last feature map."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = functional.max_pool2d(x, 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class DenseLayer(nn.Module):
    """DenseNet's layer: 1x1 convolution to 4 x growth channels, 3x3 to growth, each after BN."""

    def __init__(self, inputs, growth, bottleneck):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, bottleneck * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck * growth)
        self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)

    def forward(self, before):
        """A list of (B,.,H,W) to (B,growth,H,W)."""
        x = torch.cat(before, 1)
        x = self.conv1(functional.relu(self.norm1(x), inplace=True))
        return self.conv2(functional.relu(self.norm2(x), inplace=True))


class DenseBlock(nn.Module):
    """Layers that each see the maps of all before them."""

    def __init__(self, inputs, layers, growth, bottleneck):
        super().__init__()
        for number in range(layers):
            layer = DenseLayer(inputs + number * growth, growth, bottleneck)
            self.add_module(f"denselayer{number + 1}", layer)

    def forward(self, x):
        """(B,C,H,W) to (B,C+layers*growth,H,W)."""
        maps = [x]
        for layer in self.children():
            maps.append(layer(maps))
        return torch.cat(maps, 1)


class DenseNet121(nn.Module):
    """E: (B,3,H,W) to (B,1024,H/32,W/32), after its last ReLU as keras.applications has it."""

    width = 1024

    def __init__(self, growth=32, blocks=(6, 12, 24, 16), bottleneck=4):
        super().__init__()
        width = 2 * growth
        parts = OrderedDict(
            conv0=nn.Conv2d(3, width, 7, 2, 3, bias=False),
            norm0=nn.BatchNorm2d(width),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(3, 2, 1),
        )
        for number, layers in enumerate(blocks, 1):
            parts[f"denseblock{number}"] = DenseBlock(width, layers, growth, bottleneck)
            width += layers * growth
            if number < len(blocks):
                parts[f"transition{number}"] = _transition(width)
                width //= 2
        parts["norm5"] = nn.BatchNorm2d(width)
        self.features = nn.Sequential(parts)
        for module in self.modules():  # as torchvision
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x):
        """Returns the last feature map."""
        return functional.relu(self.features(x), inplace=True)


def _transition(width):
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(width),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(width, width // 2, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )


BACKBONES = {"ResNet18": ResNet18, "DenseNet121": DenseNet121}


class Encoder(nn.Module):
    """Raw pixels to pooled features: normalisation, T (or the gray channel copied), E, mean."""

    def __init__(self, colorizer: bool, backbone: str, pixel_mean=0.5, pixel_std=0.3):
        super().__init__()
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std
        self.colorizer = PixelShuffleColorizer() if colorizer else None
        self.backbone = BACKBONES[backbone]()

    def forward(self, x):
        """(B,1,H,W) uint8 to (B,C)."""
        x = (x.float() / 255 - self.pixel_mean) / self.pixel_std
        colors = x.expand(-1, 3, -1, -1) if self.colorizer is None else self.colorizer(x)
        return self.backbone(colors).mean((2, 3))


class Classifier(nn.Module):
    """C∘E∘T: raw pixels to logits."""

    def __init__(self, colorizer: bool, backbone: str, labels: int = 5):
        super().__init__()
        self.encoder = Encoder(colorizer, backbone)
        self.head = nn.Linear(self.encoder.backbone.width, labels)

    def parts(self) -> dict[str, nn.Module]:
        """Returns T (if there is one), E and C by the names that strategies have for them."""
        found = {"colorizer": self.encoder.colorizer, "backbone": self.encoder.backbone}
        return {k: v for k, v in found.items() if v is not None} | {"head": self.head}

    def forward(self, x):
        """(B,1,H,W) uint8 to (B,labels) logits."""
        return self.head(self.encoder(x))
