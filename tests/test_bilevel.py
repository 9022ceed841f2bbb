"""Algorithm 1 against a straightforward implementation of it, and its ends, good and bad."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import differing_share, random_images, seeded, tiny_net
from ulelib import views
from ulelib.bilevel import BilevelConfig, Diverged, NotConverged, minimise_error
from ulelib.data import ImageSet
from ulelib.perturbation import Perturbation
from ulelib.views import View

IMAGES = random_images(24)

# Three training batches of 10, 10 and 4 images are a pass; two a round, so rounds start anywhere.
CONFIG = BilevelConfig(
    step=2 / 255,
    inner_steps=3,
    outer_batches=2,
    outer_batch_size=10,
    inner_batch_size=9,
    stop_error=1e-9,
    max_rounds=1,
    learning_rate=0.05,
    clip=0.2,  # below most gradients' norms, so that it acts
)


def made_by(
    config: BilevelConfig, view: View = views.identity, images: ImageSet = IMAGES, **options: object
) -> Perturbation:
    """What the loop has when it ends, converged or not."""
    make_model = options.pop("make_model", tiny_net)
    try:
        return minimise_error(images, make_model, view, config, **options)  # type: ignore[arg-type]
    except NotConverged as error:
        return error.perturbation


class PlainSGD:
    """SGD with momentum, weight decay and a clipped gradient, written out."""

    def __init__(self, model: nn.Module, config: BilevelConfig) -> None:
        self.parameters = list(model.parameters())
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.config = config

    def step(self, loss: torch.Tensor) -> None:
        gradients = torch.autograd.grad(loss, self.parameters)
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        scale = min(1.0, self.config.clip / (norm.item() + 1e-6))
        with torch.no_grad():
            for index, gradient in enumerate(gradients):
                parameter = self.parameters[index]
                gradient = scale * gradient + self.config.weight_decay * parameter
                self.velocities[index] = self.config.momentum * self.velocities[index] + gradient
                parameter.sub_(self.config.learning_rate * self.velocities[index])


def plain_algorithm_1(
    images: ImageSet,
    view: View,
    config: BilevelConfig,
    *,
    gray_delta: bool,
    class_wise: bool,
    rounds: int,
) -> tuple[torch.Tensor, list[float]]:
    """Algorithm 1, one image at a time wherever the images do not see each other."""
    generator = torch.Generator().manual_seed(0)
    x, labels, count = images.images.float() / 255, images.labels, len(images)
    size = len(images.classes) if class_wise else count
    delta = torch.zeros(size, 1 if gray_delta else 3, *x.shape[2:])
    row = labels if class_wise else torch.arange(count)
    fixed = view in (views.identity, views.gray)
    model = seeded(tiny_net)
    sgd = PlainSGD(model, config)
    position, errors = 0, []
    for number in range(rounds):
        if config.from_scratch and number:
            model = seeded(tiny_net, int(torch.randint(2**31, (), generator=generator)))
            sgd = PlainSGD(model, config)
        model.train()
        for _ in range(config.outer_batches):
            batch = torch.arange(position, min(position + config.outer_batch_size, count))
            position = 0 if batch[-1] == count - 1 else position + config.outer_batch_size
            seen = view(x[batch], generator) + delta[row[batch]]
            sgd.step(F.cross_entropy(model(seen), labels[batch]))
        model.eval()
        order = torch.randperm(count, generator=generator) if class_wise else torch.arange(count)
        wrong = 0
        for batch in order.split(config.inner_batch_size):
            seen = view(x[batch], generator)
            moved = []
            for image, index in zip(seen, batch, strict=True):
                noise = delta[row[index]].clone()
                for _ in range(config.inner_steps):
                    shown = (image + noise).requires_grad_()
                    loss = F.cross_entropy(model(shown[None]), labels[index][None])
                    (gradient,) = torch.autograd.grad(loss, shown)
                    if gray_delta:
                        gradient = gradient.sum(0, keepdim=True)
                    noise = noise - config.step * gradient.sign()
                    noise = noise.clamp(-config.epsilon, config.epsilon)
                    if fixed:  # a random crop's black border says nothing about the image
                        noise = ((image + noise).clamp(0, 1) - image)[: len(noise)]
                moved.append(noise)
                if not class_wise:
                    delta[index] = noise
            for label in labels[batch].unique() if class_wise else ():
                members = [m for m, i in zip(moved, batch, strict=True) if labels[i] == label]
                delta[label] = torch.stack(members).mean(0)
        for batch in torch.arange(count).split(config.inner_batch_size):
            shown = view(x[batch], generator) + delta[row[batch]]
            wrong += int((model(shown).argmax(1) != labels[batch]).sum())
        errors.append(wrong / count)
    return delta, errors


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize(
    ("view", "gray_delta", "class_wise"),
    [
        (views.identity, False, False),
        (views.crop_flip, False, False),
        (views.gray, True, False),
        (views.gray_crop_flip, True, False),
        (views.identity, False, True),
        (views.gray, True, True),
    ],
)
def test_loop_equals_the_plain_algorithm(
    view: View, gray_delta: bool, class_wise: bool, rounds: int
) -> None:
    config = dataclasses.replace(CONFIG, max_rounds=rounds)
    made = made_by(config, view, gray_delta=gray_delta, class_wise=class_wise)
    expected, errors = plain_algorithm_1(
        IMAGES, view, config, gray_delta=gray_delta, class_wise=class_wise, rounds=rounds
    )
    assert made.delta.shape == expected.shape == (3 if class_wise else 24, *expected.shape[1:])
    assert (made.delta != 0).double().mean() > 0.75  # not where an image is black or white
    assert differing_share(made.delta, expected) <= 0.01 * rounds
    assert made.rounds == pytest.approx(errors, abs=1 / 24 + 1e-9)
    assert made.kind == ("class_wise" if class_wise else "sample_wise")


def test_from_scratch_starts_the_model_anew_each_round() -> None:
    config = dataclasses.replace(CONFIG, max_rounds=3, from_scratch=True)
    made = made_by(config)
    expected, _ = plain_algorithm_1(
        IMAGES, views.identity, config, gray_delta=False, class_wise=False, rounds=3
    )
    assert differing_share(made.delta, expected) <= 0.03
    continued = made_by(dataclasses.replace(config, from_scratch=False))
    assert differing_share(made.delta, continued.delta) > 0.1


@pytest.mark.parametrize("size", [1, 7, 500])
def test_inner_batch_size_does_not_change_the_result(size: int) -> None:
    config = dataclasses.replace(CONFIG, max_rounds=2)
    made = made_by(dataclasses.replace(config, inner_batch_size=size))
    assert differing_share(made.delta, made_by(config).delta) <= 0.01


def test_random_start_fills_the_ball() -> None:
    """One step of next to nothing leaves the start as it was."""
    config = dataclasses.replace(CONFIG, random_start=True, inner_steps=1, step=1e-6)
    delta = made_by(config).delta
    inside = (IMAGES.images > 8) & (IMAGES.images < 247)  # where [0, 1] clips nothing
    assert delta[inside].min() < -7.9 / 255 and delta[inside].max() > 7.9 / 255
    assert delta[inside].mean().abs() < 0.2 / 255


def share_wrong(model: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return (model(x).argmax(1) != IMAGES.labels).double().mean().item()


@pytest.mark.parametrize("stop_view", [None, views.gray])
def test_error_is_that_of_the_source_model_on_the_view_of_the_stop_test(
    stop_view: View | None,
) -> None:
    models: list[nn.Module] = []

    def make_model() -> nn.Module:
        models.append(tiny_net())
        return models[-1]

    config = dataclasses.replace(CONFIG, max_rounds=2)
    made = made_by(config, make_model=make_model, stop_view=stop_view)
    clean = IMAGES.images.float() / 255
    seen = clean if stop_view is None else stop_view(clean, torch.Generator())
    assert len(models) == 1  # training continues across rounds
    assert made.rounds[-1] == pytest.approx(share_wrong(models[0], seen + made.delta))


def test_loop_stops_at_the_first_error_below_lambda() -> None:
    config = dataclasses.replace(
        CONFIG, outer_batches=10, inner_steps=10, stop_error=0.2, max_rounds=40
    )
    made = minimise_error(IMAGES, tiny_net, views.identity, config, name="mine")
    assert made.rounds[-1] < 0.2
    assert all(error >= 0.2 for error in made.rounds[:-1])
    assert (made.defender, made.fingerprint) == ("mine", IMAGES.fingerprint)
    assert made.epsilon == config.epsilon and made.seconds > 0


def test_bounds_hold_for_crops_of_images_too() -> None:
    made = made_by(dataclasses.replace(CONFIG, max_rounds=2), views.crop_flip)
    assert made.delta.abs().max() <= CONFIG.epsilon + 1e-7
    assert made.delta.dtype == torch.float32 and made.delta.is_contiguous()


def test_not_converged_says_what_to_do_and_keeps_the_delta() -> None:
    config = dataclasses.replace(CONFIG, max_rounds=2, learning_rate=1e-6)
    with pytest.raises(NotConverged, match="max_rounds") as caught:
        minimise_error(IMAGES, tiny_net, views.identity, config, name="ULEO")
    message, partial = str(caught.value), caught.value.perturbation
    assert "ULEO: after 2 rounds" in message and "perturbation" in message
    assert len(partial.rounds) == 2 and partial.delta.abs().max() > 0
    assert partial.apply(IMAGES).images.shape == IMAGES.images.shape


def test_diverged_names_the_learning_rate() -> None:
    with pytest.raises(Diverged, match="lower learning_rate"):
        made_by(dataclasses.replace(CONFIG, learning_rate=1e30, outer_batches=5))


@pytest.mark.parametrize("class_wise", [False, True])
def test_same_seed_same_delta_bit_for_bit(class_wise: bool) -> None:
    config = dataclasses.replace(CONFIG, max_rounds=2, random_start=True)
    first, again, other = (
        made_by(config, views.gray_crop_flip, gray_delta=True, class_wise=class_wise, seed=seed)
        for seed in (5, 5, 6)
    )
    assert torch.equal(first.delta, again.delta) and first.rounds == again.rounds
    assert not torch.equal(first.delta, other.delta)


def test_random_state_of_the_caller_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    made_by(CONFIG, views.crop_flip)
    assert torch.equal(torch.rand(1), expected)


def test_images_are_left_alone() -> None:
    before = IMAGES.images.clone()
    made_by(CONFIG)
    assert torch.equal(IMAGES.images, before)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epsilon": 0}, "epsilon is 0"),
        ({"epsilon": 8}, "write 8 / 255"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"step": 0}, "step is 0"),
        ({"step": 17 / 255}, "step is"),
        ({"stop_error": 0}, "stop_error is 0"),
        ({"stop_error": 1}, "stop_error is 1"),
        ({"inner_steps": 0}, "at least 1"),
        ({"outer_batches": 0}, "at least 1"),
        ({"outer_batch_size": -1}, "at least 1"),
        ({"inner_batch_size": 0}, "at least 1"),
        ({"max_rounds": 0}, "at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(changed: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BilevelConfig(**changed)  # type: ignore[arg-type]


def test_gray_noise_needs_a_gray_view() -> None:
    with pytest.raises(ValueError, match=r"take views\.gray or"):
        made_by(CONFIG, views.crop_flip, gray_delta=True)


def test_defaults_are_the_papers() -> None:
    config = BilevelConfig()
    assert (255 * config.epsilon, 255 * config.step) == pytest.approx((8, 0.8))
    assert (config.inner_steps, config.outer_batches, config.stop_error) == (20, 10, 0.01)


def test_views_are_drawn_anew_for_every_pass() -> None:
    sums: list[float] = []

    def recorded(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen = views.crop_flip(images, generator)
        sums.append(seen[:4].sum().item())
        return seen

    view: Callable[..., torch.Tensor] = recorded
    made_by(dataclasses.replace(CONFIG, max_rounds=4, outer_batch_size=24, outer_batches=1), view)
    assert len(set(sums)) == len(sums) == 4 * (1 + 3 + 3)
