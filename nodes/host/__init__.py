"""The adapters: ComfyUI's objects as the core wants them, and the core's as ComfyUI wants them."""
