"""Checkpoints: what a file holds, and models built from it."""
