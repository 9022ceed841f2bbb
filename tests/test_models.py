"""Networks: the published sizes, and torchvision's outputs where the architecture is its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import densenet, resnet, vgg

from helpers import seeded
from ulelib import models
from ulelib.bilevel import Bilevel
from ulelib.machine import seeded_model
from ulelib.models import build_model, check_net, fused
from ulelib.settings import Op, op


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_173_962),
        ("densenet121", 6_956_298),
        ("vgg11", 9_231_114),
        ("mlp", 820_874),
    ],
)
def test_sizes_are_those_of_the_released_networks(name: str, count: int) -> None:
    assert parameters_of(models.build_model(op(name), 10)) == count


@pytest.mark.parametrize(
    "net",
    [
        *(op(name, width=0.125) for name in ("resnet18", "densenet121", "vgg11", "mlp")),
        op("linear"),
        op("convnet"),
        op("convnet", stem="learned", channels=4, widths=(4, 6, 8)),
    ],
    ids=str,
)
@pytest.mark.parametrize("classes", [3, 10])
def test_logits_have_one_column_a_class(net: Op, classes: int) -> None:
    model = models.build_model(net, classes).eval()
    with torch.no_grad():
        logits = model(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, classes) and logits.isfinite().all()


def same_outputs(ours: nn.Module, theirs: nn.Module, images: torch.Tensor) -> bool:
    """In eval mode, after a training pass that sets the running statistics."""
    outputs = []
    for model in (ours, theirs):
        model.train()
        with torch.no_grad():
            model(images)
            outputs.append(model.eval()(images))
    return torch.allclose(outputs[0], outputs[1], atol=1e-5)


def test_resnet18_is_torchvisions_with_another_stem() -> None:
    ours, theirs = seeded(models.resnet18), resnet.resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    assert same_outputs(ours, theirs, torch.rand(4, 3, 32, 32))


def test_resnet18_with_torchvisions_stem_is_torchvisions() -> None:
    ours, theirs = models.resnet18(stem="torchvision"), resnet.resnet18(num_classes=10)
    ours.load_state_dict(theirs.state_dict())
    assert same_outputs(ours, theirs, torch.rand(4, 3, 64, 64))


def test_an_unknown_stem_is_refused() -> None:
    with pytest.raises(ValueError, match="stem is 'large'; choose from"):
        models.resnet18(stem="large")


def test_densenet121_with_torchvisions_stem_is_torchvisions() -> None:
    ours, theirs = models.densenet121(), densenet.densenet121(num_classes=10)
    for name in ("conv0", "norm0", "relu0", "pool0"):
        setattr(ours.features, name, getattr(densenet.densenet121(num_classes=10).features, name))
    ours.load_state_dict(theirs.state_dict())
    assert same_outputs(ours, theirs, torch.rand(4, 3, 64, 64))


def test_vgg11_has_torchvisions_features() -> None:
    ours = models.vgg11()
    assert isinstance(ours, nn.Sequential)
    theirs = vgg.vgg11_bn().features
    ours[0].load_state_dict(theirs.state_dict())
    assert same_outputs(ours[0], theirs, torch.rand(4, 3, 32, 32))


def test_mlp_is_three_layers_and_a_sigmoid() -> None:
    model = models.mlp().eval()
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    x = torch.rand(5, 3, 32, 32)
    hidden = linear[0](x.flatten(1)).relu()
    expected = torch.sigmoid(linear[2](linear[1](hidden).relu()))
    assert torch.allclose(model(x), expected)


def test_convnet_normalises_inside() -> None:
    """Its first convolution sees pixels of mean 0 and standard deviation 1."""
    model = models.ConvNet()
    seen: list[torch.Tensor] = []
    model.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (models.CIFAR_MEAN, models.CIFAR_STD))
    model.eval()(mean.expand(2, 3, 32, 32))
    model((mean + std).expand(2, 3, 32, 32))
    assert torch.allclose(seen[0], torch.zeros(2, 3, 32, 32))
    assert torch.allclose(seen[1], torch.ones(2, 3, 32, 32), atol=1e-5)


@pytest.mark.parametrize("make", [models.resnet18, models.densenet121, models.vgg11, models.mlp])
def test_width_scales_every_layer(make: Callable[..., nn.Module]) -> None:
    quarter, whole = parameters_of(make(width=0.25)), parameters_of(make())
    # Weights between layers shrink with the square; the MLP's first layer has fixed inputs.
    assert whole / quarter == pytest.approx(4 if make is models.mlp else 16, rel=0.1)


def test_resnet18_width_and_blocks() -> None:
    model = models.resnet18(width=0.25, blocks=1)
    layers = [model.get_submodule(f"layer{stage}") for stage in (1, 2, 3, 4)]
    assert [len(list(layer.children())) for layer in layers] == [1, 1, 1, 1]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions[0].out_channels == 16
    assert max(layer.out_channels for layer in convolutions) == 128
    assert len([c for c in convolutions if c.kernel_size == (3, 3)]) == 1 + 2 * 4  # ResNet-10


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vgg11"])
def test_initial_weights_are_torchs_own(name: str) -> None:
    """Uniform within 1 / sqrt(fan in), biases too: the released code sets none."""
    model = models.build_model(op(name, width=0.5), 10)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = layer.weight[0].numel() ** -0.5
            assert layer.weight.abs().max() <= bound + 1e-6
            if layer.bias is not None and layer.bias.numel() > 3:
                assert 0 < layer.bias.abs().max() <= bound + 1e-6


@pytest.mark.parametrize(
    ("net", "classes", "message"),
    [
        (op("resnet50"), 10, r"network 'resnet50'; choose from .*'resnet18'"),
        (op("resnet18", depth=3), 10, r"no option \['depth'\]; it takes .*'width'"),
        (op("convnet", stem="sobel"), 10, r"stem 'sobel'; choose from \['haar', 'learned'\]"),
        (op("resnet18"), 0, "0 classes"),
        (op("resnet18", width=-1.0), 10, "width -1.0"),
        (op("convnet", widths=(32, 0, 8)), 10, "sizes must lie in"),
        (op("mlp", width=1e9), 10, "sizes must lie in"),
    ],
)
def test_what_is_no_network_is_refused(net: Op, classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build_model(net, classes)


def test_a_learned_stem_starts_without_a_bias() -> None:
    stem = models.ConvNet(stem="learned").stem
    assert isinstance(stem, nn.Sequential)
    assert stem[0].weight.any() and not stem[0].bias.any()


# --- the Haar stem -------------------------------------------------------------------------------


def test_haar_stem_is_made_of_orthogonal_patterns_and_learns_nothing() -> None:
    stem = models.HaarStem()
    assert not list(stem.parameters())
    flat = stem.patterns.flatten(1)
    gram = flat @ flat.T
    assert torch.allclose(gram, torch.diag(gram.diag()), atol=1e-4)


def test_haar_stem_sees_what_its_patterns_say() -> None:
    """A plain loop over one image: sums and differences of four neighbours, three colours."""
    image, stem = torch.rand(1, 3, 5, 6), models.HaarStem()
    seen = stem(image)
    colours = [(1, 1, 1), (1, 0, -1), (1, -2, 1)]
    signs = [(1, 1, 1, 1), (1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1, 1)]
    for i, colour in enumerate(colours):
        norm = sum(c * c for c in colour) ** 0.5
        mixed = sum(c * image[0, k] for k, c in enumerate(colour)) / norm  # (5, 6)
        for j, sign in enumerate(signs):
            std = max(0.05, models.HAAR_STD[i][j])
            for y in range(4):
                for x in range(5):
                    four = (mixed[y, x], mixed[y, x + 1], mixed[y + 1, x], mixed[y + 1, x + 1])
                    expected = sum(s * v for s, v in zip(sign, four, strict=True)) / 2 / std
                    assert seen[0, 4 * i + j, y, x].item() == pytest.approx(
                        float(expected), abs=1e-5
                    )


def test_a_gray_image_has_no_colour_for_the_haar_stem() -> None:
    gray = torch.rand(2, 1, 8, 8).expand(-1, 3, -1, -1)
    seen = models.HaarStem()(gray)
    assert seen[:, 4:].abs().max() < 1e-4 and seen[:, :4].abs().min(0).values.max() > 0.1


@pytest.mark.parametrize(
    "net",
    [
        op("resnet81"),
        op("resnet18", depth=3),
        op("resnet18", classes=7),  # the data set says how many
        op("resnet18", width="1"),
        op("resnet18", blocks=1.5),
        op("resnet18", blocks=4096),
        op("convnet", widths=()),
        op("convnet", widths=8),
        op("convnet", widths=(8.5, 8, 8)),
        op("convnet", stride=1.5),
    ],
    ids=str,
)
def test_a_network_that_cannot_be_built_is_refused_when_it_is_named(net: Op) -> None:
    with pytest.raises(ValueError, match=net.name):
        Bilevel(net=net)


def test_a_look_at_a_network_draws_nothing_and_allocates_nothing() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    check_net.cache_clear()
    check_net(op("resnet18", width=64.0))  # 46 billion weights
    assert torch.equal(torch.rand(1), expected)


def test_a_dense_network_may_have_fewer_layers() -> None:
    shallow = models.build_model(op("densenet121", blocks=(1, 2, 4, 3)), 10)
    layers = [name for name, _ in shallow.named_modules() if "denselayer" in name.split(".")[-1]]
    assert len(layers) == 10
    assert shallow(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    for blocks in ((1, 2, 3), (1, 1, 1, 65)):
        with pytest.raises(ValueError, match="four numbers, 1 to 64"):
            check_net(op("densenet121", blocks=blocks))


def test_the_released_mlp_ends_in_a_sigmoid() -> None:
    images = 10 * torch.randn(50, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    released = seeded(lambda: models.build_model(op("mlp"), 10))
    plain = seeded(lambda: models.build_model(op("mlp", sigmoid=False), 10))
    assert torch.equal(released(images), plain(images).sigmoid())
    with pytest.raises(ValueError, match="sigmoid is 1"):
        check_net(op("mlp", sigmoid=1))


@pytest.mark.parametrize(
    "net",
    [
        op("resnet18", width=0.125, blocks=1),
        op("vgg11", width=0.125),
        op("densenet121", width=0.25, blocks=(1, 1, 1, 1)),
        op("convnet", widths=(4, 6, 8)),
        op("mlp"),
    ],
    ids=str,
)
def test_a_network_with_folded_norms_answers_alike(net: Op) -> None:
    torch.manual_seed(0)
    model, images = build_model(net, 10), torch.rand(8, 3, 32, 32)
    model.train()(images)  # so that the norms' statistics are no defaults
    folded = fused(model)
    with torch.no_grad():
        assert torch.allclose(folded(images), model.eval()(images), atol=1e-4)
    norms = [sum(isinstance(one, nn.BatchNorm2d) for one in m.modules()) for m in (model, folded)]
    assert norms[1] < norms[0] or norms == [0, 0]


def test_a_network_begins_with_anothers_weights_but_for_the_last_layer() -> None:
    net = op("convnet", widths=(4, 6, 8))
    source, model = (
        seeded_model(lambda classes=classes: models.build_model(net, classes), seed)  # type: ignore[misc]
        for classes, seed in ((7, 1), (3, 2))
    )
    source(torch.rand(4, 3, 32, 32))  # its batch norms have seen something
    own = model.get_parameter("head.weight").clone()
    models.begin_with(model, source)
    assert torch.equal(model.get_parameter("head.weight"), own)
    theirs = source.state_dict()
    for name, value in model.state_dict().items():
        assert name == "head.weight" or torch.equal(value, theirs[name])
    with pytest.raises(ValueError, match="ends in Sigmoid"):
        models.begin_with(models.mlp(), models.mlp())
