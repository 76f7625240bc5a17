"""Finished models as files: fp16 but for what must stay fp32, by the project's own saver."""

import copy
from pathlib import Path

import torch

from swift_core.model.dit import WanDiT
from swift_core.precision import is_island
from swift_core.text.words import WordEncoder
from swift_core.vae.autoencoder import WanVAE
from swift_core.weights.build import islands_of, save_checkpoint


def save_half(module: WanDiT | WanVAE | WordEncoder, path: Path) -> None:
    """Write a model in fp16; the module itself keeps its formats."""
    islands = islands_of(module.config)
    twin = copy.deepcopy(module).cpu()
    for name, parameter in twin.named_parameters():
        if not is_island(name, islands):
            parameter.data = parameter.data.to(torch.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(twin, path)
