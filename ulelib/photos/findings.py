"""What a check found: each exploiter's accuracy, and what can be said from so many pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ulelib.photos.copies import Pair

# Protection fails where it leaves more than this share of the clean accuracy above guessing.
FAILURE = 0.5
# Probability that anything at all is said that is only chance, in the whole report.
CHANCE = 0.05
MOST_SEARCHED = 10_000  # held-out pictures


@dataclass(frozen=True)
class Line:
    """One exploiter's accuracy on held-out clean pictures, in percent.

    Attributes:
        does: what it does with the pictures, in words.
        clean, protected: accuracy after training on clean pictures, and on protected ones.
        left: share of the clean accuracy above guessing that is left on protected pictures; NaN
            where clean training is no better than guessing.
    """

    does: str
    clean: float
    protected: float
    left: float


@dataclass(frozen=True)
class Findings:
    """What `check` measured.

    Attributes:
        lines: one for each exploiter.
        guessing: accuracy of always naming the largest class, in percent.
        trained, held_out: numbers of pictures.
        own: number of one's own pictures, trained on or held out.
        psnr, ssim: see `similarity`.
        missing: printable names of pictures without a copy.
        bare: printable names of pictures whose copy has no noise (see `trial.Read.bare`).
        unused: number of pairs that cannot be read, or are of a class with too few pictures.
        examples: a few pictures and their copies.
        features: what the network was trained on whose features the linear classifier gets.
        size: pixels a side in all trainings, except that of `USUAL`: that gets twice as many.
        seconds: duration of the check.
        among_others: whether pictures of other people were in all trainings.
        folders: of the pictures, of their copies and, if given, of the pictures of others.
        seed: of the division and of all trainings.
    """

    lines: tuple[Line, ...]
    guessing: float
    trained: int
    held_out: int
    own: int
    psnr: float
    ssim: float
    missing: tuple[str, ...]
    bare: tuple[str, ...]
    unused: int
    examples: tuple[Pair, ...]
    features: str
    size: int
    seconds: float
    among_others: bool = False
    folders: tuple[Path, ...] = ()
    seed: int = 0

    @property
    def fails(self) -> list[Line]:
        """The exploiters that the pictures are not protected against, the worst first."""
        found = [line for line in self.decided if line.left > FAILURE]
        return sorted(found, key=lambda line: -line.left)

    @property
    def withstood(self) -> list[Line]:
        """The exploiters that learn less than half of what clean pictures teach."""
        return [line for line in self.decided if line.left <= FAILURE]

    @property
    def decided(self) -> list[Line]:
        """The lines that say something: all of them together are wrong in 1 of 20 checks at most,
        as far as the choice of the held-out pictures goes (Holm's correction)."""
        chances = [_by_chance(line, self.guessing, self.held_out) for line in self.lines]
        order = sorted(range(len(chances)), key=chances.__getitem__)
        decided = set[int]()
        for place, number in enumerate(order):
            if chances[number] > CHANCE / (len(order) - place):
                break
            decided.add(number)
        return [line for number, line in enumerate(self.lines) if number in decided]

    @property
    def undecided(self) -> list[Line]:
        """The lines whose numbers may be chance with so few held-out pictures."""
        decided = self.decided
        return [line for line in self.lines if line not in decided]

    @property
    def verdict(self) -> str:
        """The findings in one or two sentences."""
        total, failed, stood = len(self.lines), len(self.fails), len(self.withstood)
        if not failed and not stood:
            said = f"With {self.own} pictures no protection could be shown, and no failure of it"
        elif not failed:
            said = f"Protection was shown against {stood} of {total} ways to train"
        elif not stood:
            said = f"The protection fails against {failed} of {total} ways to train"
        else:
            said = (
                f"The protection fails against {failed} of {total} ways to train, and was shown "
                f"against {stood}"
            )
        if failed + stood and (rest := total - failed - stood):
            said += f"; with {self.own} pictures nothing can be said about the other {rest}"
        if self.bare:
            said += f". {len(self.bare)} of {self.own} copies have no noise: they are unprotected"
        return said + "."


def _by_chance(line: Line, guessing: float, count: int) -> float:
    """Probability that chance alone gives a line as clear as this one: the larger of those that
    clean training only guesses, and that the protection leaves just `FAILURE`.

    Normal approximation with two right and two wrong answers added to each accuracy: without them
    it is too sure where an accuracy is near 100 %.

    Args:
        line, guessing: accuracies in percent.
        count: held-out pictures.
    """
    learned, kept, guess = _moved(line.clean, count), _moved(line.protected, count), guessing / 100
    more = learned - guess
    far = (kept - guess) - FAILURE * more
    error = math.sqrt(_variance(kept, count) + FAILURE**2 * _variance(learned, count))
    guessed = _tail(more / math.sqrt(max(_variance(learned, count), guess * (1 - guess) / count)))
    return max(guessed, 2 * _tail(abs(far) / error))


def _moved(percent: float, count: int) -> float:
    return (percent / 100 * count + 2) / (count + 4)


def _variance(share: float, count: int) -> float:
    return share * (1 - share) / count


def _tail(deviations: float) -> float:
    """Probability that a normal variable is so many standard deviations or more above its mean."""
    return math.erfc(deviations / math.sqrt(2)) / 2


def foreseen(own: int, held_out: int, guessing: float, rows: int) -> str:
    """What can be said with so many pictures, in a line of text, before anything is trained.

    Args:
        own: one's own pictures.
        held_out: how many of them are held out.
        guessing: see `Findings`.
        rows: lines that the findings will have.
    """
    begin = f"{held_out} of {own} pictures are held out"
    shown = _clear(held_out, guessing, rows)
    if shown is None:
        more = range(held_out, MOST_SEARCHED)
        clear = (count for count in more if _clear(count, guessing, rows) is not None)
        enough = next(clear, MOST_SEARCHED) * own / held_out
        useless = Line("", 100.0, 100.0, 1.0)
        failure = _by_chance(useless, guessing, held_out) <= CHANCE / rows
        return (
            f"{begin}: too few to show any protection"
            + (". Only that it fails completely could be seen" if failure else ", or its failure")
            + f". Use {10 * math.ceil(enough / 10)} pictures or more"
        )
    most = f"{shown:.0%} or less" if shown >= 0.01 else "next to nothing"
    return (
        f"{begin}. Where programs learn the clean pictures well, this can show protection that "
        f"leaves {most} of what they learn; what leaves about half stays undecided"
    )


def _clear(count: int, guessing: float, rows: int) -> float | None:
    """The largest share left of perfect learning that all rows together show to be protection; None
    if not even guessing does."""
    right = math.ceil(guessing / 100 * count)
    shown = []
    for kept in range(right, count):
        left = (100 * kept / count - guessing) / (100 - guessing)
        line = Line("", 100.0, 100 * kept / count, left)
        if left <= FAILURE and _by_chance(line, guessing, count) <= CHANCE / rows:
            shown.append(left)
    return max(shown, default=None)
