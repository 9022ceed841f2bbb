"""ulelib: unlearnable examples, reproduced.

The file to read first is `ulelib/bilevel.py`: Algorithm 1 of the paper, top to bottom.
Notebooks talk to `ulelib.lab.Lab`.
"""

import os

# Read once by torch, at its first allocation: back large tensors with huge pages (Linux).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from ulelib import machine

machine.keep_freed_memory()

__version__ = "0.1.0"
