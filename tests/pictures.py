"""Stand-ins for photographs: tests need none of the packages that carry them."""

import torch
from safetensors.torch import save_file

from training.pictures import PHOTOGRAPHS
from training.textures import draw_textures


def write_picture_cache(folder, *, side):
    """Write textures under the photographs' names, as the recipes keep photographs."""
    path = folder / "cache.safetensors"
    pictures = draw_textures(len(PHOTOGRAPHS), side=side, seed=7)
    levels = {
        photograph.name: (picture * 255).round().to(torch.uint8).contiguous()
        for photograph, picture in zip(PHOTOGRAPHS, pictures, strict=True)
    }
    save_file(levels, path)
    return path
