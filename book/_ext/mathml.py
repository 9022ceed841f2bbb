"""Formulas as MathML, which browsers draw by themselves.

Sphinx's own renderer loads MathJax from the network; a book read from a disk would show raw TeX.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


# Commands that latex2mathml does not know; any other one that it lets through is reported.
SAME = {r"\arg": r"\operatorname{arg}"}
# A prime is "'", which stays in text, or a command in a superscript of its own.
PRIME = re.compile(r"(\\text\w*\{[^}]*\})|'|\^\s*(?:\\prime(?![A-Za-z])|\{\s*((?:\\prime\s*)+)\})")


def _lower_primes(tex: str) -> str:
    """`tex` with its primes on the line: fonts draw them high, and raised again they float."""
    return PRIME.sub(lambda found: found[1] or "{" + (found[2] or r"\prime") + "}", tex)


def _mathml(self: Any, node: nodes.Element, display: str) -> str:
    try:
        tex = re.sub(r"\\[A-Za-z]+", lambda found: SAME.get(found[0], found[0]), node.astext())
        markup = convert(_lower_primes(tex), display=display)
        if unknown := re.findall(r">(\\[A-Za-z]+)<", markup):
            raise ValueError(f"unknown {unknown}")
        return markup
    except Exception as error:  # latex2mathml raises many kinds; each is a fault in the page's TeX
        LOGGER.warning("no MathML for %r: %s", node.astext(), error, location=node)
        return f"<code>{self.encode(node.astext())}</code>"


def _visit_inline(self: Any, node: nodes.Element) -> None:
    self.body.append(_mathml(self, node, "inline"))
    raise nodes.SkipNode


def _visit_block(self: Any, node: nodes.Element) -> None:
    number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    identifiers = "".join(f'<span id="{name}"></span>' for name in node.get("ids", []))
    self.body.append(f'<div class="math-block">{identifiers}{_mathml(self, node, "block")}{number}')
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
