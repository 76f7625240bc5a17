"""The models of a run as one value: each known by its configuration now, loaded when needed.

A set is a folder: model files, and ``set.json`` which says what each is for and how the models
want to be sampled. Without ``set.json`` the files are told apart by their headers, as far as that
goes. Whether the models fit together is checked before any weight is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CheckpointError
from ..flow.recipe import Recipe
from ..model.config import DiTConfig
from ..model.dit import WanDiT
from ..text.encoder import TextEncoder
from ..vae.autoencoder import WanVAE
from ..vae.config import VAEConfig
from .checkpoint import Checkpoint
from .detect import look_into
from .lora import Lora, LoraMatch
from .lora_slots import files_of, fit_lora, load_with_loras, matches_of, open_lora
from .set_file import DEFAULT_BOUNDARY, SET_FILE, SetFile, read_set_file
from .set_guess import assign_files
from .slots import Slot, TextConfig, open_dit, open_text, open_vae


@dataclass(frozen=True, kw_only=True)
class ModelSet:
    """The models of a run, and how they want to be sampled.

    Attributes:
        name: what people call the set.
        description: one sentence for people; it may warn.
        text: the text encoder.
        motion_high: Stage I at high noise levels; at all of them if there is no other.
        motion_low: Stage I at low noise levels.
        motion_vae: the VAE of Stage I.
        detail: Stage II.
        detail_vae: the VAE of Stage II; the same object as ``motion_vae`` if they share one.
        motion_recipe: how Stage I is sampled unless told otherwise.
        detail_recipe: how Stage II is sampled unless told otherwise.
        boundary: sigma from which on the high-noise expert works.
        carry: share of the picture's detail in the reference unless told otherwise.
    """

    name: str
    description: str
    text: Slot[TextConfig, TextEncoder]
    motion_high: Slot[DiTConfig, WanDiT]
    motion_low: Slot[DiTConfig, WanDiT] | None
    motion_vae: Slot[VAEConfig, WanVAE]
    detail: Slot[DiTConfig, WanDiT]
    detail_vae: Slot[VAEConfig, WanVAE]
    motion_recipe: Recipe
    detail_recipe: Recipe
    boundary: float = DEFAULT_BOUNDARY
    carry: float = 0.0

    def __post_init__(self) -> None:
        _check_motion(self)
        _check_detail(self)
        _check_text(self)


def _check_motion(models: ModelSet) -> None:
    dit, low, vae = models.motion_high, models.motion_low, models.motion_vae
    _check_latent("Stage I", dit, vae)
    channels, time = dit.config.out_channels, vae.config.compression.time
    if dit.config.in_channels not in (channels, 2 * channels + time):
        raise CheckpointError(
            f"Stage I's DiT ({dit.source}) takes {dit.config.in_channels} channels; it must take "
            f"{channels} (its latent) or {2 * channels + time} (latent, {time} mask channels, "
            "picture): choose an image-to-video model."
        )
    if low is not None and low.config != dit.config:
        raise CheckpointError(
            f"Stage I's experts are of different architectures ({dit.source} and {low.source}); "
            "use two experts of one model."
        )


def _check_detail(models: ModelSet) -> None:
    dit = models.detail
    _check_latent("Stage II", dit, models.detail_vae)
    channels = dit.config.out_channels
    if dit.config.in_channels not in (channels, 2 * channels):
        raise CheckpointError(
            f"Stage II's DiT ({dit.source}) takes {dit.config.in_channels} channels; it must take "
            f"{channels} (its latent) or {2 * channels} (latent and reference): choose a TI2V "
            "model or its form with reference channels."
        )


def _check_latent(stage: str, dit: Slot[DiTConfig, WanDiT], vae: Slot[VAEConfig, WanVAE]) -> None:
    if dit.config.out_channels != vae.config.latent_channels:
        raise CheckpointError(
            f"{stage}'s DiT ({dit.source}) makes latents of {dit.config.out_channels} channels, "
            f"but its VAE ({vae.source}) has {vae.config.latent_channels}; choose the VAE that "
            "belongs to the DiT."
        )


def _check_text(models: ModelSet) -> None:
    width = models.text.config.text_dim
    for stage, dit in (("Stage I", models.motion_high), ("Stage II", models.detail)):
        if dit.config.text_dim != width:
            raise CheckpointError(
                f"{stage}'s DiT ({dit.source}) reads text embeddings {dit.config.text_dim} wide, "
                f"but the text encoder ({models.text.source}) makes them {width} wide; choose the "
                "text encoder that belongs to the DiT."
            )


def open_model_set(folder: Path | str, *, tokenizer: Path | None = None) -> ModelSet:
    """Open a folder of models; no weight is read.

    Args:
        tokenizer: folder of UMT5's tokenizer, in place of the one that the set has or names.

    Raises:
        CheckpointError: if a file is missing or wrong, the files cannot be told apart, or the
            models do not fit together.
        ScheduleError: if a recipe in ``set.json`` makes no schedule.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder; name a folder with a set of models.")
    if (folder / SET_FILE).exists():
        found = read_set_file(folder)
        checkpoints = {name: look_into(folder / name) for name in set(found.slots.values())}
    else:
        # Of a model in several files each leads to all of it, under the name of their index.
        models = (look_into(path) for path in sorted(folder.glob("*.safetensors")))
        checkpoints = {checkpoint.path.name: checkpoint for checkpoint in models}
        found = assign_files(folder, checkpoints)
    if tokenizer is None and found.tokenizer is not None:
        tokenizer = folder / found.tokenizer
    loras = {
        slot: [open_lora(slot, folder / lora.file, lora.strength) for lora in chosen]
        for slot, chosen in found.loras.items()
    }
    return add_loras(_fill_slots(found, checkpoints, tokenizer), loras)


def add_loras(models: ModelSet, chosen: Mapping[str, Sequence[Lora]]) -> ModelSet:
    """Put LoRAs onto the DiTs of a set, beside those that they have; no weight is read.

    Args:
        chosen: by slot.

    Raises:
        CheckpointError: if a LoRA does not fit its slot's DiT.
    """
    slots = dit_slots(models)
    dits = {name: None if slot is None else slot.config for name, slot in slots.items()}
    changed: dict[str, Slot[DiTConfig, WanDiT]] = {}
    for name, loras in chosen.items():
        matches = [fit_lora(lora, name, dits) for lora in loras]
        slot = slots[name]
        if slot is not None:
            files = (*slot.files, *files_of(matches))
            changed[name] = replace(slot, load=load_with_loras(slot.load, matches), files=files)
    return replace(models, **changed)


def dit_slots(models: ModelSet) -> dict[str, Slot[DiTConfig, WanDiT] | None]:
    """Give the slots of a set whose models take LoRAs."""
    return {
        "motion_high": models.motion_high,
        "motion_low": models.motion_low,
        "detail": models.detail,
    }


def loras_of(models: ModelSet) -> dict[str, tuple[LoraMatch, ...]]:
    """Tell which LoRAs go onto which DiT; slots without are left out."""
    found = {name: matches_of(slot.load) for name, slot in dit_slots(models).items() if slot}
    return {name: matches for name, matches in found.items() if matches}


def _fill_slots(
    found: SetFile, checkpoints: Mapping[str, Checkpoint], tokenizer: Path | None
) -> ModelSet:
    files = found.slots
    motion_vae = open_vae("motion_vae", checkpoints[files["motion_vae"]])
    shares_vae = files["detail_vae"] == files["motion_vae"]
    low = files.get("motion_low")
    return ModelSet(
        name=found.name,
        description=found.description,
        text=open_text(checkpoints[files["text"]], tokenizer),
        motion_high=open_dit("motion_high", checkpoints[files["motion_high"]]),
        motion_low=None if low is None else open_dit("motion_low", checkpoints[low]),
        motion_vae=motion_vae,
        detail=open_dit("detail", checkpoints[files["detail"]]),
        detail_vae=(
            motion_vae if shares_vae else open_vae("detail_vae", checkpoints[files["detail_vae"]])
        ),
        motion_recipe=found.motion,
        detail_recipe=found.detail,
        boundary=found.boundary,
        carry=found.carry,
    )
