"""A set without a ``set.json``: which file is for what, told by the headers as far as that goes."""

import json
from collections.abc import Mapping
from pathlib import Path

from ..errors import CheckpointError
from ..model.config import DiTConfig
from ..vae.config import VAEConfig
from .checkpoint import Checkpoint
from .set_file import SET_FILE, SLOT_NEEDS, TEXT_KINDS, SetFile


def assign_files(folder: Path, checkpoints: Mapping[str, Checkpoint]) -> SetFile:
    """Tell by their headers which of a folder's files is for what.

    Raises:
        CheckpointError: if a slot stays empty or could be filled in several ways.
    """
    found = _candidates(checkpoints)
    wrong: list[str] = []
    for name, files in found.items():
        if not files:
            wrong.append(f"no file is {SLOT_NEEDS[name].what} for {name}")
        elif len(files) > 1:
            wrong.append(f"{name} could be {' or '.join(files)}")
    if wrong:
        slots = {name: files[0] if files else "?.safetensors" for name, files in found.items()}
        raise CheckpointError(
            f"{folder} is no clear set of models: {'; '.join(wrong)}. Say which file is for what "
            f"in {SET_FILE} there, in this form: {json.dumps({'slots': slots})} (and motion_low "
            "for the second expert, where there are two)."
        )
    return SetFile(
        name=folder.name,
        description=f"The models in {folder.name}, told apart by their headers.",
        slots={name: files[0] for name, files in found.items()},
    )


def _candidates(checkpoints: Mapping[str, Checkpoint]) -> dict[str, list[str]]:
    """List for each slot the files that fit it."""
    dits = {
        name: checkpoint.config
        for name, checkpoint in checkpoints.items()
        if isinstance(checkpoint.config, DiTConfig) and checkpoint.obstacle is None
    }
    plain = [name for name, dit in dits.items() if dit.in_channels == dit.out_channels]
    reference = [name for name, dit in dits.items() if dit.in_channels == 2 * dit.out_channels]
    masked = [name for name in dits if name not in (*plain, *reference)]
    motion, detail = masked or plain, reference or plain

    def vaes(fitting: list[str]) -> list[str]:
        channels = {dits[name].out_channels for name in fitting}
        return [
            name
            for name, checkpoint in checkpoints.items()
            if isinstance(checkpoint.config, VAEConfig)
            and (not channels or checkpoint.config.latent_channels in channels)
        ]

    return {
        "text": [name for name, found in checkpoints.items() if found.kind in TEXT_KINDS],
        "motion_high": motion,
        "motion_vae": vaes(motion),
        "detail": detail,
        "detail_vae": vaes(detail),
    }
