"""Measurements: our models beside diffusers', in one run on one machine."""
