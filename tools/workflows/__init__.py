"""Draws the graphs in workflows/: `python -m tools.workflows` writes them all."""
