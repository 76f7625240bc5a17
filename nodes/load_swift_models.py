"""LoadSwiftModels: the models of both stages, the VAE and the text encoder."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..swift_core.errors import CheckpointError
from .host.bundled import BUNDLED, load_bundled
from .host.files import NONE, list_files
from .host.loading import WEIGHT_FORMATS
from .host.own_files import check_chosen, load_own_files
from .schema import advanced, make_schema
from .types import DetailModelType, MotionModelType

MY_FILES = "my files"

MOST_GIGABYTES = 1024.0


class LoadSwiftModels(io.ComfyNode):
    """Load a set of models: the bundled one, or files of one's own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return make_schema(
            node_id="LoadSwiftModels",
            display_name="Load SwiftI2V Models",
            description=(
                "Models for both stages: the bundled tiny set, which runs anywhere, or your own "
                "Wan2.2 files. Files are told apart by their content, not by their name."
            ),
            search_aliases=["swifti2v", "swift", "wan loader", "image to video", "2k video"],
            inputs=[
                io.Combo.Input(
                    "models",
                    options=[BUNDLED, MY_FILES],
                    default=BUNDLED,
                    tooltip=(
                        "The bundled set is a toy of 40 MB for 512x320: it shows how "
                        "everything works, without a download. For 2K choose your own files below."
                    ),
                ),
                _file(
                    "motion_high",
                    "diffusion_models",
                    "Stage I at high noise: Wan2.2-I2V-A14B "
                    "high noise, or TI2V-5B for all of Stage I.",
                ),
                _file(
                    "motion_low",
                    "diffusion_models",
                    "Stage I at low noise: Wan2.2-I2V-A14B low "
                    "noise. None where one model does all of Stage I.",
                ),
                _file(
                    "motion_vae",
                    "vae",
                    "The VAE of Stage I: wan_2.1_vae for A14B, wan2.2_vae for TI2V-5B.",
                ),
                _file(
                    "detail",
                    "diffusion_models",
                    "Stage II: TI2V-5B or a distillation of it, or a form with 96 input channels.",
                ),
                _file("detail_vae", "vae", "The VAE of Stage II: wan2.2_vae."),
                _file("text_encoder", "text_encoders", "UMT5-XXL, for both stages."),
                advanced(
                    io.Combo.Input(
                        "weight_format",
                        options=list(WEIGHT_FORMATS),
                        default="default",
                        tooltip=(
                            "How the weights of your own files are held. Default keeps the file's "
                            "format; fp8 halves 16-bit files."
                        ),
                    )
                ),
                *_lora(
                    "motion_high_lora",
                    "Stage I at high noise, for example the LightX2V 4-step LoRA for high noise.",
                ),
                *_lora("motion_low_lora", "Stage I at low noise."),
                *_lora("detail_lora", "Stage II, for example the Turbo LoRA of TI2V-5B."),
                *_second_lora("motion_high_lora_2", "motion_high_lora"),
                *_second_lora("motion_low_lora_2", "motion_low_lora"),
                *_second_lora("detail_lora_2", "detail_lora"),
                advanced(
                    io.Float.Input(
                        "memory_gb",
                        default=0.0,
                        min=0.0,
                        max=MOST_GIGABYTES,
                        step=0.5,
                        round=0.01,
                        tooltip=(
                            "What a VAE may take of the card, weights and work together, in GB; "
                            "with less it works in finer bands, and its pictures are the same. 0 "
                            "is automatic: what ComfyUI has free. The bundled set's DiTs are "
                            "refused beyond it; your own DiTs are ComfyUI's to fit."
                        ),
                    )
                ),
            ],
            outputs=[
                MotionModelType.Output(
                    "motion_model",
                    display_name="motion_model",
                    tooltip="Stage I, for Motion Reference 360P.",
                ),
                DetailModelType.Output(
                    "detail_model",
                    display_name="detail_model",
                    tooltip="Stage II, for CSG 2K Sampler.",
                ),
                io.Vae.Output("vae", display_name="vae", tooltip="The VAE of Stage II."),
                io.Clip.Output("clip", display_name="clip", tooltip="For CLIP Text Encode."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        models: str | None = BUNDLED,
        motion_high: str | None = NONE,
        motion_low: str | None = NONE,
        motion_vae: str | None = NONE,
        detail: str | None = NONE,
        detail_vae: str | None = NONE,
        text_encoder: str | None = NONE,
        motion_high_lora: str | None = NONE,
        motion_low_lora: str | None = NONE,
        detail_lora: str | None = NONE,
        motion_high_lora_2: str | None = NONE,
        motion_low_lora_2: str | None = NONE,
        detail_lora_2: str | None = NONE,
    ) -> bool:
        """Refuse files that are not there, all in one sentence; None is for another node to give.

        ComfyUI leaves its own check of an input out where the input is named here. It would refuse
        a file that is not there one by one, and where the bundled set is chosen too. What this
        returned it would show beside each of these inputs; what this raises it shows once.
        """
        chosen = dict(locals())
        del chosen["cls"], chosen["models"]
        if models is None:
            return True
        _check_models(models)
        if models == MY_FILES:
            check_chosen(chosen)
        return True

    @classmethod
    def execute(cls, models: str, memory_gb: float = 0.0, **chosen: Any) -> io.NodeOutput:
        """Load, or refuse before anything large is read."""
        _check_models(models)
        budget = int(1e9 * memory_gb) or None
        if models == BUNDLED:
            return io.NodeOutput(*load_bundled(budget))
        return io.NodeOutput(*load_own_files(budget_nbytes=budget, **chosen))


def _check_models(models: str) -> None:
    if models not in (BUNDLED, MY_FILES):
        raise CheckpointError(f'models is {models!r}; choose "{BUNDLED}" or "{MY_FILES}".')


def _file(name: str, folder: str, tooltip: str) -> Any:
    return io.Combo.Input(
        name,
        options=list_files(folder),
        default=NONE,
        optional=True,
        tooltip=f"{tooltip} From models/{folder}. Not used with the bundled set.",
    )


def _lora(name: str, what: str) -> tuple[Any, Any]:
    return (
        _lora_file(
            name,
            f"A LoRA for {what} From models/loras. Not used with the bundled set.",
        ),
        _lora_strength(name),
    )


def _second_lora(name: str, first: str) -> tuple[Any, Any]:
    tooltip = f"A second LoRA, added to what {first} has made of the model. From models/loras."
    return advanced(_lora_file(name, tooltip)), advanced(_lora_strength(name))


def _lora_file(name: str, tooltip: str) -> Any:
    return io.Combo.Input(
        name, options=list_files("loras"), default=NONE, optional=True, tooltip=tooltip
    )


def _lora_strength(name: str) -> Any:
    return io.Float.Input(
        f"{name}_strength",
        default=1.0,
        optional=True,
        min=-10.0,
        max=10.0,
        step=0.05,
        tooltip="How much of the LoRA is added; 0 leaves it out.",
    )
