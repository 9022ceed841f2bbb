"""Models: the papers' CIFAR networks, narrow versions of them, and a fast one for two cores.

Each takes `(B, 3, 32, 32)` float in [0, 1] (larger images too, but for the MLP) and returns logits
`(B, classes)`. The released code does not normalise its inputs, and neither do the papers' networks
here; `convnet` does, inside, so that epsilon keeps its unit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F
from torchvision.models import densenet, resnet, vgg

from ulelib.machine import seeded_model
from ulelib.settings import Op, checked, look_up

# Channel means and standard deviations of CIFAR-10's training images, in [0, 1].
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)
# Standard deviations, on the same images normalised so, of 2x2 Haar patterns (mean, columns, rows,
# diagonal) in luminance, red against blue, and green against both.
HAAR_STD = (
    (3.1704, 0.5754, 0.6278, 0.2351),
    (0.9112, 0.1193, 0.1295, 0.0407),
    (0.4304, 0.0670, 0.0706, 0.0250),
)


def resnet18(
    classes: int = 10, width: float = 1.0, blocks: int = 2, stem: str = "small"
) -> nn.Module:
    """ResNet-18 for 32x32 images (`ResNet18` of the released code): 11,173,962 parameters.

    torchvision's network with a 3x3 stem of stride 1 and no max-pooling.

    Args:
        width: factor on all channel numbers.
        blocks: residual blocks in each of the four stages, 1 to 64; 2 is ResNet-18, 1 ResNet-10.
        stem: "small", that one; or "torchvision", as for photographs: 7x7, stride 2, max-pooling.
    """
    if blocks not in range(1, 65):
        raise ValueError(f"resnet18: blocks is {blocks}: 1 to 64")
    if stem not in ("small", "torchvision"):
        raise ValueError(f'resnet18: stem is {stem!r}; choose from ["small", "torchvision"]')
    net = resnet.ResNet(resnet.BasicBlock, [blocks] * 4, num_classes=classes)
    channels = _scaled(64, width)
    net.inplanes = channels
    if stem == "small":
        net.conv1 = nn.Conv2d(3, channels, kernel_size=3, padding=1, bias=False)
        net.maxpool = nn.Identity()
    else:
        net.conv1 = nn.Conv2d(3, channels, kernel_size=7, stride=2, padding=3, bias=False)
    net.bn1 = nn.BatchNorm2d(channels)
    for stage in range(4):
        planes, stride = _scaled(64 * 2**stage, width), 1 if stage == 0 else 2
        layer = net._make_layer(resnet.BasicBlock, planes, blocks, stride=stride)
        setattr(net, f"layer{stage + 1}", layer)
    net.fc = nn.Linear(_scaled(512, width), classes)
    return net.apply(_torch_initialisation)


def densenet121(
    classes: int = 10, width: float = 1.0, blocks: tuple[int, int, int, int] = (6, 12, 24, 16)
) -> nn.Module:
    """DenseNet-121 for 32x32 images (`DenseNet121` of the released code): 6,956,298 parameters.

    torchvision's network (growth rate 32) with a 3x3 stem of stride 1, neither normalised nor
    pooled.

    Args:
        width: factor on the growth rate and the stem.
        blocks: layers of the four dense blocks, 1 to 64 each.
    """
    if len(blocks) != 4 or any(number not in range(1, 65) for number in blocks):
        raise ValueError(f"densenet121: blocks are {blocks}: four numbers, 1 to 64")
    growth = _scaled(32, width)
    net = densenet.DenseNet(growth, blocks, 2 * growth, num_classes=classes)
    net.features.conv0 = nn.Conv2d(3, 2 * growth, kernel_size=3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(net.features, name, nn.Identity())
    return net.apply(_torch_initialisation)


def vgg11(classes: int = 10, width: float = 1.0) -> nn.Module:
    """VGG-11 with batch norm for 32x32 images: 9,231,114 parameters.

    torchvision's convolutions with a single linear layer behind them, as in the released code,
    whose `VGG16()` returns this network.
    """
    plan: list[str | int] = [
        layer if isinstance(layer, str) else _scaled(layer, width) for layer in vgg.cfgs["A"]
    ]
    features = vgg.make_layers(plan, batch_norm=True)
    head = nn.Linear(_scaled(512, width), classes)
    net = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return net.apply(_torch_initialisation)


def linear(classes: int = 10, size: int = 32) -> nn.Module:
    """Logistic regression on the pixels of `size` x `size` images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, classes))


@checked
def mlp(classes: int = 10, width: float = 1.0, sigmoid: bool = True) -> nn.Module:
    """The paper's multi-layer perceptron (section 6.1), 3072-256-128-10: 820,874 parameters.

    Args:
        width: factor on both hidden layers.
        sigmoid: whether it ends in one, under a cross-entropy loss, as released (`MLP.py:18-22`);
            the paper does not say so. Its logits then differ by 1 at most, so its loss cannot fall
            below 1.46.
    """
    first, second = _scaled(256, width), _scaled(128, width)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * 32 * 32, first),
        nn.ReLU(),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, classes),
        *([nn.Sigmoid()] if sigmoid else []),
    )


class _ConvPoolConv(nn.Sequential):
    """conv - max-pool - norm - relu - conv - norm - relu: halves height and width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class HaarStem(nn.Module):
    """A fixed first layer: 2x2 Haar patterns of luminance and two differences of colour.

    These 12 patterns are nearly the principal components of 2x2 patches of photographs. Each is
    divided by its standard deviation on CIFAR-10's training images, so that training need not
    learn to look at edges before it learns anything else; but by 0.05 at least, so that the finest
    changes of colour, and a perturbation with them, do not appear forty times as large. It depends
    on no image of a run: a defender and all exploiters have the same one.
    """

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.patterns: torch.Tensor
        places = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
        colours = F.normalize(torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]]))
        patterns = colours.view(3, 1, 3, 1, 1) * places.view(1, 4, 1, 2, 2)
        std = torch.tensor(HAAR_STD).clamp(min=0.05).view(12, 1, 1, 1)
        scaled = patterns.reshape(12, 3, 2, 2) / std
        self.register_buffer("patterns", scaled)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W)` normalised -> `(B, 12, H - 1, W - 1)`, or `H / 2` with stride 2."""
        return F.conv2d(images, self.patterns, stride=self.stride)


class ConvNet(nn.Module):
    """A small convolutional network for two cores; not one of the papers'.

    Normalised input, a 2x2 stem, three blocks (conv, pool, norm, conv, norm), a global maximum and
    a linear layer: the shape of K. Jordan's airbench networks, which train fastest on CIFAR-10, at
    a fraction of their width.

    Args:
        widths: channels of the three blocks.
        stem: "haar", fixed (`HaarStem`), or "learned": a convolution whose bias starts at 0, since
            torch's random one is as large as what faint images make of the weights.
        channels: of a learned stem.
        stride: of the stem; with 2 every pixel is in one pattern, and all costs a quarter.
    """

    def __init__(
        self,
        classes: int = 10,
        widths: tuple[int, int, int] = (32, 64, 128),
        stem: str = "haar",
        channels: int = 16,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(CIFAR_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(CIFAR_STD).view(1, 3, 1, 1))
        if stem not in STEMS:
            raise ValueError(f"convnet: stem {stem!r}; choose from {sorted(STEMS)}")
        if type(stride) is not int or not 1 <= stride <= 4:
            raise ValueError(f"convnet: stride is {stride!r}: 1 to 4")
        first, outputs = STEMS[stem](channels, stride)
        self.stem = first
        inputs = (outputs, *widths[:-1])
        self.blocks = nn.Sequential(*map(_ConvPoolConv, inputs, widths))
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images `(B, 3, H, W)` float in [0, 1] -> logits `(B, classes)`."""
        normalised = (images - self.mean) / self.std
        features = self.blocks(self.stem(normalised))  # (B, widths[-1], H / 8, W / 8)
        # Maxima over many positions are large; a quarter keeps the first logits moderate.
        return self.head(features.amax((2, 3))) / 4


def _learned_stem(channels: int, stride: int) -> tuple[nn.Module, int]:
    convolution = nn.Conv2d(3, channels, 2, stride)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.ReLU()), channels


STEMS: dict[str, Callable[[int, int], tuple[nn.Module, int]]] = {
    "haar": lambda channels, stride: (HaarStem(stride), 12),
    "learned": _learned_stem,
}


MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "densenet121": densenet121,
    "vgg11": vgg11,
    "mlp": mlp,
    "linear": linear,
    "convnet": ConvNet,
}


def build_model(net: Op, classes: int) -> nn.Module:
    """An untrained network, e.g. `build_model(op("resnet18", width=0.25), 10)`.

    Raises:
        ValueError: unknown name or option, a size below 1, or a width out of its range.
    """
    options = [value for _, given in net.options for value in _numbers(given)]
    if classes < 1 or any(not 0 < value <= 4096 for value in options):
        raise ValueError(f"a network of {classes} classes, {net}: sizes must lie in (0, 4096]")
    return look_up(MODELS, net, "network", given=1)(classes)


def untrained(net: Op, classes: int, images: torch.Tensor, seed: int) -> nn.Module:
    """A network with initial weights drawn under a seed, on the device.

    Args:
        images: `(N, 3, H, W)`, of which nothing but the shape is looked at.

    Raises:
        ValueError: see `build_model` and `check_size`.
    """
    model = seeded_model(lambda: build_model(net, classes), seed)
    check_size(model, net, images)
    return model


def headless(model: nn.Module) -> tuple[nn.Module, int]:
    """A network without its last linear layer, which then returns features `(B, F)`; and F.

    Changes `model` itself.

    Raises:
        ValueError: it does not end in a linear layer.
    """
    name, last = _last_layer(model)
    model.set_submodule(name, nn.Identity())
    return model, last.in_features


def begin_with(model: nn.Module, source: nn.Module) -> None:
    """Give a network all weights and statistics of another one, but those of the last linear layer,
    which may have other classes.

    Raises:
        ValueError: it does not end in a linear layer.
        RuntimeError: of torch, where the two do not have the same layers.
    """
    last = tuple(f"{_last_layer(model)[0]}.{name}" for name in ("weight", "bias"))
    model.load_state_dict(
        {
            name: own if name in last else source.state_dict()[name]
            for name, own in model.state_dict().items()
        }
    )


def _last_layer(model: nn.Module) -> tuple[str, nn.Linear]:
    """The last linear layer of a network, which ends in one, and its name.

    Raises:
        ValueError: it does not.
    """
    name, last = list(model.named_modules())[-1]
    if not isinstance(last, nn.Linear):
        raise ValueError(f"{type(model).__name__} ends in {type(last).__name__}, not in Linear")
    return name, last


def fused(model: nn.Module) -> nn.Module:
    """A copy of a network in eval mode, each batch norm folded into the convolution before it:
    fewer passes over the same numbers, whose last digits differ.

    Its gradient of the input took 1 / 1.2 of the time with ResNet-18, VGG-11 and DenseNet, and the
    same with `convnet` (`benchmarks/README.md`).
    """
    copy = fuse(model.eval())
    return copy.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload, no-any-return]


@functools.cache
def check_net(net: Op) -> None:
    """Whether a network of that name and these options can be built; takes no memory for it.

    Raises:
        ValueError: it cannot.
    """
    try:
        with torch.device("meta"):
            build_model(net, 10)
    except (ValueError, TypeError, ArithmeticError, IndexError, RuntimeError) as error:
        raise ValueError(f"network {net} cannot be built: {error}") from error


def check_size(model: nn.Module, net: Op, images: torch.Tensor) -> None:
    """Whether an untrained network takes images of this size, before hours are spent on them; it is
    in eval mode afterwards.

    Args:
        images: `(N, 3, H, W)`, of which nothing but the shape is looked at.

    Raises:
        ValueError: they are too small or too large for it.
    """
    where, (height, width) = next(model.parameters()).device, images.shape[2:]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, height, width, device=where))
    except RuntimeError as error:
        raise ValueError(
            f"{net} takes no images of {height}x{width} pixels ({str(error).splitlines()[0]})"
        ) from error


def _numbers(value: Any) -> list[float]:
    """The sizes in an option: numbers and tuples of numbers; switches are none."""
    if isinstance(value, tuple):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _torch_initialisation(module: nn.Module) -> None:
    """torch's own initial weights, which the released code uses, in place of torchvision's."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        module.reset_parameters()
