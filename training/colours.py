"""Strong mixing of colours: without it a VAE trained on few pictures loses their hues."""

import math

import torch

from swift_core.shapes import Float, Tensor

from .chance import happens, uniform


def mixing(draw: torch.Generator) -> tuple[Float[Tensor, "3 3"], Float[Tensor, " 3"]]:
    """Draw a map of colours ``matrix @ (rgb - 1/2) + offset``.

    Hues are turned, channels swapped, saturation and contrast changed, sometimes all inverted.
    """
    grey = torch.full((3, 3), 1 / 3)
    turn = _turn_hues(uniform(draw, 0, math.tau)) if happens(draw, 0.5) else torch.eye(3)
    saturation = uniform(draw, 0.3, 2.0)
    matrix = grey + saturation * (turn - grey) if happens(draw, 0.8) else turn
    if happens(draw, 0.3):
        matrix = matrix[torch.randperm(3, generator=draw)]
    gains = 1 + 0.3 * torch.randn(3, generator=draw).clamp(-2, 2)
    contrast = uniform(draw, 0.6, 1.25) * (-1 if happens(draw, 0.15) else 1)
    offset = 0.5 + 0.12 * torch.randn(3, generator=draw).clamp(-2, 2)
    return contrast * gains[:, None] * matrix, offset


def _turn_hues(angle: float) -> Float[Tensor, "3 3"]:
    """Give the rotation of colours around the grey axis."""
    axis = 1 / math.sqrt(3)
    cross = torch.tensor([[0.0, -axis, axis], [axis, 0.0, -axis], [-axis, axis, 0.0]])
    outer = torch.full((3, 3), 1 / 3)
    return math.cos(angle) * torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * outer


def mix_colours(draw: torch.Generator, picture: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Map a picture's colours at random, within [0, 1]."""
    matrix, offset = (part.to(picture.device) for part in mixing(draw))
    mixed = torch.einsum("dc,chw->dhw", matrix, picture - 0.5)
    return (mixed + offset[:, None, None]).clamp(0, 1)
