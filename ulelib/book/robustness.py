"""The robustness table: the headline's claims on every network and at every size that has them.

found = robustness.judged()          one row a predicate and place
robustness.table(found)              the same as text: predicates down, places across
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from ulelib.book import claims
from ulelib.book.printed import row_of
from ulelib.book.tables import styled, tint
from ulelib.book.verdict import retained
from ulelib.defenders import CLEAN
from ulelib.jobs import replicates

COLUMNS = ("claim", "cell", "place", "mean", "clean", "n", "outcome")  # of `judged`
LADDER = "05e_what_scale_changes"  # a page
CELLS = ("exact standard", "exact gray", "as_released standard", "as_released gray")  # of `runs`
PAGE = "05_grayaug"  # whose claims these are
HEADLINE = (
    "uleo-stops-standard-training",
    "gray-defeats-uleo",
    "grayaugs-protects-with-and-without-gray",
)


@dataclass(frozen=True)
class Place:
    """Where claims were measured: a network and a size. Defender and exploiter have the network.

    Attributes:
        profile, page: whose record.
        net: what the network's text begins with; "": any.
        variant: what stands in brackets behind the names of its defenders, "": nothing.
        setting: of its cells.
    """

    profile: str
    page: str
    net: str = ""
    variant: str = ""
    setting: str = "-"


PLACES = {
    "small convnet, 20,000 images": Place("cpu", "05_grayaug"),
    "first layer learned, 20,000 images": Place(
        "cpu", "05b_what_decides", "convnet (stem learned", "learned stem"
    ),
    "VGG-11, width 1/4, 20,000 images": Place("cpu", "06_cross_model", "vgg11"),
    "DenseNet-121, width 3/8, 20,000 images": Place("cpu", "06_cross_model", "densenet121"),
    "ResNet-10, width 1/4, 20,000 images": Place("cpu", "06_cross_model", "resnet18"),
    "ResNet-10, width 1/4, 10,000 images": Place(
        "cpu", LADDER, "resnet18", setting="ResNet-10, width 1/4"
    ),
    "ResNet-18, width 1/4, 10,000 images": Place(
        "cpu", LADDER, "resnet18", setting="ResNet-18, width 1/4"
    ),
    "ResNet-10, width 1/4, twice the updates": Place(
        "cpu", LADDER, "resnet18", setting="ResNet-10, twice the updates"
    ),
    "ResNet-10, width 1/4, twice the images": Place(
        "cpu", LADDER, "resnet18", setting="ResNet-10, twice the images"
    ),
    "ResNet-18, width 1/4, all the images": Place("quarter", "05f_quarter_width"),
    "ResNet-18, the paper's size": Place("paper", "05d_full_size"),
}


def judged(places: Mapping[str, Place] = PLACES) -> pd.DataFrame:
    """The predicates of the headline's claims, judged in each place that has a record.

    Returns:
        columns claim (its sentence), cell ("ULEO, exact, gray"), place; mean and clean, the
        accuracies of the cell and of clean images over the seeds that both have, percent; n, how
        many these are; outcome, of `claims.OUTCOMES`.
    """
    lines = []
    for name, place in places.items():
        try:
            frame = _rows(replicates.read(place.page, place.profile)[0], place)
        except FileNotFoundError:
            continue
        outcomes = claims.judge(place.profile, {PAGE: frame})
        for claim in claims.load():
            if claim["id"] in HEADLINE:
                mine = outcomes[outcomes["id"] == claim["id"]]
                for test, found in zip(claim["test"], mine.itertuples(), strict=True):
                    mean, clean = _means(frame, test["left"], test["right"])
                    lines.append(
                        {
                            "claim": claims.stated(claim["sentence"], found.fixed),
                            "cell": _cell(test["left"]),
                            "place": name,
                        }
                        | {"mean": mean, "clean": clean, "n": found.n, "outcome": found.outcome}
                    )
    return pd.DataFrame(lines, columns=[*COLUMNS])


def runs(places: Mapping[str, Place]) -> pd.DataFrame:
    """What each run of ULEO leaves, on the places that have a record.

    Returns:
        columns size (the place), seed, and one for each export and exploiter (`CELLS`) with
        `verdict.retained`, against the mean of the clean runs of the same exploiter; NaN where a
        cell was not run.
    """
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for name, place in places.items():
        try:
            frame = _rows(replicates.read(place.page, place.profile)[0], place)
        except FileNotFoundError:
            continue
        clean = frame[frame["defender"] == CLEAN].groupby("exploiter")["accuracy"].mean()
        for row in frame[frame["defender"] == "ULEO"].itertuples():
            line = lines.setdefault((name, row.seed), {"size": name, "seed": row.seed})
            left = retained(row.accuracy, clean[row.exploiter], row.chance)
            line[f"{row.export} {row.exploiter}"] = left
    return pd.DataFrame(list(lines.values()), columns=["size", "seed", *CELLS])


def _rows(frame: pd.DataFrame, place: Place) -> pd.DataFrame:
    """The rows of a place, with the names that the claims have."""
    frame = frame.assign(setting=frame.get("setting", "-"))
    own = (frame["source"] == "-") | (frame["source"] == frame["net"])
    clean = frame["defender"] == CLEAN
    suffix = f" ({place.variant})" if place.variant else ""
    named = frame["defender"] == frame["defender"].map(row_of) + suffix
    here = frame["net"].str.startswith(place.net) & (frame["setting"] == place.setting)
    rows = frame[own & here & (clean | named)]
    return rows.assign(defender=rows["defender"].map(row_of), setting="-")


def _means(frame: pd.DataFrame, *selectors: Mapping[str, str]) -> list[float]:
    """The mean accuracy of each cell over the seeds that all of them have, as claims are judged."""
    runs = []
    for selector in selectors:
        chosen = (frame[[*selector]] == pd.Series(selector)).all(axis=1)
        runs.append(frame[chosen].set_index("seed")["accuracy"])
    return [float(mean) for mean in pd.concat(runs, axis=1, join="inner").mean()]


def _cell(selector: Mapping[str, Any]) -> str:
    return ", ".join(str(value).replace("_", " ") for value in selector.values())


def table(found: pd.DataFrame) -> pd.DataFrame:
    """As text: a row a place, a column a predicate, "62.6 of 83.1 (5)" and the outcome below.

    Args:
        found: of `judged`.
    """
    if found.empty:
        return found
    texts = found.assign(
        text=[
            f"{row.mean:.1f} of {row.clean:.1f} ({row.n})\n{row.outcome}" if row.n else ""
            for row in found.itertuples()
        ]
    )
    laid_out = texts.pivot(index="place", columns="cell", values="text")
    laid_out = laid_out.loc[found["place"].unique(), found["cell"].unique()]
    return laid_out.rename_axis(columns=None).reset_index()


def numbers(found: pd.DataFrame) -> Mapping[tuple[str, str], str]:
    """For sentences: "12.9 of 85.6 % (n = 5)" by place and cell; "not measured" elsewhere."""
    texts = defaultdict[tuple[str, str], str](lambda: "not measured")
    for row in found[found["n"] > 0].itertuples():
        texts[row.place, row.cell] = f"{row.mean:.1f} of {row.clean:.1f} % (n = {row.n})"
    return texts


def style(found: pd.DataFrame, caption: str) -> Styler:
    """`table` as HTML for a page, outcomes tinted."""
    rules = {"td, th": "text-align: left; vertical-align: top; white-space: pre-wrap;"}
    styler: Styler = styled(table(found), caption, 0.72, rules).map(tint, tints=claims.TINTS)
    return styler
