"""Algorithm 1 against a straightforward implementation of it, and its ends, good and bad."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import PROJECT, differing_share, quick_profile, random_images, seeded, tiny_net
from ulelib import learners, models, views
from ulelib.bilevel import Bilevel, NotConverged, minimise_error
from ulelib.data import ImageSet
from ulelib.perturbation import Perturbation
from ulelib.pgd import Diverged, Pgd
from ulelib.settings import Op, key_of, op

IMAGES = random_images(24)
VIEWS = {
    name: op(name, **({"padding": 4} if "crop" in name else {})) for name in sorted(views.VIEWS)
}

# Three training batches of 10, 10 and 4 images are a pass; two a round, so rounds start anywhere.
CONFIG = Bilevel(
    net=op("tiny"),
    inner=Pgd(step=2 / 255, steps=3),
    outer_batches=2,
    outer_batch_size=10,
    inner_batch_size=9,
    stop_error=1e-9,
    max_rounds=1,
    learning_rate=0.05,
    clip=0.2,  # below most gradients' norms, so that it acts
)


def seen_through(name: str, channels: int = 3, wise: str = "sample", **changes: Any) -> Bilevel:
    """`CONFIG` with a view, and the clamp that goes with it."""
    clamp = "none" if views.VIEWS[name]().random else "view"
    given = {"view": VIEWS[name], "channels": channels, "wise": wise, "clamp": clamp} | changes
    return dataclasses.replace(CONFIG, **given)


def made_by(config: Bilevel, images: ImageSet = IMAGES, seed: int = 0) -> Perturbation:
    """What the loop has when it ends, converged or not."""
    try:
        return minimise_error(images, config, seed=seed)
    except NotConverged as error:
        return error.perturbation


class PlainSGD:
    """SGD with momentum, weight decay and a clipped gradient, written out."""

    def __init__(self, model: nn.Module, config: Bilevel) -> None:
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
    images: ImageSet, config: Bilevel, rounds: int
) -> tuple[torch.Tensor, list[float]]:
    """Algorithm 1, one image at a time wherever the images do not see each other."""
    generator = torch.Generator().manual_seed(0)
    x, labels, count = images.images.float() / 255, images.labels, len(images)
    view, inner, class_wise = views.view(config.view), config.inner, config.wise == "class"
    size = len(images.classes) if class_wise else count
    delta = torch.zeros(size, config.channels, *x.shape[2:])
    row = labels if class_wise else torch.arange(count)
    model = seeded(tiny_net)
    sgd = PlainSGD(model, config)
    training_order = torch.randperm(count, generator=generator)
    position, errors = 0, []
    for number in range(rounds):
        if config.from_scratch and number:
            model = seeded(tiny_net, int(torch.randint(2**31, (), generator=generator)))
            sgd = PlainSGD(model, config)
        model.train()
        for _ in range(config.outer_batches):
            batch = training_order[position : position + config.outer_batch_size]
            position += config.outer_batch_size
            position = 0 if position >= count else position
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
                for _ in range(inner.steps):
                    shown = (image + noise).requires_grad_()
                    loss = F.cross_entropy(model(shown[None]), labels[index][None])
                    (gradient,) = torch.autograd.grad(loss, shown)
                    if config.channels == 1:
                        gradient = gradient.sum(0, keepdim=True)
                    noise = noise - inner.step * gradient.sign()
                    noise = noise.clamp(-inner.epsilon, inner.epsilon)
                    if config.clamp == "view":  # a crop's border says nothing about the image
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
    ("view", "channels", "wise"),
    [
        ("identity", 3, "sample"),
        ("crop_flip", 3, "sample"),
        ("gray", 1, "sample"),
        ("gray_crop_flip", 1, "sample"),
        ("identity", 3, "class"),
        ("gray", 1, "class"),
    ],
)
def test_loop_equals_the_plain_algorithm(view: str, channels: int, wise: str, rounds: int) -> None:
    config = seen_through(view, channels, wise, max_rounds=rounds)
    made = made_by(config)
    expected, errors = plain_algorithm_1(IMAGES, config, rounds)
    assert made.delta.shape == expected.shape == (3 if wise == "class" else 24, channels, 16, 16)
    assert (made.delta != 0).double().mean() > 0.75  # not where an image is black or white
    assert differing_share(made.delta, expected) <= 0.01 * rounds
    assert made.rounds == pytest.approx(errors, abs=1 / 24 + 1e-9)
    assert made.kind == f"{wise}_wise"


def test_from_scratch_starts_the_model_anew_each_round() -> None:
    config = dataclasses.replace(CONFIG, max_rounds=3, from_scratch=True)
    made = made_by(config)
    expected, _ = plain_algorithm_1(IMAGES, config, rounds=3)
    assert differing_share(made.delta, expected) <= 0.03
    continued = made_by(dataclasses.replace(config, from_scratch=False))
    assert differing_share(made.delta, continued.delta) > 0.1


@pytest.mark.parametrize("size", [1, 7, 500])
def test_inner_batch_size_does_not_change_the_result(size: int) -> None:
    config = dataclasses.replace(CONFIG, max_rounds=2)
    other = dataclasses.replace(config, inner_batch_size=size)
    assert differing_share(made_by(other).delta, made_by(config).delta) <= 0.01
    assert key_of(other) == key_of(config)
    class_wise = dataclasses.replace(config, wise="class")  # there, it does
    assert key_of(class_wise) != key_of(dataclasses.replace(class_wise, inner_batch_size=size))
    drawn = dataclasses.replace(CONFIG, view=op("contrastive"), clamp="none")  # an order a batch
    assert key_of(drawn) != key_of(dataclasses.replace(drawn, inner_batch_size=size))


def test_batch_norm_never_trains_on_an_image_alone() -> None:
    """One pixel is left of 16 x 16 after three stages, and 21 images are two batches and one."""
    net = op("convnet", widths=(4, 4, 4))
    config = dataclasses.replace(CONFIG, net=net, outer_batches=4)
    assert made_by(config, random_images(21)).rounds


def test_random_start_fills_the_ball() -> None:
    """One step of next to nothing leaves the start as it was."""
    delta = made_by(dataclasses.replace(CONFIG, inner=Pgd(8 / 255, 1e-6, 1, True))).delta
    inside = (IMAGES.images > 8) & (IMAGES.images < 247)  # where [0, 1] clips nothing
    assert delta[inside].min() < -7.9 / 255 and delta[inside].max() > 7.9 / 255
    assert delta[inside].mean().abs() < 0.2 / 255


def share_wrong(model: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return (model(x).argmax(1) != IMAGES.labels).double().mean().item()


@pytest.mark.parametrize("stop_view", [None, op("gray")])
def test_error_is_that_of_the_source_model_on_the_view_of_the_stop_test(
    stop_view: Op | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[nn.Module] = []

    def build(classes: int) -> nn.Module:
        built.append(tiny_net(classes))
        return built[-1]

    monkeypatch.setitem(models.MODELS, "tiny", build)
    made = made_by(dataclasses.replace(CONFIG, max_rounds=2, stop_view=stop_view))
    clean = IMAGES.images.float() / 255
    seen = clean if stop_view is None else views.gray(clean)
    assert len(built) == 1  # training continues across rounds
    assert made.rounds[-1] == pytest.approx(share_wrong(built[0], seen + made.delta))


def test_the_released_gray_loop_reads_its_noise_from_clamped_colour_crops() -> None:
    """On white images no noise can grow: a step up is clamped away, and one down is not."""
    white = dataclasses.replace(IMAGES, images=torch.full_like(IMAGES.images, 255))
    crops = VIEWS["crop_flip"]
    released = seen_through("gray_crop_flip", 1, clamp="released", inner_view=crops)
    middle = (..., slice(6, 10), slice(6, 10))  # inside of every crop
    assert made_by(released, white).delta[middle].max() <= CONFIG.inner.step + 1e-6
    stated = seen_through("gray_crop_flip", 1)
    assert made_by(stated, white).delta[middle].max() > 2 * CONFIG.inner.step


def test_loop_stops_at_the_first_error_below_lambda() -> None:
    config = dataclasses.replace(
        CONFIG, outer_batches=10, inner=Pgd(step=2 / 255, steps=10), stop_error=0.2, max_rounds=40
    )
    told: list[str] = []
    made = minimise_error(IMAGES, config, report=told.append)
    assert made.rounds[-1] < 0.2
    assert all(error >= 0.2 for error in made.rounds[:-1])
    assert made.fingerprint == IMAGES.fingerprint
    assert made.epsilon == config.inner.epsilon and made.seconds > 0
    assert told[-1] == f"round {len(made.rounds)}: error {made.rounds[-1]:.1%}"


@pytest.mark.parametrize("wise", ["sample", "class"])
@pytest.mark.parametrize("random_start", [False, True])
def test_only_some_classes_are_protected(wise: str, random_start: bool) -> None:
    inner = dataclasses.replace(CONFIG.inner, random_start=random_start)
    made = made_by(dataclasses.replace(CONFIG, wise=wise, only=(1,), inner=inner))
    moved = made.of(IMAGES, torch.arange(len(IMAGES))).abs().flatten(1).amax(1) > 0
    assert torch.equal(moved, IMAGES.labels == 1)


def test_the_stop_error_is_that_of_the_protected_images() -> None:
    made = made_by(dataclasses.replace(CONFIG, only=(0, 2), max_rounds=3))
    protected = int((IMAGES.labels != 1).sum())
    for error in made.rounds:
        assert error * protected == pytest.approx(round(error * protected))


def test_classes_without_images_cannot_be_protected() -> None:
    for only in ((7,), (1, 7)):
        with pytest.raises(ValueError, match=r"has no images of class \[7\]"):
            made_by(dataclasses.replace(CONFIG, only=only))


def test_rounds_may_be_counted_instead_of_tested() -> None:
    counted = made_by(dataclasses.replace(CONFIG, rounds=3, stop_error=0.99))
    assert len(counted.rounds) == 3
    tested = made_by(dataclasses.replace(CONFIG, max_rounds=3))
    assert torch.equal(counted.delta, tested.delta)


def test_adam_is_another_optimizer() -> None:
    adam = dataclasses.replace(CONFIG, optimizer="adam", learning_rate=1e-3)
    assert len(made_by(adam).rounds) == 1
    assert not torch.equal(made_by(adam).delta, made_by(CONFIG).delta)


def test_a_folder_that_stands_sorted_by_class_is_not_trained_on_class_by_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = IMAGES.labels.argsort()
    seen: list[int] = []
    cross_entropy = F.cross_entropy

    def count(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        if "reduction" not in options:  # a training batch
            seen.append(len(labels.unique()))
        return cross_entropy(logits, labels, **options)

    monkeypatch.setattr(learners.F, "cross_entropy", count)
    made_by(dataclasses.replace(CONFIG, outer_batches=3), IMAGES.select(order))
    assert max(seen) == 3


def test_bounds_hold_for_crops_of_images_too() -> None:
    made = made_by(seen_through("crop_flip", max_rounds=2))
    assert made.delta.abs().max() <= CONFIG.inner.epsilon + 1e-7
    assert made.delta.dtype == torch.float32 and made.delta.is_contiguous()


def test_not_converged_says_what_to_do_and_keeps_the_delta() -> None:
    config = dataclasses.replace(CONFIG, max_rounds=2, learning_rate=1e-6)
    with pytest.raises(NotConverged, match="max_rounds") as caught:
        minimise_error(IMAGES, config)
    message, partial = str(caught.value), caught.value.perturbation
    assert "after 2 rounds" in message and "perturbation" in message
    assert len(partial.rounds) == 2 and partial.delta.abs().max() > 0
    assert partial.apply(IMAGES).images.shape == IMAGES.images.shape


def test_diverged_names_the_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [nn.Linear(3 * 16 * 16, 8), nn.Linear(8, 8), nn.Linear(8, 3)]
    monkeypatch.setitem(models.MODELS, "deep", lambda _: nn.Sequential(nn.Flatten(), *layers))
    config = dataclasses.replace(CONFIG, net=op("deep"), learning_rate=1e6, clip=1e6)
    with pytest.raises(Diverged, match="lower learning_rate"):
        made_by(dataclasses.replace(config, outer_batches=40))


@pytest.mark.parametrize("wise", ["sample", "class"])
def test_same_seed_same_delta_bit_for_bit(wise: str) -> None:
    inner = Pgd(step=2 / 255, steps=3, random_start=True)
    config = seen_through("gray_crop_flip", 1, wise, max_rounds=2, inner=inner)
    first, again, other = (made_by(config, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.delta, again.delta) and first.rounds == again.rounds
    assert not torch.equal(first.delta, other.delta)


def test_random_state_of_the_caller_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    made_by(seen_through("crop_flip"))
    assert torch.equal(torch.rand(1), expected)


def test_images_are_left_alone() -> None:
    before = IMAGES.images.clone()
    made_by(CONFIG)
    assert torch.equal(IMAGES.images, before)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stop_error": 0}, "Bilevel.stop_error is 0"),
        ({"stop_error": 1}, "Bilevel.stop_error is 1"),
        ({"outer_batches": 0}, "Bilevel.outer_batches is 0"),
        ({"outer_batch_size": -1}, "Bilevel.outer_batch_size is -1"),
        ({"inner_batch_size": 0}, "Bilevel.inner_batch_size is 0"),
        ({"max_rounds": 0}, "Bilevel.max_rounds is 0"),
        ({"clip": 0}, "Bilevel.clip is 0"),
        ({"clip": -1}, "Bilevel.clip is -1"),
        ({"momentum": 5}, "Bilevel.momentum is 5"),
        ({"learning_rate": float("nan")}, "Bilevel.learning_rate is nan"),
        ({"weight_decay": -1}, "Bilevel.weight_decay is -1"),
        ({"wise": "batch"}, "Bilevel.wise is 'batch'"),
        ({"clamp": "some"}, "Bilevel.clamp is 'some'"),
        ({"view": op("grey")}, "view 'grey'; choose from"),
        ({"channels": 1}, "Bilevel.channels is 1.*take gray or gray_crop_flip"),
        ({"clamp": "released"}, "channels must be 1"),
        (
            {"clamp": "released", "channels": 1, "view": VIEWS["gray"]},
            "inner_view a view in colour",
        ),
        ({"view": VIEWS["crop_flip"]}, 'clamp="none"'),
        ({"inner_view": VIEWS["gray_crop_flip"]}, 'clamp="none"'),
        (
            {"channels": 1, "view": VIEWS["gray"], "inner_view": VIEWS["identity"]},
            'shows colours to gray noise: take clamp="none"',
        ),
    ],
)
def test_settings_out_of_range_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bilevel(**changed)


def test_defaults_are_the_papers() -> None:
    config = Bilevel()
    assert (255 * config.inner.epsilon, 255 * config.inner.step) == pytest.approx((8, 0.8))
    assert (config.inner.steps, config.outer_batches, config.stop_error) == (20, 10, 0.01)


def test_views_are_drawn_anew_for_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    sums: list[float] = []

    def recorded(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen = views.crop_flip(images, generator)
        sums.append(seen[:4].sum().item())
        return seen

    monkeypatch.setitem(views.VIEWS, "recorded", lambda: views.View(recorded, random=True))
    made_by(
        dataclasses.replace(
            CONFIG,
            view=op("recorded"),
            clamp="none",
            max_rounds=4,
            outer_batch_size=24,
            outer_batches=1,
        )
    )
    assert len(set(sums)) == len(sums) == 4 * (1 + 3 + 3)


# Peak memory of a process, in MiB, before noise is made for large images, and after it is exported.
LARGE = """
import re, sys
sys.path.insert(0, "tests")
from pathlib import Path
import torch
torch.set_num_threads(1)
import helpers
from ulelib.bilevel import Bilevel, minimise_error
from ulelib.data import ImageSet
from ulelib.perturbation import Perturbation
from ulelib.pgd import Pgd
from ulelib.settings import op
def peak():  # not getrusage's, which the parent's counts in
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
pixels = torch.randint(0, 256, (500, 3, 224, 224), dtype=torch.uint8)
images = ImageSet(pixels, torch.arange(500) % 3, tuple("abc"), "large")
small = dict(outer_batches=1, outer_batch_size=20, inner_batch_size=20, stop_error=0.999)
def make(images, start):
    inner = Pgd(steps=1, random_start=start)
    return minimise_error(images, Bilevel(net=op("tiny"), inner=inner, **small))
make(images.select(torch.arange(40)), False)
before = peak()
noise = make(images, True)
noise.save(Path(sys.argv[1]))
del noise
print("GREW", peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory as Linux does")
def test_noise_is_in_memory_once(tmp_path: Path) -> None:
    """25,000 images of 224x224 pixels have 14 GiB of noise: few machines hold it twice."""
    path = tmp_path / "delta.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(path)], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    grew, noise = float(done.stdout.split()[-1]), path.stat().st_size / 2**20
    path.unlink()  # pytest keeps the folders of three runs
    assert noise == pytest.approx(287, abs=1)
    # A little of what the imports and the small loop gave back is there to be used again.
    assert 0.8 * noise <= grew <= 1.4 * noise


def test_initial_weights_and_order_have_seeds_of_their_own() -> None:
    own = dataclasses.replace(CONFIG, weights_seed=7)
    assert torch.equal(made_by(own, seed=7).delta, made_by(CONFIG, seed=7).delta)
    first, second, third = made_by(own, seed=0), made_by(own, seed=1), made_by(CONFIG, seed=0)
    assert not torch.equal(first.delta, second.delta)  # the order differs
    assert not torch.equal(first.delta, third.delta)  # the weights differ
    assert key_of(CONFIG) != key_of(own) != key_of(dataclasses.replace(own, weights_seed=8))


def test_folded_norms_change_nothing_but_last_digits() -> None:
    config = dataclasses.replace(CONFIG, rounds=2)
    plain, folded = (
        made_by(dataclasses.replace(config, fold_norms=fold)) for fold in (False, True)
    )
    assert differing_share(plain.delta, folded.delta) < 0.01
    assert key_of(dataclasses.replace(config, fold_norms=True)) != key_of(config)


def test_folding_is_for_learning_with_labels() -> None:
    tue = quick_profile().transferable["SimCLR"]
    with pytest.raises(ValueError, match="fold_norms is for Supervised, not for Transferable"):
        dataclasses.replace(tue, fold_norms=True)
