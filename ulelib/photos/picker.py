"""A field for a folder on this computer, with a list to choose it from."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from ulelib.photos.names import printable

STYLE = {"description_width": "11em"}
UP, MOST = "..", 500  # entries of the list


class FolderPicker(widgets.VBox):
    """A text field for a folder, and a button that shows the folders around it.

    Args:
        label: before the field.
        value: initial content.
        hint: what an empty field shows.

    Attributes:
        field: the text field, whose value is the folder.
    """

    def __init__(self, label: str, value: str, hint: str) -> None:
        wide = widgets.Layout(width="85%")
        self.field = widgets.Text(
            value, description=label, placeholder=hint, layout=wide, style=STYLE
        )
        self.browse = widgets.Button(description="Choose", icon="folder-open")
        self.browse.layout.width = "9em"
        self.here = widgets.HTML()
        self.inside = widgets.Select()
        self.take, self.close = (widgets.Button(description=text) for text in ("Take it", "Close"))
        self.take.button_style = "primary"
        self.buttons = widgets.HBox([self.take, self.close])
        self.list = widgets.VBox(
            [self.here, self.inside, self.buttons],
            layout=widgets.Layout(display="none", margin="0 0 0.5em 11em"),
        )
        super().__init__([widgets.HBox([self.field, self.browse]), self.list])
        self.browse.on_click(lambda _: self._open())
        self.take.on_click(lambda _: self._take())
        self.close.on_click(lambda _: self._close())

    def _open(self) -> None:
        """Show the folder in the field, or the nearest one around it that exists; else the home."""
        text = self.field.value.strip()
        start = Path(text).expanduser() if text else Path.home()
        nearest = (one for one in (start, *start.parents) if one.is_dir())
        self._show(next(nearest, Path.home()).resolve())
        self.list.layout.display = ""

    def _show(self, folder: Path) -> None:
        self.folder = folder
        try:
            with os.scandir(folder) as entries:
                names = sorted(
                    entry.name
                    for entry in entries
                    if not entry.name.startswith(".") and entry.is_dir()
                )
        except OSError:
            names = []  # it may not be read
        self.paths = [folder.parent, *(folder / name for name in names[:MOST])]
        shown = [UP, *(printable(Path(name)) for name in names[:MOST])]
        # A new list: one that is changed by the choice in it would change for ever.
        self.inside = widgets.Select(
            options=[(text, place) for place, text in enumerate(shown)],
            value=None,
            rows=8,
            layout=widgets.Layout(width="40em"),
        )
        self.inside.observe(self._enter, "value")
        self.list.children = [self.here, self.inside, self.buttons]
        self.here.value = f"<b>{html.escape(printable(folder))}</b>"

    def _enter(self, change: Any) -> None:
        if change["new"] is not None:
            self._show(self.paths[change["new"]])

    def _take(self) -> None:
        self.field.value = str(self.folder)
        self._close()

    def _close(self) -> None:
        self.list.layout.display = "none"
