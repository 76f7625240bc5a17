"""The graphs that take published models."""

from __future__ import annotations

from .canvas import Canvas, Node
from .files import (
    I2V_HIGH,
    I2V_LOW,
    LIGHTX2V_HIGH,
    LIGHTX2V_LOW,
    TI2V_5B,
    TURBO,
    UMT5,
    VAE_21,
    VAE_22,
    list_files,
)
from .tiny import BLUE, GREEN, GREY, PICTURE, PURPLE, YELLOW, save_motion, save_video

PROMPT = (
    "the camera glides slowly towards the subject, its surroundings come alive with small natural "
    "movements, soft light, cinematic"
)
AVOID = "frozen still image, jerky motion, flicker, blur, distortion, text, watermark"

_STAND_IN = """\
## What to expect of Stage II

SwiftI2V's own Stage II model is not public. Here **Wan2.2-TI2V-5B stands in for it**: it has \
never been trained for this, and starts from the enlarged motion clip (*reference_strength*, 0.5 \
for it). That is an experiment: these settings are reckoned, and **nobody has judged the pictures \
yet**. When a model with 96 input channels is published, choose it in this one's place; nothing \
else changes.
"""

_MOTION_FIRST = """\
## The motion first

Hold Ctrl and draw a box around all groups from **3** on, press **Ctrl+M** (mute), and Run: only \
the small clip is made. Change the *seed* of Stage I until it moves well. Then Ctrl+M again, and \
Run: the clip is kept, only Stage II works.
"""

_FULL = f"""\
# 2K from a picture

2560x1408, 81 frames: 5 seconds. Made for a card with 24 GB; how much it takes and how long has \
been reckoned, not measured. *Segment Overlap Config* shows the plan before anything runs.

1. Put the files below into their folders and press **R**.
2. **Your picture**, **What happens**: your own.
3. Press **Run**.

{_MOTION_FIRST}
## What to change

- Each stage has a loader of its own: what changes in Stage II's leaves the small clip as it is.
- **pixel_frames** in Stage I: the length, 4n+1, up to 241 (15 seconds). Stage II needs no more \
memory for it, Stage I does.
- **Faster Stage II**: in its loader *detail_lora* [{TURBO.name}]({TURBO.url}), and in *CSG 2K \
Sampler* steps 4, cfg 1, solver renoise: a sixth of the work. Its licence is said to be CC \
BY-NC-SA 4.0, not for commercial work: look it up.
- **Too soft**: try *carry_detail* 0.5 to 1, which takes your picture's own detail along with the \
motion; nobody has judged it with this model yet.
- **Out of memory**: *segment_length* 2, or a smaller video.

{_STAND_IN}
{list_files(I2V_HIGH, I2V_LOW, LIGHTX2V_HIGH, LIGHTX2V_LOW, VAE_21, TI2V_5B, VAE_22, UMT5)}
"""

_LOW_VRAM = f"""\
# For small cards

One model for both stages, **Wan2.2-TI2V-5B**: 18 GB of files instead of 49, and 1280x704, of \
which a segment is 3,520 tokens where 2K has 17,600. Nobody has measured it on a small card yet.

1. Put the files below into their folders and press **R**.
2. **Your picture**, **What happens**: your own.
3. Press **Run**.

{_MOTION_FIRST}
## What to change

- One loader serves both stages: changing any of its inputs makes ComfyUI run Stage I again.
- **Still out of memory**: *weight_format* fp8_e4m3fn halves the model; *segment_length* 1; a \
smaller *width* and *height* in *CSG 2K Sampler* (multiples of 64).
- **Room to spare**: 1920x1088 there, and *segment_length* 3.
- **Too soft**: try *carry_detail* 0.5 to 1, which takes your picture's own detail along with the \
motion; nobody has judged it with this model yet.
- **Faster**: *motion_high_lora* and *detail_lora* [{TURBO.name}]({TURBO.url}), and in both \
stages steps 4, cfg 1, solver renoise: a tenth of the work. Its licence is said to be CC BY-NC-SA \
4.0, not for commercial work: look it up.

{_STAND_IN}
{list_files(TI2V_5B, VAE_22, UMT5)}
"""

_CORE_MODEL = f"""\
# With ComfyUI's own loaders

Both stages take **any MODEL** of Wan2.2: from *Load Diffusion Model*, from a GGUF loader, with \
LoRAs, with attention or memory patches. Put your own nodes between loader and stage.

- **motion_model**: Wan2.2-I2V-A14B high noise, **motion_model_low** its low noise, **vae** \
wan_2.1_vae. Or TI2V-5B alone with wan2.2_vae.
- **detail_model**: Wan2.2-TI2V-5B, here with the 4-step Turbo LoRA, so cfg is 1 and the solver \
renoise. Its licence is said to be CC BY-NC-SA 4.0, not for commercial work: look it up. Without \
it: steps 12, cfg 5, solver unipc, and a negative prompt.
- *ModelSamplingSD3* is not needed: *sigma_shift* takes its place.

{_STAND_IN}
{list_files(I2V_HIGH, I2V_LOW, LIGHTX2V_HIGH, LIGHTX2V_LOW, VAE_21, TI2V_5B, TURBO, VAE_22, UMT5)}
"""


def full_2k() -> Canvas:
    """Draw the graph for 2K."""
    canvas = Canvas("2k-on-24gb")
    canvas.column("Read me", GREY, 520)
    canvas.note(_FULL, "2K from a picture", 890)
    canvas.column("1 · Picture, prompt, models", BLUE, 520)
    picture = canvas.add("LoadImage", "Your picture", image=PICTURE)
    first = canvas.add(
        "LoadSwiftModels",
        "Stage I's models",
        models="my files",
        motion_high=I2V_HIGH.name,
        motion_low=I2V_LOW.name,
        motion_vae=VAE_21.name,
        text_encoder=UMT5.name,
        motion_high_lora=LIGHTX2V_HIGH.name,
        motion_low_lora=LIGHTX2V_LOW.name,
        files=(I2V_HIGH, I2V_LOW, LIGHTX2V_HIGH, LIGHTX2V_LOW, VAE_21, UMT5),
    )
    positive, negative = _prompts(canvas, first)
    canvas.column("2 · Stage I: how things move", YELLOW, 400)
    motion = canvas.add(
        "MotionReference360P",
        motion_model=first["motion_model"],
        image=picture["IMAGE"],
        positive=positive["CONDITIONING"],
        seed=7,
    )
    save_motion(canvas, motion, fps=16.0)
    canvas.column("3 · Stage II: models, segments", GREEN, 520)
    models = canvas.add(
        "LoadSwiftModels",
        "Stage II's models",
        models="my files",
        detail=TI2V_5B.name,
        detail_vae=VAE_22.name,
        files=(TI2V_5B, VAE_22),
    )
    segments = canvas.add("SegmentOverlapConfig")
    canvas.column("4 · Stage II: the video in 2K", GREEN, 460)
    latent = canvas.add(
        "CSG2KSampler",
        detail_model=models["detail_model"],
        vae=models["vae"],
        image=picture["IMAGE"],
        motion=motion["motion"],
        positive=positive["CONDITIONING"],
        negative=negative["CONDITIONING"],
        segments=segments["segments"],
        steps=12,
        cfg=5.0,
        solver="unipc",
        seed=7,
    )
    canvas.column("5 · Watch it", PURPLE, 640)
    video = canvas.add("SwiftVAEDecodeToVideo", samples=latent["latent"], vae=models["vae"])
    save_video(canvas, video, "swift/2k")
    return canvas


def low_vram() -> Canvas:
    """Draw the graph with one small model for both stages."""
    canvas = Canvas("low-vram")
    canvas.column("Read me", GREY, 520)
    canvas.note(_LOW_VRAM, "For small cards", 800)
    canvas.column("1 · Picture, prompt, models", BLUE, 520)
    picture = canvas.add("LoadImage", "Your picture", image=PICTURE)
    models = canvas.add(
        "LoadSwiftModels",
        models="my files",
        motion_high=TI2V_5B.name,
        motion_vae=VAE_22.name,
        detail=TI2V_5B.name,
        detail_vae=VAE_22.name,
        text_encoder=UMT5.name,
        files=(TI2V_5B, VAE_22, UMT5),
    )
    positive, negative = _prompts(canvas, models)
    canvas.column("2 · Stage I: how things move", YELLOW, 400)
    motion = canvas.add(
        "MotionReference360P",
        motion_model=models["motion_model"],
        image=picture["IMAGE"],
        positive=positive["CONDITIONING"],
        negative=negative["CONDITIONING"],
        steps=20,
        cfg=5.0,
        solver="unipc",
        seed=7,
    )
    save_motion(canvas, motion, fps=24.0)
    canvas.column("3 · Stage II: the video", GREEN, 460)
    segments = canvas.add(
        "SegmentOverlapConfig", segment_length=2, plan_width=1280, plan_height=704
    )
    latent = canvas.add(
        "CSG2KSampler",
        detail_model=models["detail_model"],
        vae=models["vae"],
        image=picture["IMAGE"],
        motion=motion["motion"],
        positive=positive["CONDITIONING"],
        negative=negative["CONDITIONING"],
        segments=segments["segments"],
        width=1280,
        height=704,
        steps=20,
        cfg=5.0,
        solver="unipc",
        seed=7,
    )
    canvas.column("4 · Watch it", PURPLE, 640)
    video = canvas.add(
        "SwiftVAEDecodeToVideo", samples=latent["latent"], vae=models["vae"], fps=24.0
    )
    save_video(canvas, video, "swift/low-vram")
    return canvas


def core_model() -> Canvas:
    """Draw the graph that is made of ComfyUI's own loaders."""
    canvas = Canvas("core-model")
    canvas.column("Read me", GREY, 520)
    canvas.note(_CORE_MODEL, "With ComfyUI's own loaders", 760)
    canvas.column("Stage I's models", BLUE, 480)
    high = canvas.add("UNETLoader", unet_name=I2V_HIGH.name, files=(I2V_HIGH,))
    high = canvas.add(
        "LoraLoaderModelOnly",
        model=high["MODEL"],
        lora_name=LIGHTX2V_HIGH.name,
        files=(LIGHTX2V_HIGH,),
    )
    low = canvas.add("UNETLoader", unet_name=I2V_LOW.name, files=(I2V_LOW,))
    low = canvas.add(
        "LoraLoaderModelOnly",
        model=low["MODEL"],
        lora_name=LIGHTX2V_LOW.name,
        files=(LIGHTX2V_LOW,),
    )
    motion_vae = canvas.add("VAELoader", vae_name=VAE_21.name, files=(VAE_21,))
    picture = canvas.add("LoadImage", "Your picture", image=PICTURE)
    canvas.column("Stage II's models, and the prompt", BLUE, 480)
    detail = canvas.add("UNETLoader", unet_name=TI2V_5B.name, files=(TI2V_5B,))
    detail = canvas.add(
        "LoraLoaderModelOnly", model=detail["MODEL"], lora_name=TURBO.name, files=(TURBO,)
    )
    vae = canvas.add("VAELoader", vae_name=VAE_22.name, files=(VAE_22,))
    clip = canvas.add("CLIPLoader", clip_name=UMT5.name, type="wan", files=(UMT5,))
    prompt = canvas.add("CLIPTextEncode", "What happens", clip=clip["CLIP"], text=PROMPT)
    canvas.column("Stage I: how things move", YELLOW, 400)
    motion = canvas.add(
        "MotionReference360P",
        motion_model=high["MODEL"],
        motion_model_low=low["MODEL"],
        vae=motion_vae["VAE"],
        image=picture["IMAGE"],
        positive=prompt["CONDITIONING"],
        seed=7,
    )
    save_motion(canvas, motion, fps=16.0)
    canvas.column("Stage II: the video in 2K", GREEN, 460)
    segments = canvas.add("SegmentOverlapConfig")
    latent = canvas.add(
        "CSG2KSampler",
        detail_model=detail["MODEL"],
        vae=vae["VAE"],
        image=picture["IMAGE"],
        motion=motion["motion"],
        positive=prompt["CONDITIONING"],
        segments=segments["segments"],
        solver="renoise",
        seed=7,
    )
    canvas.column("Watch it", PURPLE, 640)
    video = canvas.add("SwiftVAEDecodeToVideo", samples=latent["latent"], vae=vae["VAE"])
    save_video(canvas, video, "swift/core-model")
    return canvas


def _prompts(canvas: Canvas, models: Node) -> tuple[Node, Node]:
    positive = canvas.add("CLIPTextEncode", "What happens", clip=models["clip"], text=PROMPT)
    negative = canvas.add("CLIPTextEncode", "What to keep away", clip=models["clip"], text=AVOID)
    return positive, negative
