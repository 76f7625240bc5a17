"""The Wan VAEs, as streams of chunks."""
