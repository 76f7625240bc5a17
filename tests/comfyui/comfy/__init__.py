"""A stand-in for ComfyUI: what is inherited from at import, and nothing that works."""
