"""The report on a protected folder: pairs, division, what it trains, and what it says."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from helpers import random_images
from photo_files import picture
from ulelib.jobs.store import Store
from ulelib.photos import check as module
from ulelib.photos import copies, trial
from ulelib.photos.check import CROP_FLIP, FILTERS, Ended, check
from ulelib.photos.copies import Pair, copies_of, similarity
from ulelib.photos.findings import Findings, Line, foreseen
from ulelib.photos.folders import Label, Refused
from ulelib.photos.job import Job
from ulelib.photos.protect import protect
from ulelib.photos.report import write_report
from ulelib.restoration import Restoration


def write(root: Path, label: str, name: str, colour: tuple[int, int, int], seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.integers(-20, 20, (24, 24, 3))
    pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
    (root / label).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / label / name)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Red and blue pictures; the "protected" copies have the other class's colour."""
    red, blue = (200, 60, 60), (60, 60, 200)
    for number in range(16):
        for label, own, other in (("red", red, blue), ("blue", blue, red)):
            write(tmp_path / "clean", label, f"{number}.png", own, number)
            write(tmp_path / "made", label, f"{number}.png", other, number)
    return tmp_path / "clean", tmp_path / "made"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """Few steps, few filters, and features that cost nothing."""
    monkeypatch.setattr(module, "STEPS", 30)
    monkeypatch.setattr(module, "WAY_BACK", Restoration(steps=30, batch_size=6, width=4))
    kept = ["nothing", CROP_FLIP, "turning them gray", "taking out what a linear classifier sees"]
    monkeypatch.setattr(module, "FILTERS", {name: FILTERS[name] for name in kept})
    monkeypatch.setattr(module, "_backbone", lambda *_: ("nothing", torch.nn.Flatten()))
    return Store(tmp_path / "store")


@pytest.fixture
def untrained(quick: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """For what does not depend on what is learned."""
    monkeypatch.setattr(module, "STEPS", 2)
    return quick


def findings(**changed: Any) -> Findings:
    lines = (
        Line("nothing", 90.0, 20.0, 0.0),
        Line("turning them gray", 88.0, 80.0, 0.88),
        Line("<b>", 15.0, 12.0, math.nan),
        Line("blurring them", 80.0, 70.0, 0.83),
    )
    given: dict[str, Any] = {
        "lines": lines, "guessing": 20.0, "trained": 300, "held_out": 100, "own": 400,
        "psnr": 33.3, "ssim": 0.91, "missing": ("a/b.png",), "bare": (), "unused": 0,
        "examples": (), "features": "shapes", "size": 32, "seconds": 12.0,
    }  # fmt: skip
    return Findings(**(given | changed))


class TestCheck:
    def test_measures_clean_and_protected(self, folders: tuple[Path, Path], quick: Store) -> None:
        reported: list[str] = []
        found = check(*folders, size=16, store=quick, report=reported.append)
        assert (found.trained, found.held_out, found.guessing) == (24, 8, 50.0)
        by = {line.does: line for line in found.lines}
        assert len(found.lines) == len(reported) - 3 == 4 + 1 + 2 + 1 + 1
        assert reported[0].startswith(
            "8 of 32 pictures are held out: too few to show any protection"
        )
        assert reported[1].startswith("the trainings take some ")
        ends = [text.rpartition("(")[2] for text in reported[3:]]
        assert [end.partition(", some ")[0] for end in ends[:-1]] == [
            f"{n} of 9" for n in range(1, 9)
        ]
        assert ends[-1] == "9 of 9)" and all(end.endswith(" left)") for end in ends[:-1])
        swapped = by["nothing"]
        assert swapped.clean == 100 and swapped.protected == 0 and swapped.left == -1
        for does in found.lines[4].does, found.lines[-1].does:  # at twice the size, and a probe
            assert by[does].clean > 75 and by[does].protected < 25
        half = by["finding 50% of your pictures unprotected elsewhere"]
        assert half.clean == by[CROP_FLIP].clean
        assert found.missing == found.bare == () and len(found.examples) == 3

    def test_a_perfect_copy_protects_against_nothing(
        self, folders: tuple[Path, Path], quick: Store
    ) -> None:
        found = check(folders[0], folders[0], size=16, store=quick)
        assert all(line.clean == line.protected for line in found.lines)
        assert sum(line.left == 1 for line in found.lines) >= 3
        assert found.decided == []  # 8 held-out pictures, of which half would be guessed
        assert math.isnan(found.psnr)  # no pair differs
        assert len(found.bare) == found.own == 32 and "32 of 32 copies" in found.verdict

    def test_a_copy_whose_noise_is_gone_is_unprotected(
        self, folders: tuple[Path, Path], untrained: Store
    ) -> None:
        clean, made = folders
        shutil.copy(clean / "red" / "3.png", made / "red" / "3.png")
        (made / "red" / "4.png").unlink()
        photograph = picture((240, 200))
        photograph.save(clean / "red" / "4.png")
        photograph.save(made / "red" / "4.jpg", quality=75)  # JPEG coding is no noise
        reported: list[str] = []
        found = check(clean, made, size=16, store=untrained, report=reported.append)
        assert found.bare == ("red/3.png", "red/4.png")
        assert "2 of 32 copies have no noise, such as red/3.png" in reported[1]

    def test_results_do_not_depend_on_what_runs_beside(
        self, folders: tuple[Path, Path], quick: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = []
        for cores in (1, 2):
            monkeypatch.setattr(module.machine, "cores", lambda cores=cores: cores)
            lines.append(check(*folders, size=16, store=quick).lines)
        assert lines[0] == lines[1]

    def test_can_be_ended_between_epochs(
        self, folders: tuple[Path, Path], quick: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Long before the first result."""
        monkeypatch.setattr(module, "STEPS", 10**6)
        monkeypatch.setattr(module, "_foreseen_time", lambda *_: "forever")
        began = time.monotonic()
        with pytest.raises(Ended):
            check(*folders, size=16, store=quick, ended=lambda: time.monotonic() > began + 3)
        assert time.monotonic() < began + 60

    def test_a_share_is_protected_and_the_others_are_clean(self) -> None:
        clean = random_images(40, size=8)
        inverted = replace(clean, images=255 - clean.images)
        of = trial.Trial(clean, inverted, clean, guessing=33.3, seed=0)
        mixed = trial.partly_protected(of, 0.8)
        known = {one.numpy().tobytes(): (row, 0) for row, one in enumerate(clean.images)}
        known |= {one.numpy().tobytes(): (row, 1) for row, one in enumerate(inverted.images)}
        found = [known[one.numpy().tobytes()] for one in mixed.images]
        assert sorted(row for row, _ in found) == list(range(40))
        assert sum(protected for _, protected in found) == 32
        assert mixed.labels.tolist() == [int(clean.labels[row]) for row, _ in found]

    def test_features_of_imagenet_end_before_its_classes(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(module, "resnet18", lambda weights: resnet18())
        named, backbone = module._backbone("imagenet", Store(tmp_path))
        assert "ImageNet" in named
        assert module.features(backbone, random_images(2, size=64)).shape == (2, 512)

    def test_copies_in_another_format_are_found(
        self, folders: tuple[Path, Path], untrained: Store
    ) -> None:
        clean, made = folders
        (made / "red" / "0.png").rename(made / "red" / "0.webp")
        (made / "red" / "1.png").rename(made / "red" / "1.png.png")
        (made / "red" / "2.png").unlink()
        (made / "red" / "3.png").write_bytes(b"broken")
        found = check(clean, made, size=16, store=untrained)
        assert found.missing == ("red/2.png",) and found.unused == 1
        assert found.trained + found.held_out == 30

    def test_one_person_among_others(self, folders: tuple[Path, Path], quick: Store) -> None:
        clean, made = folders
        for number in range(16):  # another folder of that name
            write(clean.parent / "them", "red", f"{number}.png", (200, 140, 60), number)
        found = check(
            clean / "red", made / "red", others=clean.parent / "them", size=16, store=quick
        )
        assert found.among_others and (found.trained, found.held_out) == (24, 4)
        assert found.guessing == 50.0  # half of the training pictures are one's own
        nothing = next(line for line in found.lines if line.does == "nothing")
        # One's own are red, published as blue; red is nearer to the orange of the others.
        assert nothing.clean == 100 and nothing.protected < 50
        assert {label for *_, label in found.examples} == {"red"} and found.unused == 0

    def test_an_own_class_is_own_whatever_its_name(
        self, folders: tuple[Path, Path], tmp_path: Path, untrained: Store
    ) -> None:
        """Also where it is called what the class of other people is printed as."""
        for folder in folders:
            (folder / "red").rename(folder / str(Label("x", own=False)))
        for number in range(8):
            write(tmp_path / "them", "x", f"{number}.png", (200, 140, 60), number)
        found = check(*folders, others=tmp_path / "them", size=16, store=untrained)
        assert (found.trained, found.held_out) == (12 + 12 + 6, 4 + 4)
        assert found.guessing == pytest.approx(100 * 12 / 30)
        assert {pair.label for pair in found.examples} == {str(Label("x", own=False)), "blue"}
        assert found.unused == 0

    def test_own_classes_do_not_stand_for_others(
        self, folders: tuple[Path, Path], tmp_path: Path
    ) -> None:
        for folder in folders:
            (folder / "red").rename(folder / str(Label("x", own=False)))
        (tmp_path / "them").mkdir()
        with pytest.raises(Refused, match="pictures of others"):
            check(*folders, others=tmp_path / "them", size=16)

    def test_a_copy_is_not_given_to_two(self, tmp_path: Path) -> None:
        for name in ("x.png", "x.bmp"):
            write(tmp_path / "clean", "a", name, (9, 9, 9))
        write(tmp_path / "made", "a", "x.png", (9, 9, 9))
        pairs, missing = copies_of(tmp_path / "clean", tmp_path / "made")
        assert len(pairs) == 1 and missing == ["a/x.bmp"]

    def test_a_copy_belongs_to_the_one_of_two_that_can_be_protected(self, tmp_path: Path) -> None:
        clean, made = tmp_path / "clean", tmp_path / "made"
        for label in "ab":
            write(clean, label, "x.png", (90, 90, 90))
        Image.new("RGB", (9, 9)).save(clean / "a" / "x.jpg")
        protect(clean, made, Job(format="jpg"))
        pairs, missing = copies_of(clean, made)
        assert [(old.name, new.name) for old, new, _ in pairs] == [("x.png", "x.jpg")] * 2
        assert missing == ["a/x.jpg"]

    def test_a_copy_whose_name_has_another_umlaut(self, tmp_path: Path) -> None:
        write(tmp_path / "clean", "a", "\u00fc.png", (9, 9, 9))
        write(tmp_path / "made", "a", "u\u0308.png", (9, 9, 9))
        pairs, missing = copies_of(tmp_path / "clean", tmp_path / "made")
        assert len(pairs) == 1 and missing == []

    def test_pictures_that_cannot_be_protected_have_no_copy(self, tmp_path: Path) -> None:
        for place in ("clean", "made"):
            write(tmp_path / place, "a", "x.png", (9, 9, 9))
        (tmp_path / "clean" / "a" / "phone.heic").write_bytes(b"?")
        _, missing = copies_of(tmp_path / "clean", tmp_path / "made")
        assert missing == ["a/phone.heic"]

    def test_too_few_pictures_for_a_result_are_reported_before_any_training(
        self, folders: tuple[Path, Path], untrained: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for folder in folders:
            for file in folder.glob("*/?.png"):
                if int(file.stem) > 3:
                    file.unlink()
            for file in folder.glob("*/??.png"):
                file.unlink()
        reported: list[str] = []

        def trained(*_: Any) -> Any:
            reported.append("a training")
            return "nothing", torch.nn.Flatten()

        monkeypatch.setattr(module, "_backbone", trained)
        found = check(*folders, size=16, store=untrained, report=reported.append)
        assert found.held_out == 2 and found.undecided == list(found.lines)
        assert "too few to show any protection, or its failure" in reported[0]
        assert reported[3] == "a training"

    def test_too_little_is_refused(self, tmp_path: Path) -> None:
        for number in range(3):
            write(tmp_path / "a", "red", f"{number}.png", (200, 0, 0))
            write(tmp_path / "a", "blue", f"{number}.png", (0, 0, 200))
        write(tmp_path / "b", "green", "x.png", (0, 200, 0))
        with pytest.raises(Refused, match="two classes or more with 4 readable pictures"):
            check(tmp_path / "a", tmp_path / "a")
        with pytest.raises(Refused, match="has no copy of a picture"):
            check(tmp_path / "a", tmp_path / "b")
        with pytest.raises(Refused, match="not a folder"):
            check(tmp_path / "a", tmp_path / "none")


def test_too_few_of_ones_own_among_others(folders: tuple[Path, Path], tmp_path: Path) -> None:
    clean, made = folders
    (tmp_path / "few").mkdir()
    shutil.copy(clean / "red" / "0.png", tmp_path / "few")
    with pytest.raises(Refused, match="4 or more readable pictures of your own"):
        check(tmp_path / "few", made / "red", others=clean, size=16)


def test_too_few_of_others(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Else the report would be one without others, and not say so."""
    (tmp_path / "few").mkdir()
    for others in (tmp_path / "few", tmp_path / "few"):
        with pytest.raises(Refused, match="4 or more readable pictures of others"):
            check(*folders, others=others, size=16)
        shutil.copy(folders[0] / "red" / "0.png", tmp_path / "few")


def test_held_out_pictures_are_in_no_training() -> None:
    images = random_images(41)
    train, test = trial._training_and_held_out_rows(images, 0)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(41))
    for label in range(3):
        assert 3 <= int((images.labels[test] == label).sum()) <= 4


def test_features_are_of_another_network_on_other_pictures(tmp_path: Path) -> None:
    from ulelib import profiles

    with pytest.MonkeyPatch.context() as patch:
        from helpers import quick_profile

        patch.setitem(profiles.PROFILES, "smoke", quick_profile())
        named, backbone = module._backbone("shapes", Store(tmp_path))
    assert named == "ten drawn shapes"
    assert backbone(torch.rand(2, 3, 32, 32)).shape == (2, 8)


class TestReport:
    def test_says_what_it_does_not_protect_against(self, tmp_path: Path) -> None:
        page, json_file = write_report(findings(), tmp_path / "r.html")
        text = page.read_text(encoding="utf-8")
        assert "turning them gray: 80.0 % on protected pictures" in text
        assert text.index("turning them gray") < text.index("blurring them")
        assert "&lt;b&gt;" in text and "<b>" not in text  # a folder's names are no HTML
        assert "http" not in text.replace("<!doctype html>", "")
        numbers = json.loads(json_file.read_text(encoding="utf-8"))
        assert numbers["lines"][2]["left"] is None and numbers["psnr"] == 33.3
        assert numbers["fails"] == ["turning them gray", "blurring them"]
        assert numbers["withstood"] == ["nothing"]
        assert numbers["verdict"] in text and text.index(numbers["verdict"]) < text.index("<table>")
        assert [line["undecided"] for line in numbers["lines"]] == [False, False, True, False]

    def test_says_of_which_folders_it_is(self, tmp_path: Path) -> None:
        of = findings(folders=(Path("my <i>"), Path("made")), seed=3)
        page, json_file = write_report(of, tmp_path / "r.html")
        assert "my &lt;i&gt;; protected: made" in page.read_text(encoding="utf-8")
        numbers = json.loads(json_file.read_text(encoding="utf-8"))
        assert (numbers["folders"], numbers["seed"]) == (["my <i>", "made"], 3)
        assert numbers["date"] in page.read_text(encoding="utf-8")

    def test_without_failures_it_promises_nothing(self, tmp_path: Path) -> None:
        page, _ = write_report(findings(lines=findings().lines[:1]), tmp_path / "r.html")
        text = page.read_text(encoding="utf-8")
        assert "were not tried" in text and "It never protects against" in text

    def test_names_copies_without_noise(self, tmp_path: Path) -> None:
        page, _ = write_report(findings(bare=("red/<3>.png",)), tmp_path / "r.html")
        text = page.read_text(encoding="utf-8")
        assert "Pictures whose copy has no noise" in text and "red/&lt;3&gt;.png" in text
        assert "1 of 400 copies have no noise: they are unprotected" in text

    def test_what_clean_pictures_did_not_teach_is_no_protection(self, tmp_path: Path) -> None:
        few = findings(lines=(Line("nothing", 25.0, 20.0, 0.0), Line("gray", 15.0, 15.0, math.nan)))
        assert few.fails == few.withstood == [] and len(few.undecided) == 2
        page, _ = write_report(few, tmp_path / "r.html")
        text = page.read_text(encoding="utf-8")
        assert "2 of 2 trainings say nothing" in text and "None of the filters" not in text
        assert "With 400 pictures no protection could be shown" in text

    def test_what_chance_may_have_spared_is_no_protection(self, tmp_path: Path) -> None:
        """Guessing 20, clean 90: protection has failed beyond 55."""
        near, far = Line("nothing", 90.0, 54.0, 0.49), Line("gray", 90.0, 20.0, 0.0)
        found = findings(lines=(near, far))
        assert found.fails == [] and found.undecided == [near] and found.withstood == [far]
        page, _ = write_report(found, tmp_path / "r.html")
        text = page.read_text(encoding="utf-8")
        assert "1 of 2 trainings say nothing" in text and text.count("may be chance</td>") == 1

    def test_the_middle_is_compared_of_copies_of_the_same_size(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(copies, "WIDEST", 16)
        pixels = np.random.default_rng(0).integers(50, 200, (24, 30, 3), dtype=np.uint8)
        files = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
        moved = pixels.copy()
        moved[4:20, 7:23] += 10
        moved[:4] = 0  # beyond the middle
        for file, one in zip(files, (pixels, moved, moved[:, 1:]), strict=True):
            Image.fromarray(one).save(file)
        psnr, ssim = similarity([Pair(files[0], files[1], "x"), Pair(files[0], files[2], "x")])
        assert psnr == pytest.approx(20 * math.log10(255 / 10), abs=1e-3) and 0.9 < ssim < 1

    def test_copies_that_do_not_differ_have_no_psnr(self, tmp_path: Path) -> None:
        page, _ = write_report(findings(psnr=math.nan, ssim=math.nan), tmp_path / "r.html")
        text = page.read_text(encoding="utf-8")
        assert "No copy of the same size differs" in text and "nan" not in text

    def test_shows_pictures(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        pair = Pair(folders[0] / "red" / "0.png", folders[1] / "red" / "0.png", "red")
        page, _ = write_report(findings(examples=(pair,)), tmp_path / "r.html")
        assert page.read_text(encoding="utf-8").count("data:image/png;base64,") == 3


class TestVerdict:
    def test_a_line_among_many_must_be_clearer(self) -> None:
        """One of 16 lines is at 5 % by chance in more than half of all checks."""
        line, rest = Line("mixup", 60.0, 52.0, 0.8), Line("x", 25.0, 21.0, 0.2)
        assert findings(lines=(line,)).fails == [line]
        assert findings(lines=(line, *[rest] * 15)).fails == []

    def test_chance_alone_seldom_says_anything(self) -> None:
        """Where half is left in truth, one check in 20 at most has any line that says something."""
        rng, wrong, checks = np.random.default_rng(0), 0, 400
        for _ in range(checks):
            counts = rng.binomial(40, [[0.9, 0.55]] * 16)
            lines = [Line("x", *map(float, 100 * row / 40), left=0.4) for row in counts]
            wrong += bool(findings(lines=tuple(lines), held_out=40).decided)
        assert wrong <= 0.05 * checks + 2 * math.sqrt(0.05 * 0.95 * checks)

    @pytest.mark.parametrize(
        ("lines", "verdict"),
        [
            ([(90, 20)], "Protection was shown against 1 of 1 ways to train."),
            ([(90, 90)], "The protection fails against 1 of 1 ways to train."),
            (
                [(90, 20), (90, 90), (20, 20)],
                "The protection fails against 1 of 3 ways to train, and was shown against 1; with "
                "400 pictures nothing can be said about the other 1.",
            ),
            ([(20, 20)], "With 400 pictures no protection could be shown, and no failure of it."),
        ],
    )
    def test_is_one_sentence(self, lines: list[tuple[float, float]], verdict: str) -> None:
        made = [
            Line("x", clean, kept, (kept - 20) / (clean - 20) if clean > 20 else math.nan)
            for clean, kept in lines
        ]
        assert findings(lines=tuple(made)).verdict == verdict

    def test_what_can_be_said_is_known_before(self) -> None:
        few = foreseen(40, 10, 10.0, 16)
        assert few.startswith("10 of 40 pictures are held out: too few to show any protection")
        assert "Only that it fails" in few and "Use 70 pictures or more" in few
        assert "or its failure. Use 180 pictures" in foreseen(40, 10, 50.0, 16)
        assert "leaves 32% or less" in foreseen(400, 100, 10.0, 16)
