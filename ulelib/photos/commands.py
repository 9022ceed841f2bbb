"""The commands `ulelib protect`, `ulelib preview` and `ulelib check`."""

from __future__ import annotations

import io
import shlex
import sys
from pathlib import Path
from typing import Any, get_args

import click
from tqdm import tqdm

from ulelib import __version__, machine
from ulelib.photos.check import FeatureSource, check
from ulelib.photos.findings import Findings
from ulelib.photos.job import FORMATS, METHODS, SIZE, SIZES, Job
from ulelib.photos.names import printable
from ulelib.photos.preview import check_new, preview
from ulelib.photos.protect import protect
from ulelib.photos.report import check_writable, write_report

INTERRUPTED = (
    "stopped. The output folder is not finished: do not publish it. The same command continues "
    "the work"
)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
EXPECTED = (ValueError, OSError, RuntimeError)  # errors whose message is for the user
METHOD = click.option(
    "--method",
    type=click.Choice(METHODS),
    default=Job.method,
    show_default=True,
    help='How the noise is made; put "ULEO class-wise" in quotes. CSD takes seconds; the others '
    "train a network, which takes minutes.",
)
WORKING_SIZE = click.option(
    "--size",
    type=int,
    default=Job.size,
    help=f"Pixels a side at which the noise is made: 8 to 512 for CSD, default {SIZES['CSD']}; 16 "
    f"to 512 for the others, default {SIZE}. A small size gives smooth noise, which also works on "
    "networks that see little detail. A gray filter undoes CSD of 8 or 16 pixels.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def commands() -> None:
    """Unlearnable examples: protect pictures from being learned, and measure protections."""
    machine.prepare()
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack the letters of a file's name
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@commands.command(name="protect")
@click.argument("folder", metavar="PICTURES", type=FOLDER)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="New folder for the protected pictures.",
)
@click.option(
    "--others",
    type=FOLDER,
    help="Pictures of other people, which stay as they are: PICTURES are hidden among them.",
)
@METHOD
@click.option(
    "--strength",
    type=int,
    default=Job.strength,
    show_default=True,
    help="The most that a channel of a pixel changes, 1 to 64 gray levels, before JPEG or WebP "
    "coding. 16 is plainly visible in flat areas such as sky and skin. 8 can still be seen there, "
    "and the default method then protects far less. `ulelib preview` shows both on your picture.",
)
@click.option(
    "--masking",
    is_flag=True,
    help="Contrast masking: less noise where a picture is flat, down to a quarter of the strength. "
    "It is less visible at the same strength.",
)
@WORKING_SIZE
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    default=Job.format,
    show_default=True,
    help="Format of the protected pictures: each keeps its own, or one for all.",
)
@click.option(
    "--quality",
    type=int,
    help="Of JPEG and WebP, 1 to 100. Without it a JPEG keeps its own, a WebP about its file size, "
    "and pictures of other formats become JPEG of quality 95.",
)
@click.option("--drop-location", is_flag=True, help="Remove the place where pictures were taken.")
@click.option(
    "--seed", type=int, default=Job.seed, show_default=True, help="Of what is drawn at random."
)
def protect_command(folder: Path, out: Path, others: Path | None, **options: Any) -> None:
    """Protect PICTURES, one folder for each class (or person), into a new folder.

    JPEG, PNG, BMP and WebP are read; the originals stay as they are. Names, sizes, orientation,
    colour profiles and transparency are kept where the written format can keep them; what is lost
    is listed. The same command continues a run that was stopped.
    `ulelib preview` shows first how visible the noise is on one of your pictures.
    How well it protects depends on who uses the pictures, and how: run `ulelib check` before you
    rely on it.
    """
    job = _job(options)
    try:
        report = protect(folder, out, job, others, report=tqdm.write)
    except EXPECTED as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException(INTERRUPTED) from None
    next_command = ["ulelib", "check", printable(folder), printable(out)]
    next_command += ["--others", printable(others)] if others else []
    for line in report.lines():
        click.echo(line)
    click.echo(f"They are in {printable(out)}.")
    click.echo(f"To measure how well they are protected: {shlex.join(next_command)}")


def _job(options: dict[str, Any]) -> Job:
    """The settings that options name."""
    try:
        return Job(**options)
    except ValueError as error:  # a setting has the name of its option
        raise click.ClickException(str(error).replace("Job.", "--")) from error


@commands.command(name="preview")
@click.argument("folder", metavar="PICTURES", type=FOLDER)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("strengths.png"),
    show_default=True,
    help="New PNG file.",
)
@click.option(
    "--picture",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Which of PICTURES to show; without it the first.",
)
@click.option("--others", type=FOLDER, help="Pictures of other people, as `ulelib protect` has it.")
@METHOD
@WORKING_SIZE
def preview_command(
    folder: Path, out: Path, picture: Path | None, others: Path | None, **options: Any
) -> None:
    """Show how visible the noise is on one of PICTURES, before anything is protected.

    One image shows the original beside the picture at strengths 4, 8, 16 and 32, without contrast
    masking and with it: whole, at its flattest part, and at the part with most texture. Below stand
    PSNR and SSIM, as they are when the picture fills a screen.
    """
    job = _job(options)
    try:
        check_new(out, folder, others)
        shown = preview(folder, job, others, picture, report=tqdm.write)
        shown.save(out)
    except EXPECTED as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("stopped: there is no preview") from None
    for line in shown.lines():
        click.echo(line)
    click.echo(f"{printable(Path(shown.name))} at these strengths: {printable(out)}")


@commands.command(name="check")
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
    help="HTML page to write; an existing file is replaced. The numbers are written beside it as "
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
    help="Of the choice of held-out pictures, and of the trainings.",
)
@click.option(
    "--features",
    "features_of",
    type=click.Choice(get_args(FeatureSource)),
    default="auto",
    show_default=True,
    help="Data set of the network whose features a linear classifier gets. ImageNet's network is "
    "downloaded.",
)
def check_command(clean: Path, protected: Path, page: Path, **options: Any) -> None:
    """Measure how well PICTURES are protected in PROTECTED.

    Part of the clean pictures is held out; small networks are trained on the rest, clean and
    protected, after some of what an exploiter can easily do. First it prints what can be said with
    so many pictures, and about how long it takes. The report has a number for each exploiter, says
    which of them the protection does not withstand, and what was not tried.
    """
    try:
        check_writable(page)
        findings = check(clean, protected, report=tqdm.write, **options)
    except EXPECTED as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("stopped: there is no report") from None
    for line in _summary(findings):
        click.echo(line)
    try:
        page, numbers = write_report(findings, page)
    except OSError as error:
        raise click.ClickException(f"the report cannot be written: {error}") from error
    click.echo(f"The whole report: {page}, as numbers: {numbers}")


def _summary(findings: Findings) -> list[str]:
    """The findings in a few lines."""
    lines = [findings.verdict]
    for head, found in (
        ("It fails against", findings.fails),
        ("Shown against", findings.withstood),
    ):
        lines += [f"{head}:"] if found else []
        lines += [
            f"  {line.does}: {line.protected:.1f} %, on clean pictures {line.clean:.1f} %"
            for line in found
        ]
    for named, names in (("without a copy", findings.missing), ("without noise", findings.bare)):
        if names:
            lines.append(f"Pictures {named}: {', '.join(names[:5])}{', ...' * (len(names) > 5)}")
    return lines
