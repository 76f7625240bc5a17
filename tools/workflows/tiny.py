"""The graphs that run anywhere, with the models that come with the pack."""

from __future__ import annotations

from .canvas import Canvas, Node

BLUE, YELLOW, GREEN, PURPLE, GREY = "#3f789e", "#b58b2a", "#3f8a5b", "#8a5fa8", "#888"
"""Of groups: what goes in, Stage I, Stage II, what comes out, notes."""

PICTURE = "example.png"
"""The picture that every ComfyUI has in its input folder."""

MOVES = "slow zoom in"

_SWIFT_TINY = """\
# SwiftI2V, without a download

1. **Your picture**: choose one.
2. **What happens**: say how the camera moves.
   *slow zoom in · zoom out · pan left · pan right · pan up · fast pan down ·
   rotate clockwise · rotate counterclockwise*, and two of them together.
3. Press **Run**.

The models are **swift-tiny**. They come with the pack and run on any computer, \
without a graphics card too. They know camera moves over a picture and nothing else: this graph \
shows how everything works, at 512x320. For 2K open the template **2k-on-24gb**.

## Two stages

**Stage I** makes a small clip that decides how things move. Look at it first. Another *seed* \
there is another motion.

**Stage II** makes it large, segment by segment. Each segment sees your picture, the motion clip \
and what is finished before it. Memory does not grow with the length.

## What to change

- **pixel_frames**: the length. 49 frames are 3 seconds, 81 are 5. Always 4n+1: 17, 33, 49, 65, 81.
- **segment_length**, **neighbors**: how Stage II works through the clip. *Segment Overlap Config* \
shows the plan for Wan2.2's models, *CSG 2K Sampler* what was done with these.
- **carry_detail** (an advanced input of *CSG 2K Sampler*): the picture's own detail follows the \
motion clip. 0 shows what these models make without.
- **codec**: prores for editing, ffv1 for no loss at all.
- A long run that was cancelled or crashed goes on where it was: press Run again.
"""

_OWN_MOTION = """\
# Motion of your own

Stage I is left out: a clip of yours says how things move, and Stage II makes a video of your \
picture that moves like it.

1. **Your clip**: upload a video. A grey-box animation, a phone video, Stage I's clip after a \
retime in an editor: whatever moves well. Trim and shrink it before: all of it is decoded, and 10 \
s of 1080p30 take 7.5 GB of host memory.
2. **Your picture**: it becomes the first frame, so it should show what the clip's first frame \
shows, at the same place.
3. Press **Run**.

## The length

A video has **4n+1** frames: 17, 33, 49, 65, 81 … *Cut* takes the first 49 of your clip. If the \
clip has fewer, the sampler says what *length* to set. To begin later in the clip, raise \
*batch_index*.

## The size

*To Stage I's size* makes the clip as small as Stage I would: a quarter of the video. What it \
shows is a guide; the detail comes from your picture and the models. The rest of another shape is \
cut off at the sides.

The models are **swift-tiny**, which come with the pack, for 512x320. With your own files \
(template **2k-on-24gb**) take 640x352 and 2560x1408.
"""


def swift_tiny() -> Canvas:
    """Draw the graph for a first try."""
    canvas = Canvas("swift-tiny")
    canvas.column("Read me", GREY, 460)
    canvas.note(_SWIFT_TINY, "SwiftI2V without a download", 620)
    canvas.column("1 · Picture, prompt, models", BLUE, 400)
    picture = canvas.add("LoadImage", "Your picture", image=PICTURE)
    models = canvas.add("LoadSwiftModels")
    prompt = canvas.add("CLIPTextEncode", "What happens", clip=models["clip"], text=MOVES)
    canvas.column("2 · Stage I: how things move", YELLOW, 340)
    motion = canvas.add(
        "MotionReference360P",
        motion_model=models["motion_model"],
        image=picture["IMAGE"],
        positive=prompt["CONDITIONING"],
        width=128,
        height=80,
        pixel_frames=49,
        seed=7,
    )
    save_motion(canvas, motion, fps=16.0)
    canvas.column("3 · Stage II: the video", GREEN, 400)
    segments = canvas.add("SegmentOverlapConfig", plan_width=512, plan_height=320, plan_frames=49)
    latent = canvas.add(
        "CSG2KSampler",
        detail_model=models["detail_model"],
        vae=models["vae"],
        image=picture["IMAGE"],
        motion=motion["motion"],
        positive=prompt["CONDITIONING"],
        segments=segments["segments"],
        width=512,
        height=320,
        seed=7,
    )
    canvas.column("4 · Watch it", PURPLE, 560)
    video = canvas.add("SwiftVAEDecodeToVideo", samples=latent["latent"], vae=models["vae"])
    save_video(canvas, video, "swift/tiny")
    return canvas


def own_motion() -> Canvas:
    """Draw the graph that takes its motion from a clip."""
    canvas = Canvas("your-own-motion")
    canvas.column("Read me", GREY, 460)
    canvas.note(_OWN_MOTION, "Motion of your own", 640)
    canvas.column("1 · Your clip", YELLOW, 340)
    clip = canvas.add("LoadVideo", "Your clip", file="motion.mp4")
    parts = canvas.add("GetVideoComponents", video=clip["VIDEO"])
    cut = canvas.add("ImageFromBatch", "Cut", image=parts["images"], batch_index=0, length=49)
    small = canvas.add(
        "ImageScale",
        "To Stage I's size",
        image=cut["IMAGE"],
        upscale_method="area",
        width=128,
        height=80,
        crop="center",
    )
    canvas.column("2 · Picture, prompt, models", BLUE, 400)
    picture = canvas.add("LoadImage", "Your picture", image=PICTURE)
    models = canvas.add("LoadSwiftModels")
    prompt = canvas.add("CLIPTextEncode", "What happens", clip=models["clip"], text=MOVES)
    canvas.column("3 · Stage II: the video", GREEN, 400)
    segments = canvas.add("SegmentOverlapConfig", plan_width=512, plan_height=320, plan_frames=49)
    latent = canvas.add(
        "CSG2KSampler",
        detail_model=models["detail_model"],
        vae=models["vae"],
        image=picture["IMAGE"],
        motion=small["IMAGE"],
        positive=prompt["CONDITIONING"],
        segments=segments["segments"],
        width=512,
        height=320,
        seed=7,
    )
    canvas.column("4 · Watch it", PURPLE, 560)
    video = canvas.add(
        "SwiftVAEDecodeToVideo",
        "As fast as your clip",
        samples=latent["latent"],
        vae=models["vae"],
        fps=parts["fps"],
    )
    save_video(canvas, video, "swift/own-motion")
    return canvas


def save_motion(canvas: Canvas, motion: Node, *, fps: float) -> None:
    """Show the motion clip, and keep it as a file."""
    clip = canvas.add("CreateVideo", images=motion["motion"], fps=fps)
    save_video(canvas, clip, "swift/motion", "The motion clip")


def save_video(canvas: Canvas, video: Node, prefix: str, title: str = "Your video") -> None:
    """Show a video, and keep it as a file."""
    (output,) = (each["name"] for each in video.outputs)
    canvas.add("SaveVideo", title, video=video[output], filename_prefix=prefix)
