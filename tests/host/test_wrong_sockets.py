"""What fits a socket's type and still cannot be used gets a sentence too."""

import pytest

from tests.host.inside import run_inside
from tests.host.lines import SMALL, WEIGHTS

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def said(host, tmp_path_factory):
    """By case, what a node says."""
    return run_inside(host, tmp_path_factory.mktemp("sockets"), SMALL + CASES, weights=WEIGHTS)


CASES = """
import comfy.model_patcher

motion, detail, vae, clip = load_bundled()
words = clip.encode_from_tokens_scheduled(clip.tokenize("pan left"))
picture = noise(1, 64, 64, 3, seed=1).sigmoid()
frames = noise(9, 32, 32, 3, seed=1).sigmoid()
latent = {"samples": noise(1, 48, 3, 8, 8, seed=1)}
result = {}

encoded = []
autoencoder.WanVAE.encode_stream = lambda *_, **__: encoded.append(1)

def say(case, node, **inputs):
    encoded.clear()
    try:
        NODES[node].execute(**inputs)
    except Exception as error:
        result[case] = [type(error).__name__, str(error), len(encoded)]
    else:
        result[case] = ["", "taken", len(encoded)]

def stage1(case, **changes):
    inputs = dict(
        motion_model=motion, image=picture, positive=words, width=32, height=32, pixel_frames=9,
        seed=1, steps=1, cfg=1.0,
    )
    say(case, "MotionReference360P", **inputs | changes)

def stage2(case, **changes):
    inputs = dict(
        detail_model=detail, vae=vae, image=picture, motion=frames, positive=words, width=128,
        height=128, seed=1, steps=1, cfg=1.0,
    )
    say(case, "CSG2KSampler", **inputs | changes)

def other_vae():
    import comfy.taesd.taesd
    made = comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD().state_dict())
    made.throw_exception_if_invalid()
    return made

no_wan = comfy.model_patcher.ModelPatcher(torch.nn.Linear(2, 2), "cpu", "cpu")
a14b, ti2v = as_model(small_dit(36, 16), "a14b"), as_model(small_dit(48), "ti2v")
t2v = as_model(small_dit(16, 16), "t2v")
wan21 = core("nodes.host.exact_vae").SwiftVAE(small_vae(16), torch.float32)
foreign = [[noise(1, 7, 4096, seed=1), {}]]

stage1("no motion model", motion_model=None)
stage1("no vae", motion_model=a14b)
stage1("both", vae=vae)
files = core("nodes.types").CoreMotionModel(high=a14b, low=None, vae=wan21)
stage1("a VAE beside files", motion_model=files, vae=wan21)
stage1("an expert beside files", motion_model=files, motion_model_low=a14b)
stage1("no Wan model in Stage I", motion_model=no_wan, vae=vae)
stage1("a VAE of another model", motion_model=a14b, vae=vae)
stage1("a text to video model", motion_model=t2v, vae=wan21)
stage1("two experts of two models", motion_model=a14b, motion_model_low=ti2v, vae=wan21)
stage1("no negative", cfg=3.0)
stage1("no negative for a MODEL", motion_model=ti2v, vae=vae, cfg=3.0)
stage1("another text encoder", positive=foreign)
stage1("an odd length", pixel_frames=10)
stage1("an odd size", width=41)
stage1("an odd size for a MODEL", motion_model=a14b, vae=wan21, width=40)

stage2("no detail model", detail_model=None)
stage2("no detail VAE", vae=None)
stage2("no Wan model in Stage II", detail_model=no_wan)
stage2("Stage I's model", detail_model=a14b)
stage2("Stage I's VAE", detail_model=ti2v, vae=wan21)
stage2("Stage I's VAE for our own", vae=wan21)
stage2("another VAE", vae=other_vae())
stage2("seeds", segment_seeds="2:77, x")
stage2("a seed for no segment", segment_seeds="5:1")
stage2("an odd size of the video", width=100, height=100)
settings = NODES["SegmentOverlapConfig"].execute(2, 1, interaction="read-only").result[0]
stage2("read-only with a MODEL", detail_model=ti2v, segments=settings)

stage1("no such solver", solver="heun")
say("no such rope", "SegmentOverlapConfig", segment_length=2, neighbors=1, rope="left")
say("no such interaction", "SegmentOverlapConfig", segment_length=2, neighbors=1, interaction="no")
video = {"samples": latent, "vae": vae, "fps": 16.0}
say("no such codec", "SwiftVAEDecodeToVideo", **video, codec="mpeg")
for codec in ("prores", "ffv1"):
    say(f"a quality for {codec}", "SwiftVAEDecodeToVideo", **video, codec=codec, quality=20)
say("no such format", "LoadSwiftModels", models="my files", weight_format="fp4")
to_video = {"fps": 16.0, "codec": "h264"}
for node, more in (("SwiftVAEDecodeTiled", {}), ("SwiftVAEDecodeToVideo", to_video)):
    say(f"no VAE in {node}", node, samples=latent, vae=None, **more)
    say(f"another VAE in {node}", node, samples=latent, vae=other_vae(), **more)
    picture_latent = {"samples": noise(1, 48, 8, 8, seed=1)}
    say(f"a picture in {node}", node, samples=picture_latent, vae=vae, **more)
    wrong = {"samples": noise(1, 16, 3, 8, 8, seed=1)}
    say(f"another latent in {node}", node, samples=wrong, vae=vae, **more)
    two = {"samples": noise(2, 48, 3, 8, 8, seed=1)}
    say(f"two clips in {node}", node, samples=two, vae=vae, **more)
"""


SAID = {
    "no motion model": (
        "there is no Stage I model: choose motion_high in Load SwiftI2V Models, or its bundled set."
    ),
    "no vae": (
        "a core MODEL in motion_model needs its VAE: connect VAELoader with wan_2.1_vae (for A14B) "
        "or wan2.2_vae (for TI2V-5B) to vae."
    ),
    "both": (
        "motion_model brings its own VAE and experts: disconnect motion_model_low and vae, or "
        "connect a core MODEL."
    ),
    "a VAE beside files": "motion_model brings its own VAE and experts: disconnect ",
    "an expert beside files": "motion_model brings its own VAE and experts: disconnect ",
    "a quality for prores": "prores has one quality only: set quality to -1.",
    "a quality for ffv1": "ffv1 has one quality only: set quality to -1.",
    "no Wan model in Stage I": "the MODEL input holds Linear, which is no Wan model: connect ",
    "a VAE of another model": (
        "Stage I's MODEL takes 36 channels and makes latents of 16, the VAE makes 48: connect "
        "Wan2.2-I2V-A14B with wan_2.1_vae, or TI2V-5B with wan2.2_vae."
    ),
    "a text to video model": "Stage I's MODEL takes 16 channels and makes latents of 16, the VAE ",
    "two experts of two models": (
        "motion_model_low takes 48 channels, motion_model 36: connect the two experts of one "
        "model, or only motion_model."
    ),
    "no negative": (
        "cfg 3 guides away from a negative prompt, but there is none; connect one (it may be "
        "empty) or set cfg to 1."
    ),
    "no negative for a MODEL": "cfg 3 guides away from a negative prompt, but there is none; ",
    "another text encoder": "positive holds text embeddings 4096 wide, the model reads ",
    "an odd length": "10 frames cannot be encoded: the number must be 4n+1; the nearest is 9.",
    "an odd size": "size 41x32 does not work: both sides must be multiples of ",
    "an odd size for a MODEL": (
        "size 40x32 does not work: both sides must be multiples of 16; the nearest is 48x32."
    ),
    "no detail model": (
        "there is no Stage II model or VAE: choose detail and detail_vae in Load SwiftI2V Models, "
        "or its bundled set."
    ),
    "no detail VAE": "there is no Stage II model or VAE: ",
    "no Wan model in Stage II": "the MODEL input holds Linear, which is no Wan model: connect ",
    "Stage I's model": (
        "Stage II's MODEL takes 36 channels and makes latents of 16, the VAE makes 48: connect "
        "Wan2.2-TI2V-5B, or its form with 96 input channels, and wan2.2_vae."
    ),
    "Stage I's VAE": "Stage II's MODEL takes 48 channels and makes latents of 48, the VAE makes 16",
    "Stage I's VAE for our own": (
        "detail_model makes latents of 48 channels, the VAE 16: connect the vae that "
        "LoadSwiftModels gives beside it."
    ),
    "another VAE": "the VAE input holds a TAESD with 4 latent channels, which is not a Wan VAE; ",
    "seeds": (
        'segment_seeds: "x" cannot be read; write segment:seed, for example "2:77, 4:5", or leave '
        "it empty."
    ),
    "a seed for no segment": "segment 5 cannot be re-rolled: the plan has 1 segments, counted ",
    "an odd size of the video": "size 100x100 does not work: both sides must be multiples of 64; ",
    "read-only with a MODEL": (
        "interaction read-only keeps the keys of the conditions, which a core MODEL does not give "
        "away: use bidirectional, or LoadSwiftModels' detail model."
    ),
}
SAID |= {  # programs only: the page offers none, and newer ComfyUIs refuse them themselves
    "no such solver": "solver is 'heun'; choose one of euler, renoise, unipc.",
    "no such rope": "rope is 'left'; choose one of global, local.",
    "no such interaction": "interaction is 'no'; choose one of bidirectional, read-only.",
    "no such codec": "codec is 'mpeg'; choose one of h264, hevc10, prores, ffv1.",
    "no such format": "weight_format is 'fp4'; choose one of default, fp8_e4m3fn, ",
}
DECODERS_SAY = {
    "no VAE": (
        "there is no VAE: choose one in Load SwiftI2V Models, or its bundled set, or connect "
        "VAELoader."
    ),
    "another VAE": "the VAE input holds a TAESD with 4 latent channels, which is not a Wan VAE; ",
    "a picture": "the latent is 1x48x8x8; this VAE decodes clips of 48 channels (1x48xframes x ",
    "another latent": "the latent is 1x16x3x8x8; this VAE decodes clips of 48 channels ",
    "two clips": "the latent holds 2 clips; decode one at a time (LatentFromBatch).",
}
SAID |= {
    f"{case} in {node}": words
    for case, words in DECODERS_SAY.items()
    for node in ("SwiftVAEDecodeTiled", "SwiftVAEDecodeToVideo")
}


OURS = ("SwiftError", "CheckpointError", "GeometryError", "PromptError", "SegmentError")


@pytest.mark.parametrize("case", SAID)
def test_sentences(said, case):
    """Whole, or how it begins; of our own kind of error, and before anything was encoded."""
    kind, words, brought = said[case]
    assert words.startswith(SAID[case])
    assert words.endswith(".")
    assert kind in (
        "SwiftError",
        "CheckpointError",
        "PromptError",
        "GeometryError",
        "SegmentError",
        "MediaError",
    )
    assert not brought


def test_nothing_else_was_asked(said):
    assert set(said) == set(SAID)
