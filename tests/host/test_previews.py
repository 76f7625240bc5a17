"""Previews as ComfyUI's preview method wants them: none, by colours, by a tiny autoencoder."""

import pytest

from tests.host.lines import CORE, WEIGHTS
from tests.host.tiny import tiny

pytestmark = pytest.mark.host

LINES = """
import comfy.cli_args, comfy.latent_formats, latent_preview, pathlib, types
from PIL import ImageChops
previews = core("nodes.host.previews")
progress = core("swift_core.progress")
Method = comfy.cli_args.LatentPreviewMethod
wan = __import__("comfy.ldm.wan.vae2_2", fromlist=["WanVAE"])
with torch.device("meta"):
    model = wan.WanVAE(dim=160, z_dim=48, temperal_downsample=[False, True, True])
vae = types.SimpleNamespace(
    first_stage_model=model, latent_channels=48, device=torch.device("cpu"),
)
latent = noise(1, 48, 3, 4, 8, seed=1)
news = progress.Progress(phase=progress.Phase.REFINE, step=1, steps=2, preview=latent)

lines = []
class Kept(logging.Handler):
    def emit(self, record):
        if record.levelno >= logging.WARNING:
            lines.append(record.getMessage())
logging.getLogger().addHandler(Kept())

def draw(method, times=1):
    comfy.cli_args.args.preview_method = method
    lines.clear()
    made = previews.make_previewer(vae)
    shown = [made.show(news) for _ in range(times)][-1] if made else None
    return shown, [line for line in lines if "SwiftI2V" in line]

def same(one, other):
    return ImageChops.difference(one, other).getbbox() is None

folder = pathlib.Path(folder_paths.models_dir, "vae_approx")
folder.mkdir(exist_ok=True)

assert draw(Method.NoPreviews) == (None, [])
colours, said = draw(Method.Auto)
assert said == [] and colours.size == (512, 256)
rgb, said = draw(Method.Latent2RGB)
assert said == [] and same(rgb, colours)
table = comfy.latent_formats.Wan22()
line = (table.latent_rgb_factors, table.latent_rgb_factors_bias)
by_core = latent_preview.Latent2RGBPreviewer(*line)
core_colours = by_core.decode_latent_to_preview(latent[:, :, 1:2]).resize((512, 256))
far = ImageChops.difference(colours, core_colours).getextrema()
assert max(high for _, high in far) <= 4, far  # one step before it is made large
"""

WITH_TAE = (
    LINES
    + """
shown, said = draw(Method.TAESD)
assert same(shown, colours) and len(said) == 1 and "models/vae_approx has no" in said[0], said

import comfy.taesd.taehv
tae = fill_(comfy.taesd.taehv.TAEHV(latent_channels=48)).state_dict()
def put(name, changes=()):
    state = {key: weight.half().contiguous() for key, weight in tae.items() if key not in changes}
    save_file(state, folder / name)
    folder_paths.filename_list_cache.clear()

put("taew2_2.safetensors")
other, said = draw(Method.TAESD)
assert said == [] and not same(other, colours)
core_made = latent_preview.TAEHVPreviewerImpl(
    comfy.sd.VAE(comfy.utils.load_torch_file(str(folder / "taew2_2.safetensors")))
)
wanted = core_made.decode_latent_to_preview(latent[:, :, 1:2]).resize((512, 256))
assert same(other, wanted)
put("lighttaew2_2.safetensors")
named, said = draw(Method.TAESD)
assert said == [] and same(named, wanted)

asked = []
real = comfy.model_management.load_models_gpu
def load(models, memory_required=0, **rest):
    asked.append(memory_required)
    return real(models, memory_required=memory_required, **rest)
comfy.model_management.load_models_gpu = load
draw(Method.TAESD)
assert asked and 0 < max(asked) < 0.1 * core_made.taesd.memory_used_decode(
    latent[:, :, 1:2].shape, torch.float32
), asked

def fail(*_, **__):
    raise RuntimeError("as if")
kept = comfy.taesd.taehv.TAEHV.decode
comfy.taesd.taehv.TAEHV.decode = fail
shown, said = draw(Method.TAESD, times=3)
assert same(shown, colours) and len(said) == 1 and "as if" in said[0], said
def stop(*_, **__):
    raise comfy.model_management.InterruptProcessingException()
comfy.taesd.taehv.TAEHV.decode = stop
try:
    draw(Method.TAESD)
except comfy.model_management.InterruptProcessingException:
    pass
else:
    raise AssertionError("Cancel was swallowed")
comfy.taesd.taehv.TAEHV.decode = kept

for name in ("lighttaew2_2.safetensors", "taew2_2.safetensors"):
    (folder / name).write_bytes(b"no file at all")
    shown, said = draw(Method.TAESD)
    assert same(shown, colours) and len(said) == 1 and "does not load" in said[0], said
    (folder / name).unlink()
    folder_paths.filename_list_cache.clear()
"""
)

WITHOUT_TAE = (
    LINES
    + """
shown, said = draw(Method.TAESD)
assert same(shown, colours) and len(said) == 1 and "knows none for videos" in said[0], said
"""
)


def test_a_published_vae(inside, host):
    """Colours are core's to a rounding; a TAE draws as core's previewer; it fails in one line."""
    inside(CORE + (WITH_TAE if host.version >= (0, 4) else WITHOUT_TAE), weights=WEIGHTS)


def test_no_previews_are_made_where_none_are_wanted(start_server):
    server = start_server("--preview-method", "none")
    outcome = server.run(tiny(server).graph)
    assert outcome.previews == []
    assert outcome.error is None
