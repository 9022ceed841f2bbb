"""Sentences with numbers: what the magic fills in, and what it refuses."""

from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell

from ulelib.book import say


def test_an_expression_becomes_its_value() -> None:
    names = {"mean": {("ULEO", "gray"): 62.583}, "n": 5}
    text = 'leaves {{mean["ULEO", "gray"]:.1f}} % (n = {{n}}), {{ n - 1 :+d}} more'
    assert say.fill(text, names) == "leaves 62.6 % (n = 5), +4 more"
    assert say.names_in(text) == {"mean", "n"}


def test_single_braces_and_formulas_stay() -> None:
    text = r"$\theta_{t}$ and {doc}`glossary`"
    assert say.fill(text, {}) == text
    assert say.names_in(text) == set()


@pytest.mark.parametrize(
    ("text", "why"),
    [("{{lost}}", "NameError"), ("{{n:.q}}", "ValueError"), ("{{n +}}", "SyntaxError")],
)
def test_an_expression_that_fails_is_named(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        say.fill(f"before {text}", {"n": 1})
    assert text in str(error.value)


def test_the_magic_reads_the_variables_of_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = InteractiveShell.instance()
    monkeypatch.setattr(say, "get_ipython", lambda: shell)
    say.register()
    shell.run_cell("low = 0.5")
    done = shell.run_cell("%%say\nat least **{{low:.2f}}**")
    assert done.result.data == "at least **0.50**\n"
    failed = shell.run_cell("%%say at once\ntext")
    assert "takes no argument" in str(failed.error_in_exec)
    InteractiveShell.clear_instance()


def test_without_a_notebook_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(say, "get_ipython", lambda: None)
    say.register()
    assert say.say("", "plain text").data == "plain text"
