"""ComfyUI's entry to the pack. The nodes come later; the core is complete without them."""

# pytest imports this file as a bare module, without a package: relative imports would fail there.
if __package__:
    NODE_CLASS_MAPPINGS: dict[str, type] = {}
