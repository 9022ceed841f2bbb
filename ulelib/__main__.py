"""The command `ulelib`, also `python -m ulelib`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, get_args

import click
from tqdm import tqdm

from ulelib import __version__, machine
from ulelib.check import Features, check, check_writable, write_report
from ulelib.protect import FORMATS, METHODS, SIZE, SIZES, Job, protect, shown

UNFINISHED = (
    "stopped. The output folder is not finished: do not publish it. The same command goes on from "
    "where it was"
)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Unlearnable examples: protect pictures from being learned."""
    machine.keep_freed_memory()


@main.command(name="protect")
@click.argument("folder", metavar="PICTURES", type=FOLDER)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="New folder for what is written."
)
@click.option(
    "--others",
    type=FOLDER,
    help="Pictures of other people, which stay as they are: PICTURES are hidden among them.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default=Job.method,
    show_default=True,
    help='How noise is made; "ULEO class-wise" in quotes. CSD takes seconds, the others, for which '
    "a network is trained, minutes.",
)
@click.option(
    "--strength",
    type=int,
    default=Job.strength,
    show_default=True,
    help="The most that a channel of a pixel changes, 1 to 64 gray levels, before JPEG or WebP "
    "coding. 16 may show; 8 is hard to see, and the default method then protects far less.",
)
@click.option(
    "--size",
    type=int,
    default=Job.size,
    help=f"Pixels a side at which noise is made: 8 to 512 for CSD, if left {SIZES['CSD']}; 16 to "
    f"512 for others, if left {SIZE}. Noise of few pixels is smooth: networks that see little "
    "detail see it, too. A gray filter undoes CSD of 8 or 16 pixels.",
)
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    default=Job.format,
    show_default=True,
    help="Of the written pictures: each its own, or one for all.",
)
@click.option(
    "--quality",
    type=int,
    help="Of JPEG and WebP, 1 to 100; if left, a JPEG keeps its own, a WebP about its size, and "
    "what becomes a JPEG has 95.",
)
@click.option("--drop-location", is_flag=True, help="Leave out where pictures were taken.")
@click.option(
    "--seed", type=int, default=Job.seed, show_default=True, help="Of what is drawn at random."
)
def protect_command(folder: Path, out: Path, others: Path | None, **options: Any) -> None:
    """Protect PICTURES, one folder for each class (or person), into a new folder.

    JPEG, PNG, BMP and WebP are read; the originals stay as they are. Names, sizes, orientation,
    colour profiles and transparency are kept where the written format can, and what is not is
    told. A run that was stopped goes on with the same command.
    What the protection is worth depends on who uses the pictures, and how: ask `ulelib check`
    before you rely on it.
    """
    try:
        job = Job(**options)
    except ValueError as error:  # settings go by their options' names
        raise click.ClickException(str(error).replace("Job.", "--")) from error
    try:
        report = protect(folder, out, job, others, report=tqdm.write)
    except (ValueError, OSError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException(UNFINISHED) from None
    asked = ["ulelib", "check", shown(folder), shown(out)]
    asked += ["--others", shown(others)] if others else []
    told = f"They are in {shown(out)}. What that is worth: {shlex.join(asked)}"
    for line in (*report.lines(), told):
        click.echo(line)


@main.command(name="check")
@click.argument("clean", metavar="PICTURES", type=FOLDER)
@click.argument("protected", metavar="PROTECTED", type=FOLDER)
@click.option(
    "--others",
    type=FOLDER,
    help="Pictures of other people, if PICTURES were protected among them.",
)
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("protection.html"),
    show_default=True,
    help="HTML page to write, in the place of one that is there; the numbers stand beside it as "
    "JSON.",
)
@click.option(
    "--size",
    type=click.IntRange(16, 256),
    default=32,
    show_default=True,
    help="Pixels a side to which an exploiter scales the pictures.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 10_000),
    default=0,
    show_default=True,
    help="Of what is held out, and of the trainings.",
)
@click.option(
    "--features",
    "features_of",
    type=click.Choice(get_args(Features)),
    default="auto",
    show_default=True,
    help="What the network was trained on whose features a linear classifier gets. ImageNet's is "
    "downloaded.",
)
def check_command(clean: Path, protected: Path, page: Path, **options: Any) -> None:
    """Measure what the protection of PICTURES in PROTECTED is worth.

    Part of the clean pictures is held out; small networks are trained on the rest, clean and
    protected, after some of what an exploiter can easily do. The report says what of it the
    protection does not withstand, with a number for each, and what was not tried.
    """
    try:
        check_writable(page)
        findings = check(clean, protected, report=tqdm.write, **options)
    except (ValueError, OSError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    telling = len(findings.lines) - len(findings.undecided)
    if telling:
        click.echo(
            f"Of {telling} trainings that say something, the protection does not withstand "
            f"{len(findings.fails)}{':' * bool(findings.fails)}"
        )
    for line in findings.fails:
        click.echo(f"  {line.does}: {line.protected:.1f} %, on clean pictures {line.clean:.1f} %")
    if findings.undecided:
        click.echo(
            f"{len(findings.undecided)} of {len(findings.lines)} trainings say nothing about the "
            "protection: with so few pictures their numbers may be chance."
        )
    try:
        page, numbers = write_report(findings, page)
    except OSError as error:
        raise click.ClickException(f"the report cannot be written: {error}") from error
    click.echo(f"The whole report: {page}, as numbers: {numbers}")


if __name__ == "__main__":
    main()
