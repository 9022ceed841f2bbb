"""Sentences with numbers: a cell magic that prints Markdown and fills in what was measured.

    %%say
    ULEO leaves {{mean["ULEO", "exact", "standard"]:.1f}} % of the test images right.

Between double braces stands a Python expression and, behind a colon, its format, as in an f-string.
So the numbers of a sentence come from the variables of the notebook, in JupyterLab as in the book.
`page.check_parameters` and `page.open_lab` register the magic.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from IPython import get_ipython
from IPython.display import Markdown

MAGIC = "say"
EXPRESSION = re.compile(r"\{\{(.+?)\}\}", re.DOTALL)


def fill(text: str, names: Mapping[str, Any]) -> str:
    """`text` with every `{{expression:format}}` replaced by its value.

    Args:
        names: the variables that the expressions may use.

    Raises:
        ValueError: an expression that cannot be evaluated; names it and says why.
    """

    def value(found: re.Match[str]) -> str:
        try:
            return str(eval(_formatted(found[1]), dict(names)))
        except Exception as error:
            raise ValueError(f"{found[0]}: {type(error).__name__}: {error}") from error

    return EXPRESSION.sub(value, text)


def names_in(text: str) -> set[str]:
    """The variables that the expressions of a text use."""
    trees = (ast.parse(_formatted(found), mode="eval") for found in EXPRESSION.findall(text))
    return {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _formatted(expression: str) -> str:
    """An expression with its format, as the source of an f-string."""
    return f"f'''{{{expression.strip()}}}'''"


def say(line: str, cell: str) -> Markdown:
    """The magic: the cell below `%%say` as Markdown, filled with the notebook's variables.

    Raises:
        ValueError: see `fill`; or words behind `%%say`.
    """
    if line.strip():
        raise ValueError(f"%%say takes no argument, not {line!r}: the text goes below it")
    shell = get_ipython()
    return Markdown(fill(cell, {} if shell is None else shell.user_ns))


def register() -> None:
    """Make `%%say` known in this notebook; elsewhere nothing happens."""
    shell = get_ipython()
    if shell is not None:
        shell.register_magic_function(say, "cell", MAGIC)
