"""Published files that the graphs name, and where they are."""

from __future__ import annotations

from .canvas import ModelFile

_WAN22 = "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
_WAN21 = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
_KIJAI = "https://huggingface.co/Kijai/WanVideo_comfy/resolve/main"

I2V_HIGH, I2V_LOW = (
    ModelFile(
        f"{_WAN22}/diffusion_models/wan2.2_i2v_{noise}_noise_14B_fp8_scaled.safetensors",
        "diffusion_models",
        14.3,
    )
    for noise in ("high", "low")
)
LIGHTX2V_HIGH, LIGHTX2V_LOW = (
    ModelFile(
        f"{_WAN22}/loras/wan2.2_i2v_lightx2v_4steps_lora_v1_{noise}_noise.safetensors",
        "loras",
        1.2,
    )
    for noise in ("high", "low")
)
TI2V_5B = ModelFile(
    f"{_WAN22}/diffusion_models/wan2.2_ti2v_5B_fp16.safetensors", "diffusion_models", 10.0
)
TURBO = ModelFile(
    f"{_KIJAI}/LoRAs/Wan22-Turbo/Wan22_TI2V_5B_Turbo_lora_rank_64_fp16.safetensors", "loras", 0.3
)
UMT5 = ModelFile(
    f"{_WAN21}/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors", "text_encoders", 6.7
)
VAE_21 = ModelFile(f"{_WAN22}/vae/wan_2.1_vae.safetensors", "vae", 0.3)
VAE_22 = ModelFile(f"{_WAN22}/vae/wan2.2_vae.safetensors", "vae", 1.4)


def list_files(*files: ModelFile) -> str:
    """Say in Markdown where the files are, and where they belong."""
    lines = [
        f"- models/{file.directory}: [{file.name}]({file.url}) ({file.gigabytes:g} GB)"
        for file in files
    ]
    total = sum(file.gigabytes for file in files)
    return "\n".join((f"**Files**, {total:.0f} GB in all. Put them there and press R.", "", *lines))
