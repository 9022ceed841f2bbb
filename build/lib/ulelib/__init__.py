"""ulelib: unlearnable examples, reproduced.

The file to read first is `ulelib/bilevel.py`: Algorithm 1 of the paper, top to bottom. This folder
is the science. Behind three doors:

    jobs/    how it is computed, kept and found again; notebooks talk to `ulelib.jobs.lab.Lab`
    book/    what a page says: printed numbers, verdicts, claims, figures
    photos/  people's own pictures: `ulelib protect`, `ulelib check`, the app
"""

__version__ = "0.5.0.dev0"
