"""Stages: what every page to come is made of, computed once and found again."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch.nn import functional as F

from helpers import MADE_BY, quick_profile, random_images
from ulelib import data
from ulelib.bilevel import NotConverged
from ulelib.defenders import DEFENDERS, Random, Setting
from ulelib.exploiters import EXPLOITERS, SEED_OFFSET, Exploiter, Training, exploit, prepared
from ulelib.jobs import execute, inputs
from ulelib.jobs.execute import compute, load
from ulelib.jobs.schema import check_stage
from ulelib.jobs.store import Store
from ulelib.machine import to_float
from ulelib.perturbation import Perturbation
from ulelib.pgd import Pgd
from ulelib.poisons import Poison
from ulelib.pretraining import linear_probe, pretrain
from ulelib.restoration import Restoration, restored
from ulelib.settings import Op, canonical, key_of, op
from ulelib.specs import Attacked, Data, Noise, Part, Pretrained, Refitted, Run, Seen, needs, seen
from ulelib.visibility import visibility

QUICK = quick_profile()
DATA = inputs.data_set("shapes", 100)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def setting(source: Op | None = None) -> Setting:
    loop = QUICK.loop if source is None else dataclasses.replace(QUICK.loop, net=source)
    return Setting(DATA, quick_profile(loop=loop), 0, "float32")


def noise_of(defender: str, source: Op | None = None, **changes: Any) -> Noise:
    method = dataclasses.replace(DEFENDERS[defender](setting(source)), **changes)  # type: ignore[type-var]
    return Noise(DATA, method)


def run_of(*parts: Part, **changes: Any) -> Run:
    given = {"net": QUICK.loop.net, "recipe": QUICK.recipe} | changes
    return Run(parts or (Part(DATA),), DATA, **given)


def measured(run: Run, store: Store) -> Training:
    assert compute(run, store)
    found: Training = load(run, store)
    return found


def test_noise_may_be_added_after_the_augmentation(store: Store) -> None:
    part = Part(DATA, noise=noise_of("ULEO"))
    still = Exploiter(augment=op("identity"))
    published = run_of(part, exploiter=still)
    added = dataclasses.replace(published, noise_after=True)
    assert key_of(added) != key_of(published)
    first, second = measured(published, store), measured(added, store)
    assert first.curve == second.curve  # nothing moves, so the order does not matter
    moving = run_of(part), run_of(part, noise_after=True)
    for run in moving:
        compute(run, store)
    weights = [execute.network(run, store).head.weight for run in moving]
    assert not torch.equal(*weights)
    with pytest.raises(ValueError, match="noise_after"):
        run_of(part, exploiter=Exploiter(prepare=(op("gray"),)), noise_after=True)


def test_the_released_index_makes_sample_wise_noise_class_wise(store: Store) -> None:
    noise = noise_of("random")
    compute(noise, store)
    slipped = execute.published(Part(DATA, noise=noise, index="class"), store)
    clean = inputs.images(DATA, "train")
    delta = load(noise, store).delta
    added = slipped.images.int() - clean.images
    inside = (clean.images > 8) & (clean.images < 247)
    expected = (255 * delta[clean.labels]).round().int()
    assert torch.equal(added[inside], expected[inside])
    with pytest.raises(ValueError, match=r"Part.index is for noise"):
        Part(DATA, index="class")


# Two rounds on 100 images: SimSiam has hardly begun.
@pytest.mark.filterwarnings("ignore::ulelib.contrastive.Collapsed")
@pytest.mark.parametrize("defender", sorted(DEFENDERS))
def test_every_defender_makes_noise_within_its_bounds(defender: str, store: Store) -> None:
    noise = noise_of(defender)
    compute(noise, store)
    made: Perturbation = load(noise, store)
    rows = 10 if "class-wise" in defender or "region" in defender else 100
    channels = 1 if "Gray" in defender else 3
    assert made.delta.shape == (rows, channels, 32, 32)
    # A class's noise is a mean over its images, which pull it this way and that.
    assert 0.5 / 255 < made.delta.abs().max() <= made.epsilon + 1e-6
    assert made.fingerprint == inputs.images(DATA, "train").fingerprint


def test_clean_and_protected_parts_are_trained_on_together(store: Store) -> None:
    """Tables 4 and 9: 5 % clean, 30 % protected."""
    clean = Part(DATA, take=(0, 0.1))
    protected = Part(DATA, take=(0.1, 0.6), noise=noise_of("ULEO"))
    run = run_of(clean, protected)
    assert needs(run) == (protected.noise,)
    training = measured(run, store)
    whole = inputs.images(DATA, "train")
    first, second = (inputs.rows_of(whole, part.take) for part in (clean, protected))
    assert (len(first), len(second)) == (10, 50) and not set(first.tolist()) & set(second.tolist())
    shown = load(noise_of("ULEO"), store).apply(whole)
    mixed = data.mix(whole.select(first), shown.select(second))
    plain, _ = exploit(
        mixed, inputs.images(DATA, "test"), Exploiter(), QUICK.loop.net, QUICK.recipe
    )
    assert (training.accuracy, training.curve) == (plain.accuracy, plain.curve)


def test_noise_may_be_made_for_a_part_alone(store: Store) -> None:
    noise = dataclasses.replace(noise_of("ULEO"), take=(0.2, 0.8))
    compute(noise, store)
    assert len(load(noise, store).delta) == 60
    shown = execute.published(Part(DATA, take=(0.4, 0.6), noise=noise), store)
    whole = inputs.images(DATA, "train")
    made_for = inputs.rows_of(whole, (0.2, 0.8))
    expected = load(noise, store).apply(whole.select(made_for))
    inside = torch.isin(made_for, inputs.rows_of(whole, (0.4, 0.6)))
    assert torch.equal(shown.images, expected.images[inside])
    with pytest.raises(ValueError, match="noise was made for"):
        Part(DATA, take=(0, 0.5), noise=noise)


def test_shares_that_meet_have_no_image_in_common_and_every_class_its_part() -> None:
    images = random_images(90, classes=3)
    parts = [inputs.rows_of(images, take) for take in ((0, 0.1), (0.1, 0.4), (0.4, 1))]
    assert [len(part) for part in parts] == [9, 27, 54]
    assert torch.cat(parts).sort().values.tolist() == list(range(90))
    for part in parts:
        assert torch.bincount(images.labels[part]).unique().numel() == 1


def test_source_and_exploiter_may_be_different_networks(store: Store) -> None:
    """Table 3."""
    linear = op("linear", size=32)
    noise = noise_of("ULEO", source=linear)
    compute(noise, store)
    training = measured(run_of(Part(DATA, noise=noise), net=QUICK.loop.net), store)
    assert 0 <= training.accuracy <= 100
    run = run_of(Part(DATA, noise=noise), net=linear)
    compute(run, store)
    assert isinstance(execute.network(run, store)[1], torch.nn.Linear)  # type: ignore[index]
    assert key_of(noise) != key_of(noise_of("ULEO"))


def test_a_page_may_have_data_of_its_own(store: Store) -> None:
    other = inputs.data_set("shapes", 60, seed=5)
    run = Run((Part(other),), other, net=QUICK.loop.net, recipe=QUICK.recipe)
    assert measured(run, store).chance == 10
    assert key_of(run) != key_of(run_of())


def test_a_trained_network_is_kept_and_measured_under_attack(store: Store) -> None:
    run = run_of(net=op("linear", size=32))
    training = measured(run, store)
    model = execute.network(run, store)
    test = inputs.images(DATA, "test")
    right = (model(to_float(test.images)).argmax(1) == test.labels).double().mean().item()
    assert 100 * right == pytest.approx(training.accuracy)

    fgsm = Attacked(run, Pgd(8 / 255, 8 / 255, 1))
    assert needs(fgsm) == (run,)
    compute(fgsm, store)
    x = to_float(test.images).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), test.labels), x)
    moved = (x + 8 / 255 * gradient.sign()).clamp(0, 1)
    plain = (model(moved).argmax(1) == test.labels).double().mean().item()
    assert load(fgsm, store) == pytest.approx(100 * plain)

    pgd = Attacked(run, Pgd(8 / 255, 2 / 255, 20, random_start=True))
    compute(pgd, store)
    assert load(pgd, store) <= load(fgsm, store) <= training.accuracy


def test_a_training_begins_with_the_network_of_another(store: Store) -> None:
    other = Data("shapes", 60, seed=5)
    before = Run((Part(other),), other, net=QUICK.loop.net, recipe=QUICK.recipe)
    still = dataclasses.replace(QUICK.recipe, learning_rate=1e-30)  # it stays where it begins
    run = run_of(recipe=still, start=before)
    assert needs(run) == (before,) and key_of(run) != key_of(run_of(recipe=still))
    compute(run, store)
    weights = [execute.network(one, store).state_dict() for one in (before, run)]
    moved = {name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}
    assert all("running" in name or "num_batches" in name or "head" in name for name in moved)
    assert "head.weight" in moved
    with pytest.raises(ValueError, match="Run.start is of"):
        run_of(start=before, net=op("linear", size=32))


def test_a_training_on_what_a_network_restored(store: Store) -> None:
    """Pairs of all parts, clean ones among them, under the seed of the exploiter."""
    parts = Part(DATA, (0, 0.5)), Part(DATA, (0.5, 1), noise=noise_of("random class-wise"))
    how = Restoration(pairs=40, steps=20, batch_size=10, learning_rate=0.01, width=4)
    run = run_of(*parts, restore=how, seed=3)
    training = measured(run, store)
    published, clean = (
        data.mix(*(execute.published(part, store) for part in some))
        for some in (parts, [Part(DATA, part.take) for part in parts])
    )
    shown = restored(published, clean, how, 3 + SEED_OFFSET, "float32")
    assert not torch.equal(shown.images, published.images)
    test = inputs.images(DATA, "test")
    plain, _ = exploit(shown, test, run.exploiter, run.net, run.recipe, seed=3)
    assert training.curve == plain.curve
    assert training.seconds > 0 and needs(run) == (parts[1].noise,)


def test_a_restoration_belongs_to_the_key_only_where_there_is_one() -> None:
    run = run_of()
    assert "restore" not in canonical(run)
    keys = {key_of(run_of(restore=how)) for how in (None, Restoration(), Restoration(pairs=2000))}
    assert key_of(run) in keys and len(keys) == 3
    noisy = Part(DATA, noise=noise_of("random"))
    with pytest.raises(ValueError, match=r"Run.restore: noise that is added last"):
        run_of(noisy, noise_after=True, restore=Restoration())


def test_more_pairs_than_images_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match=r"Restoration.pairs is 101, but there are 100 images"):
        compute(run_of(restore=Restoration(pairs=101)), store)


def test_a_last_layer_is_learned_anew_from_clean_images(store: Store) -> None:
    """Of these images, behind the exploiter's filter: `linear_probe` has its own tests."""
    random = noise_of("random class-wise")
    net = op("linear", size=32)  # its features are the pixels
    run = run_of(Part(DATA, noise=random), exploiter=EXPLOITERS["gray"], net=net)
    stage = Refitted(run, images=60, seed=3)
    assert needs(stage) == (run,)
    compute(stage, store)
    whole = inputs.images(DATA, "train")
    rows = torch.randperm(len(whole), generator=torch.Generator().manual_seed(3))[:60]
    found = {}
    for views in ((op("gray"),), ()):
        sets = [prepared(one, views) for one in (whole.select(rows), inputs.images(DATA, "test"))]
        pixels = [to_float(one.images).flatten(1) for one in sets]
        found[views] = linear_probe(pixels[0], sets[0], pixels[1], sets[1])
    assert load(stage, store) == pytest.approx(found[op("gray"),]) != found[()]
    records = [execute.record(one, store)["result"]["noise"] for one in (stage, run)]
    assert records[0] == records[1] != {}
    with pytest.raises(ValueError, match="Refitted.images is"):
        compute(Refitted(run, images=10_000), store)


def test_adv_pois_moves_images_towards_the_next_label_of_its_victim(store: Store) -> None:
    noise = noise_of("AdvPois", source=op("linear", size=32))
    assert isinstance(noise.method, Poison) and needs(noise) == (noise.method.victim,)
    compute(noise, store)
    model = execute.network(noise.method.victim, store)
    whole = inputs.images(DATA, "train")
    x, target = to_float(whole.images), (whole.labels + 1) % 10
    moved = x + load(noise, store).delta
    assert F.cross_entropy(model(moved), target) < F.cross_entropy(model(x), target) - 0.05
    victims = {noise.method.victim.seed, noise_of("AdvPois").method.victim.seed}  # type: ignore[attr-defined]
    assert victims == {500_000}  # no exploiter's


def test_error_maximising_noise_moves_away_from_the_label(store: Store) -> None:
    noise = noise_of("AdvPois", source=op("linear", size=32), shift=0)
    compute(noise, store)
    model = execute.network(noise.method.victim, store)  # type: ignore[attr-defined]
    whole = inputs.images(DATA, "train")
    x = to_float(whole.images)
    moved = x + load(noise, store).delta
    before, after = (F.cross_entropy(model(seen), whole.labels) for seen in (x, moved))
    assert after > before + 0.05


def test_class_wise_noise_fits_another_data_set_of_the_same_classes(store: Store) -> None:
    noise = noise_of("ULEO class-wise")
    compute(noise, store)
    other = inputs.data_set("shapes", 40, seed=7)
    shown = execute.published(Part(other, noise=noise), store)
    clean = inputs.images(other, "train")
    expected = clean.images / 255 + load(noise, store).delta[clean.labels]
    assert (shown.images / 255 - expected.clamp(0, 1)).abs().max() < 0.51 / 255
    sample = noise_of("ULEO")
    compute(sample, store)
    with pytest.raises(ValueError, match="perturbation"):
        execute.published(Part(other, noise=sample), store)


@pytest.mark.parametrize("exploiter", ["mix", "attack"])
def test_exploiters_that_mix_or_attack_are_stages_as_well(exploiter: str, store: Store) -> None:
    kinds = {
        "mix": Exploiter(mix=op("mixup", alpha=1.0)),
        "attack": Exploiter(attack=Pgd(8 / 255, 4 / 255, 2, random_start=True)),
    }
    run = run_of(exploiter=kinds[exploiter])
    assert 0 <= measured(run, store).accuracy <= 100
    assert key_of(run) != key_of(run_of())


def test_an_exploiter_without_labels_is_a_stage(store: Store) -> None:
    part = Part(DATA, noise=noise_of("CSD"))
    stage = Pretrained((part,), DATA, QUICK.contrastive["MoCo"], QUICK.loop.net, QUICK.pretraining)
    assert needs(stage) == (part.noise,)
    assert compute(stage, store)
    shows = load(stage, store)
    published = execute.published(part, store)
    clean, test = (inputs.images(DATA, split) for split in ("train", "test"))
    again, _ = pretrain(
        published, clean, test, stage.contrastive, QUICK.loop.net, QUICK.pretraining
    )
    assert dataclasses.replace(shows, seconds=0.0) == dataclasses.replace(again, seconds=0.0)
    assert execute.record(stage, store)["result"]["knn"] == shows.knn


@pytest.mark.parametrize("changes", [{"label_smoothing": 0.1}, {"schedule_by": "epoch"}])
def test_what_a_training_without_labels_cannot_do_is_refused(changes: dict[str, Any]) -> None:
    recipe = dataclasses.replace(QUICK.pretraining, **changes)
    with pytest.raises(ValueError, match="no labels to smooth .* rate changes by batch"):
        Pretrained((Part(DATA),), DATA, QUICK.contrastive["SimCLR"], QUICK.loop.net, recipe)


def test_mean_noise_of_a_class_moves_to_other_data(store: Store, tmp_path: Path) -> None:
    noise = noise_of("CSD")
    compute(noise, store)
    made: Perturbation = load(noise, store)
    clean = inputs.images(DATA, "train")
    larger = dataclasses.replace(DATA, n=80, size=None, content="")
    moved = execute.published(Part(larger, noise=noise, index="class mean"), store)
    plain = inputs.images(larger, "train")
    means = torch.stack([made.delta[clean.labels == k].mean(0) for k in range(len(clean.classes))])
    added = moved.images.int() - plain.images.int()
    inside = (plain.images > 8) & (plain.images < 247)
    expected = (255 * means[plain.labels]).round().int()
    assert torch.equal(added[inside], expected[inside])


def test_noise_of_the_same_pictures_at_another_size(store: Store) -> None:
    small = dataclasses.replace(DATA, size=16, content="")
    noise = dataclasses.replace(noise_of("CSD"), data=small)
    compute(noise, store)
    made: Perturbation = load(noise, store)
    assert made.delta.shape[2:] == (16, 16)
    clean = inputs.images(DATA, "train")
    published = execute.published(Part(DATA, noise=noise, index="resized"), store)
    expected = made.resized(clean).apply(clean)
    assert torch.equal(published.images, expected.images)
    assert not torch.equal(published.images, clean.images)
    part = execute.published(Part(DATA, (0.5, 1.0), noise, index="resized"), store)
    assert torch.equal(part.images, expected.images[inputs.rows_of(clean, (0.5, 1.0))])
    half = dataclasses.replace(noise, take=(0.0, 0.5))
    with pytest.raises(ValueError, match="the noise was made for"):
        Part(DATA, (0.5, 1.0), half, index="resized")
    with pytest.raises(ValueError, match="the same pictures at another size"):
        Part(dataclasses.replace(DATA, n=40), noise=noise, index="resized")


def test_stages_travel_and_are_found_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(Part(DATA, noise=noise_of("ULEO"), export="as_released"))
    first = measured(run, store)
    again = pickle.loads(pickle.dumps(run))
    assert again == run and key_of(again) == key_of(run)

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(execute, "exploit", forbidden)
    monkeypatch.setattr("ulelib.bilevel.minimise_error", forbidden)
    assert measured(again, store) == first


def test_same_spec_same_bits_in_another_store(store: Store, tmp_path: Path) -> None:
    run = run_of(Part(DATA, noise=noise_of("ULEO-GrayAugs")), exploiter=EXPLOITERS["gray"])
    first, second = measured(run, store), measured(run, Store(tmp_path))
    assert (first.accuracy, first.curve) == (second.accuracy, second.curve)
    (noise,) = needs(run)
    assert torch.equal(load(noise, store).delta, load(noise, Store(tmp_path)).delta)


def test_record_says_spec_numbers_and_maker(store: Store) -> None:
    run = run_of()
    training = measured(run, store)
    told = execute.record(run, store)
    assert told["result"]["accuracy"] == training.accuracy
    assert told["spec"]["type"] == "Run" and told["spec"]["net"]["op"] == "convnet"
    assert {"device", "threads", "torch"} <= set(told["made"]["machine"])
    assert "commit" in told["made"]
    json.dumps(told)
    with pytest.raises(KeyError, match="is not in"):
        execute.record(run_of(seed=99), store)


def test_a_whole_artifact_of_another_version_is_an_error_and_stays(tmp_path: Path) -> None:
    own, run = Store(tmp_path), run_of()
    with own.claim(run):
        place = own.put(
            run, lambda folder: execute._write_record(folder, {"precision": 1}), MADE_BY
        )
    with pytest.raises(execute.Uninterpretable, match="is whole, but .*commit old"):
        load(run, own)
    assert place.exists() and own.find(run) == place


def test_weights_of_another_version_are_an_error_and_stay(tmp_path: Path) -> None:
    own, run = Store(tmp_path), run_of()
    for weights in (b"no tensors", save({"layer": torch.zeros(2)})):
        with own.claim(run):
            place = own.put(
                run,
                lambda folder, weights=weights: (folder / "network.safetensors").write_bytes(
                    weights
                ),
                MADE_BY,
            )
        state = torch.get_rng_state()
        with pytest.raises(execute.Uninterpretable, match="is whole, but .*commit old"):
            execute.network(run, own)
        assert torch.equal(torch.get_rng_state(), state)
        shutil.rmtree(place)


def test_other_images_under_the_same_name_are_refused(store: Store) -> None:
    swapped = dataclasses.replace(DATA, content="0123456789abcdef 0123456789abcdef")
    with pytest.raises(ValueError, match="not those that this was planned for.*ULELIB_DATA"):
        compute(Run((Part(swapped),), swapped, net=QUICK.loop.net, recipe=QUICK.recipe), store)


def test_not_converged_keeps_the_partial_delta_in_the_store(tmp_path: Path) -> None:
    hopeless, own = noise_of("ULEO", stop_error=1e-9, max_rounds=1), Store(tmp_path)
    with pytest.raises(NotConverged, match="max_rounds") as caught:
        compute(hopeless, own)
    (partial,) = (tmp_path / "partial").glob("*.safetensors")
    assert partial.name in caught.value.__notes__[0]
    assert torch.equal(Perturbation.load(partial).delta, caught.value.perturbation.delta)
    assert own.find(hopeless) is None
    sent = pickle.loads(pickle.dumps(caught.value))  # as a worker does, to the plan
    assert str(sent) == str(caught.value) and sent.__notes__ == caught.value.__notes__
    assert torch.equal(sent.perturbation.delta, caught.value.perturbation.delta)


def test_not_converged_outlives_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Perturbation, path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Perturbation, "save", full)
    with pytest.raises(NotConverged) as caught:
        compute(noise_of("ULEO", stop_error=1e-9, max_rounds=1), Store(tmp_path))
    assert "No space left" in caught.value.__notes__[0]
    assert not list((tmp_path / "partial").iterdir())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Data("shapes", n=0), "Data.n is 0"),
        (lambda: Data("shapes", seed=-1), "Data.seed is -1"),
        (lambda: Data("shapes", size=100_000), "Data.size is 100000"),
        (lambda: Part(DATA, take=(0.5, 0.5)), "Part.take is"),
        (lambda: Part(DATA, take=(0, 1.5)), "Part.take.1 is 1.5"),
        (lambda: Part(DATA, export="png"), "Part.export is 'png'"),
        (lambda: Part(DATA, export="as_released"), "Part.export is for noise"),
        (lambda: Run((), DATA), "Run.train is empty"),
        (lambda: Run((Part(DATA),), DATA, precision="float16"), "Run.precision is 'float16'"),
        (lambda: Noise(DATA, "ULEO"), "Noise.method is 'ULEO'"),
        (lambda: Noise(DATA, Random), "settings, not their class"),
        (lambda: Noise(DATA, Random(), take=(0.9, 0.5)), "Noise.take is"),
        (lambda: Run((Part(DATA),), DATA, net=op("resnet81")), "choose from"),
        (
            lambda: Poison(run_of(), shift=10).make(
                inputs.images(DATA, "train"), 0, "float32", network=None, report=print
            ),
            "shift is 10, but there are 10 classes",
        ),
        (lambda: Noise(DATA, Random(), precision="float64"), "Noise.precision is"),
        (lambda: Random(epsilon=8), "Random.epsilon is 8"),
        (lambda: Attacked(run_of(), Pgd(), seed=2**40), "Attacked.seed is"),
    ],
)
def test_specs_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_key_changes_with_every_setting() -> None:
    base = noise_of("ULEO")
    runs = [
        run_of(),
        run_of(seed=1),
        run_of(exploiter=EXPLOITERS["gray"]),
        run_of(precision="bfloat16"),
        run_of(net=op("convnet", widths=(4, 6, 10))),
        run_of(recipe=dataclasses.replace(QUICK.recipe, epochs=3)),
        run_of(recipe=dataclasses.replace(QUICK.recipe, flip_at_test=True)),
        run_of(Part(DATA, take=(0, 0.5))),
        run_of(Part(DATA, noise=base)),
        run_of(Part(DATA, noise=base, export="as_released")),
        run_of(Part(DATA, noise=dataclasses.replace(base, seed=1))),
        run_of(Part(DATA, noise=noise_of("ULEO", from_scratch=True))),
        run_of(Part(DATA, noise=noise_of("ULEO", inner=Pgd(step=1 / 255, steps=2)))),
        *(run_of(Part(DATA, noise=noise_of(name))) for name in DEFENDERS if name != "ULEO"),
    ]
    assert len({key_of(run) for run in runs}) == len(runs)
    allowed = noise_of("ULEO", max_rounds=7, inner_batch_size=3)
    assert key_of(allowed) == key_of(base)


def test_images_of_one_size_can_be_enlarged() -> None:
    small = inputs.images(DATA, "train")
    large = inputs.images(dataclasses.replace(DATA, size=48, content=""), "train")
    assert large.images.shape == (100, 3, 48, 48) and torch.equal(large.labels, small.labels)
    difference = large.images.float().mean((2, 3)) - small.images.float().mean((2, 3))
    assert difference.abs().max() < 2 and large.fingerprint != small.fingerprint
    as_it_is = inputs.images(dataclasses.replace(DATA, size=32), "train")
    assert as_it_is.fingerprint == small.fingerprint


def test_a_training_on_noise_that_was_replaced_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the noise was removed, and made again by another number of threads."""
    own = Store(tmp_path)
    noise = Noise(DATA, Random())
    run = Run((Part(DATA, noise=noise),), DATA, net=QUICK.loop.net, recipe=QUICK.recipe)
    compute(run, own)
    first = execute.record(run, own)["result"]
    assert first["noise"] == {key_of(noise): execute.record(noise, own)["result"]["sha256"]}
    assert execute.find(run, own) == own.find(run)
    shutil.rmtree(own.place(noise))
    assert execute.find(run, own)  # no other noise is there: it is what its record says
    make = Random.make

    def otherwise(*arguments: object, **options: object) -> Perturbation:
        made = make(*arguments, **options)  # type: ignore[arg-type]
        return dataclasses.replace(made, delta=-made.delta)

    monkeypatch.setattr(Random, "make", otherwise)
    compute(noise, own)
    with pytest.warns(UserWarning, match="other noise than is there now"):
        compute(run, own)
    again = execute.record(run, own)["result"]
    assert again["noise"] == {key_of(noise): execute.record(noise, own)["result"]["sha256"]}
    assert again["noise"] != first["noise"]


def test_a_checkpoint_of_other_inputs_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, about = Store(tmp_path), list[object]()
    kind = execute.FileCheckpoint

    def noted(place: Path, told: Any) -> Any:
        about.append(told)
        return kind(place, told)

    monkeypatch.setattr(execute, "FileCheckpoint", noted)
    for one_sided in (False, True):
        noise = Noise(DATA, Random(one_sided=one_sided))
        compute(Run((Part(DATA, noise=noise),), DATA, net=QUICK.loop.net, recipe=QUICK.recipe), own)
    trainings = [one for one in about if one["inputs"]]  # type: ignore[index]
    assert len(trainings) == 2 and trainings[0] != trainings[1]


def test_the_visibility_of_noise_is_a_stage(store: Store) -> None:
    noise = noise_of("random")
    stage = seen(noise)
    assert needs(stage) == (noise,)
    compute(stage, store)
    clean = inputs.images(DATA, "train")
    published = load(noise, store).apply(clean)
    assert load(stage, store) == visibility(clean.images, published.images)
    record = execute.record(stage, store)
    assert record["result"]["largest"] == 8 and set(record["result"]["noise"]) == {key_of(noise)}
    check_stage(record)
    with pytest.raises(ValueError, match="clean pictures"):
        Seen(Part(DATA))
