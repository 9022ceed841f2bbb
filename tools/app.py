"""Serve the notebook of the app to a browser on this computer: `make app`.

    python tools/app.py [--no-browser] [--port=8866]    # and all options of `voila --help`

Only this computer can reach the page, and only with the token in the address that is printed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from voila.app import Voila

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "14_protect_your_pictures.ipynb"
LARGEST = 2**31 - 1  # bytes of a message, i.e. an upload or download; Jupyter's limit is too low
# The browser may connect to this server only, so pictures cannot be sent anywhere else.
ONLY_HERE = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "form-action 'self'; frame-ancestors 'self'"
)


NO_CONTROLS = "*No controls above?*"  # begins a paragraph for pages that only show the notebook
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]+\)")


def as_app(_: Any, notebook: NotebookNode, cwd: str) -> NotebookNode:
    """The notebook without what makes no sense in the running app: the paragraph about missing
    controls, and links to pages of the book, which are not served. Voila calls it for each visit.
    """
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            paragraphs = cell.source.split("\n\n")
            kept = [one for one in paragraphs if not one.startswith(NO_CONTROLS)]
            cell.source = LINK.sub(r"\1", "\n\n".join(kept))
    return notebook


def main(arguments: list[str]) -> None:
    app = Voila.instance(
        ip="127.0.0.1",
        auto_token=True,
        tornado_settings={
            "websocket_max_message_size": LARGEST,
            "headers": {"Content-Security-Policy": ONLY_HERE},
        },
    )
    app.config.ZMQChannelsWebsocketConnection.iopub_data_rate_limit = float(LARGEST)
    # It renders Markdown in JupyterLab, and looks for parts of JupyterLab that Voila does not have.
    app.config.VoilaConfiguration.extension_denylist = ["jupyterlab-myst"]
    app.config.VoilaConfiguration.prelaunch_hook = as_app
    app.initialize([str(NOTEBOOK), *arguments])
    app.start()


if __name__ == "__main__":
    main(sys.argv[1:])
