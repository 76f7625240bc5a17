"""The Wan DiT."""
