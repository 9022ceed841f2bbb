"""The command `ulelib arena`: an author's poison as a row of the arena.

Only click is imported here: everything else is when the command runs, so that the other commands
start fast and need less.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import click

NEEDED = ("matplotlib", "seaborn", "scipy", "torchmetrics")  # of the extra `book`
INTERRUPTED = "stopped. What was finished is kept: the same command goes on from there"


@click.command(name="arena")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="Of the row. The file's own name if it is left out.")
@click.option(
    "--profile",
    type=click.Choice(["smoke", "cpu", "paper"]),
    default="cpu",
    show_default=True,
    help="Images, network and training: `cpu` is 20,000 images of CIFAR-10 and a small network.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 20),
    default=1,
    show_default=True,
    help="Trainings a cell. Below three, a number is no verdict.",
)
@click.option(
    "--exploiters",
    metavar="NAMES",
    help='The columns, separated by commas: --exploiters "standard, gray". The arena\'s own if '
    "left out.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("arena"),
    show_default=True,
    help="Folder for NAME.csv and NAME.png.",
)
def arena_command(
    file: Path, name: str | None, profile: str, seeds: int, exploiters: str | None, out: Path
) -> None:
    """Measure the poison in FILE as the arena measures its own.

    FILE is what an author published, for all training images of CIFAR-10 in their official order
    (or, as pictures, in any order), or for the images of the profile:

    \b
      a folder or zip of PNG files named by number, 0.png, 1.png, ...
      .npy    pictures or noise
      .npz    `data` and perhaps `targets`
      .pt     a tensor, or a dictionary with `data` and perhaps `labels`

    Noise may be in [-1, 1] or in gray levels, one for each image or each class. No code in the file
    is run: pickles are refused. The clean images and the poison are learned with each exploiter; a
    command that was stopped goes on where it was.
    """
    missing = [one for one in NEEDED if find_spec(one) is None]
    if missing:
        raise click.ClickException(
            f"`ulelib arena` needs {', '.join(missing)}: pip install 'ulelib[book]'"
        )
    try:
        _run(file, name or file.stem, profile, seeds, exploiters, out)
    except (ValueError, OSError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    except ExceptionGroup as failed:  # `plan.PlanFailed`
        told = "; ".join(f"{error}" for error in failed.exceptions)
        raise click.ClickException(f"{failed.message}: {told}") from failed
    except KeyboardInterrupt:
        raise click.ClickException(INTERRUPTED) from None


def _run(
    file: Path, name: str, profile: str, seeds: int, exploiters: str | None, out: Path
) -> None:
    from ulelib import files
    from ulelib.book import submission

    columns = list(submission.COLUMNS)
    if exploiters is not None:
        columns = [one.strip() for one in exploiters.split(",") if one.strip()]
    if not columns:
        raise ValueError("--exploiters names none")
    submission.check_name(name, profile)
    lab = submission.open_lab(profile, seeds)
    found = submission.submit(file, lab)
    for line in found.told:
        click.echo(line)
    files.check_writable(out, "name another folder with --out")
    cells = submission.cells_of(lab, name, found.noise, columns)
    click.echo(f"{submission.caption(lab)}: {submission.forecast(lab, cells)}")
    sys.stdout.flush()  # before the progress bar of the trainings
    lines = submission.table(submission.measure(lab, cells))
    click.echo(f"\n{name}\n{submission.text(lines)}")
    laid_out = submission.beside(lines, lab)
    if place := submission.place(laid_out, name, seeds):
        click.echo(place)
    written = submission.write(lines, laid_out, lab, name, out)
    click.echo(f"Written: {' and '.join(map(str, written))}")
