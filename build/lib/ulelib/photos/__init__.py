"""Protect people's own pictures, and measure how well they are protected.

`protect` writes protected copies of a folder and `check` measures them; `commands` and `app` offer
both on the command line and in a notebook.
"""
