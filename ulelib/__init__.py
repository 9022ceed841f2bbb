"""ulelib: unlearnable examples, reproduced.

The file to read first is `ulelib/bilevel.py`: Algorithm 1 of the paper, top to bottom.
Notebooks talk to `ulelib.lab.Lab`.
"""

__version__ = "0.4.0.dev0"
