"""Nothing of it is wanted at import."""
