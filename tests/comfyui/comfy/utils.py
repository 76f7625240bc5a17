"""Used by nodes that run, and none runs here."""
