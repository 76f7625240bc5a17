"""A stand-in for ComfyUI's interface to nodes: names, order and strictness of version 0.3.64."""
