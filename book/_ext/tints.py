"""Tints of table cells as CSS variables, so that `_static/ulelib.css` can darken them.

Outputs of notebooks name their tints for a white page, and a dark page would show pale slabs. A
style sheet finds a cell by its tint only if the tint is a variable.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

# What `ulelib.book.tables.tint` writes: a tint, and its ink.
TINT = re.compile(r"background-color: #([0-9a-f]{6});(\s+)color: (#1a1a1a);")
VARIABLES = r"background-color: var(--tint-\1, #\1);\2color: var(--tint-ink, \3);"


def _name_tints(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object
) -> None:
    if "body" in context:
        context["body"] = TINT.sub(VARIABLES, context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", _name_tints)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
