"""SwiftI2V's algorithm: one picture in, one 2K video out, in bounded memory.

This package never imports ComfyUI; it runs and is tested on any CPU. The main path is
``pipeline.generate``.
"""
