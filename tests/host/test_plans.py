"""The plan inside ComfyUI: its card's memory and speed, refusals before any sampling, a budget."""

import re

import pytest

from tests.host.lines import SMALL, WEIGHTS

pytestmark = pytest.mark.host

CARD = (
    SMALL
    + """
import types
plans_of, hosted = core("nodes.host.plans"), core("nodes.host.vae")
memory, planned = core("nodes.host.memory"), core("swift_core.vae.memory")
Speed = core("swift_core.stages.speed").Speed
manager, card, asked = comfy.model_management, torch.device("cuda"), []

def measure(device, *, dtype):
    asked.append([device.type, str(dtype)])
    return Speed(flops=2e14, copy_nbytes=1e10, origin="measured")

plans_of.measure_speed = measure
manager.get_torch_device = manager.vae_device = lambda: card
manager.vae_dtype = lambda device, formats: formats[0]
manager.should_use_bf16 = lambda device: True
manager.free_memory = lambda nbytes, device: asked.append([device.type, nbytes])
manager.extra_reserved_memory = lambda: 10**9

def hold(gigabytes):
    manager.get_total_memory = lambda device=None, **_: int(gigabytes * 10**9)

def shown(**inputs):
    given = NODES["SegmentOverlapConfig"].execute(3, 1, **inputs)
    assert given.ui.as_dict()["text"] == (given.result[1],)
    return given.result[1]
"""
)

HEARD = """
heard = []

class Kept(logging.Handler):
    def emit(self, record):
        heard.append(record.getMessage())

logging.getLogger(plans_of.__name__).addHandler(Kept(logging.WARNING))
"""

WORDS = """
size = {"plan_width": 640, "plan_height": 320}
hold(24)
result = {"large": shown(**size)}
before = planned.decode_peak.cache_info().misses, planned.encode_peak.cache_info().misses
assert shown(**size) == result["large"]
shown(**size, rope="local", right_neighbors=2)
after = planned.decode_peak.cache_info().misses, planned.encode_peak.cache_info().misses
assert before == after, "nobody waits for the same plan twice"

config = core("swift_core.vae.config").WAN22_VAE
weights = hosted.weights_nbytes(config, torch.bfloat16)
room = 0.85 * (24e9 - weights - 1e9)
assert memory.most_nbytes(card, weights_nbytes=weights) == int(room)
least = planned.decode_peak(config, 320, 640, torch.bfloat16, planned.WHOLE).working_nbytes
hold((0.6 * least / 0.85 + weights) / 1e9 + 1)
result["bands"] = shown(**size)
hold((0.2 * least / 0.85 + weights) / 1e9 + 1)
result["small"] = shown(**size)
name = r"It would fit as (\\d+)x(\\d+)"
import re
width, height = map(int, re.search(name, result["small"]).groups())
result["smaller"] = shown(plan_width=width, plan_height=height)
manager.vae_device = lambda: torch.device("cpu")
result["unbounded"] = shown(**size)

def broken(device, *, dtype):
    raise torch.cuda.OutOfMemoryError("as if")

assert asked == [["cuda", 1 << 30], ["cuda", "torch.bfloat16"]], asked
plans_of._measured.cache_clear()
plans_of.measure_speed = broken
result["not measured"] = shown(**size)
"""


def test_the_plan_is_for_comfyuis_card(inside):
    said = inside(CARD + WORDS, weights=WEIGHTS)
    large = said["large"].splitlines()
    memory = next(index for index, line in enumerate(large) if line.startswith("memory"))
    assert re.fullmatch(r"memory    \d\.\d GB for a VAE on the device, 0\.0 GB .*", large[memory])
    stages = [line.split("GB  ")[1] for line in large[memory + 1 : memory + 4]]
    assert stages == [
        "motion: decode: whole frames",
        "reference: whole frames",
        "decode: whole frames",
    ]
    assert large[memory + 4].strip() == "DiTs: ComfyUI keeps as much of them on the card as fits"
    assert re.match(r"time .* at 200 TFLOP/s and 10 GB/s to the card \(measured\)", large[-7])
    assert re.search(r"GB  decode: \d+ bands over", said["bands"])

    assert "GB  decode:" not in said["small"]
    last = said["small"].splitlines()[-1]
    assert re.fullmatch(
        r"memory    not on this card: decode: decoding 640x320 takes at least \d\.\d GB, \d\.\d GB "
        r"are free beside the weights\. It would fit as \d+x\d+, or where that much is free\.",
        last,
    )
    assert "GB  decode:" in said["smaller"]
    for plan in (said["small"], said["unbounded"]):
        assert plan.startswith(said["large"].split("memory ")[0])
        assert "DiTs" not in plan
    assert "not on this card" not in said["unbounded"]
    assert "(near an RTX 4090's)" in said["not measured"]


HOST_MEMORY = """
size = {"plan_width": 640, "plan_height": 320}
config = core("swift_core.vae.config").WAN22_VAE
weights = hosted.weights_nbytes(config, torch.bfloat16)

def least(parks):
    found = [
        planned.decode_peak(config, 320, 640, torch.bfloat16, banding)
        for banding in (planned.WHOLE, *planned._bandings(len(config.dim_mult)))
        if banding.parks == parks
    ]
    return min(found, key=lambda peak: peak.working_nbytes)

between = (least(True).working_nbytes + least(False).working_nbytes) / 2
hold((between / 0.85 + weights) / 1e9 + 1)
result = {"roomy": shown(**size)}
plans_of.free_host_nbytes = lambda: 10**6
result["short"] = shown(**size)

Recipe = core("swift_core.weights.set_file").DEFAULT_RECIPE
generation = core("swift_core.stages.plan")
with torch.device("meta"):
    wan = __import__("comfy.ldm.wan.vae2_2", fromlist=["WanVAE"])
    model = wan.WanVAE(dim=160, z_dim=48, temperal_downsample=[False, True, True])
vae = types.SimpleNamespace(
    first_stage_model=model, latent_channels=48, vae_dtype=torch.bfloat16,
    patcher=types.SimpleNamespace(load_device=card, model_size=lambda: weights),
)
made = generation.plan_generation(
    PixelShape(pixel_frames=81, height=320, width=640), plans.SegmentSettings(),
    motion_recipe=Recipe, detail_recipe=Recipe, has_motion=True,
)
roomier = plans_of.plan_with_vae(generation.PUBLISHED_MODELS, made, vae)
assert "parked in host memory" in roomier.describe()
assert roomier.memory.host_nbytes > 10**6
result["heard"] = heard
hold((0.5 * least(True).working_nbytes / 0.85 + weights) / 1e9 + 1)
try:
    plans_of.plan_with_vae(generation.PUBLISHED_MODELS, made, vae)
except core("swift_core.errors").BudgetError as error:
    result["refused"] = str(error)
result["too small"] = shown(**size)
"""


def test_host_memory_that_others_have_now_refuses_nothing(inside):
    """It may be free when the decode comes, and with less of it that is only slower."""
    said = inside(CARD + HEARD + HOST_MEMORY, weights=WEIGHTS)
    assert "parked in host memory" in said["roomy"]
    *plan, last = said["short"].splitlines()
    assert "\n".join(plan) == said["roomy"]
    wants = r"\d+\.\d GB of host memory must be free, now 0\.0 GB are"
    assert re.fullmatch(rf"memory    by then {wants}", last)
    (warning,) = said["heard"]
    assert re.fullmatch(rf"SwiftI2V: {wants}; parking the VAE's state may be slow", warning)
    assert said["refused"].startswith("decode: decoding 640x320 takes at least ")
    assert "memory    not on this card: decode: " in said["too small"].splitlines()[-1]


SAMPLER = """
import re
motion, detail, vae, clip = load_bundled()
words = clip.encode_from_tokens_scheduled(clip.tokenize("pan left"))
errors = core("swift_core.errors")
held = comfy.model_management
real_load, real_total, brought = held.load_models_gpu, held.get_total_memory, []

def load(models, **other):
    brought.extend(type(patcher.model).__name__ for patcher in models)
    return real_load(models, **other)

held.load_models_gpu = load

def sample(detail, vae, width=256, height=384):
    del brought[:]
    sampler = NODES["CSG2KSampler"]
    sampler.hidden = __import__("types").SimpleNamespace(dynprompt=None, unique_id="1")
    return sampler.execute(
        detail, vae, noise(1, 96, 64, 3, seed=1).sigmoid(),
        noise(9, height // 4, width // 4, 3, seed=2).sigmoid(), words, width, height, 3,
        steps=1, cfg=1.0, resume=False,
    )

def refused(*given, **size):
    try:
        sample(*given, **size)
    except errors.BudgetError as error:
        assert brought == [], brought
        return str(error)
    raise AssertionError("it was sampled")

planned, config = core("swift_core.vae.memory"), vae.first_stage_model.vae.config
bands = core("swift_core.vae.bands")

def finest(plan_of, height=384, width=256):
    found = [
        plan_of(config, height, width, torch.float32, banding).working_nbytes
        for banding in planned._finest(len(config.dim_mult))
    ]
    return min(found)

encode, decode = finest(planned.encode_peak), finest(planned.decode_peak)
assert encode < 0.9 * decode, "only the decode does not fit"
weights = vae.patcher.model_size()
between = (encode + decode) / 2
"""

REFUSED = (
    SAMPLER
    + """
whole = sample(detail, vae)
assert brought
held.get_total_memory = lambda device=None, **_: weights + between / 0.85
result = [refused(detail, vae)]
width, height = map(int, re.search(r"It would fit as (\\d+)x(\\d+)", result[0]).groups())
smaller = sample(detail, vae, width=width, height=height)
assert smaller.result[0]["samples"].shape[3:] == (height // 8, width // 8)
result += [whole.result[1], smaller.result[1]]
held.get_total_memory = real_total
"""
)


def test_what_cannot_be_decoded_is_not_sampled(inside):
    refusal, whole, smaller = inside(SMALL + REFUSED, weights=WEIGHTS)
    assert re.fullmatch(
        r"decode: decoding 256x384 takes at least 0\.\d GB, 0\.\d GB are free beside the weights\. "
        r"It would fit as \d+x\d+, or where that much is free\.",
        refusal,
    )
    assert "GB  decode: whole frames" in whole
    for plan in (whole, smaller):
        took = plan[plan.index("took ") :].splitlines()
        assert re.fullmatch(r"took      \d+\.\d s, loading included", took[0])
        assert took[1].endswith(", 100% of the picture's detail carried along")
        rows = [took[1].rpartition(",")[0], *took[2:]]
        phases = [re.fullmatch(r" +([\d.]+) s  (\w+): [\d.e-]+ TFLOP/s", row) for row in rows]
        assert [phase[2] for phase in phases] == ["reference", "refine"]
        assert "ComfyUI keeps as much of them on the card as fits" in plan


BUDGET = (
    SAMPLER
    + """
load_models = NODES["LoadSwiftModels"].execute
latent = vae.encode(noise(9, 384, 256, 3, seed=5).sigmoid())
free, allowed = vae.decode(latent), []

autoencoder = core("swift_core.vae.autoencoder")
real_decode, used = autoencoder.WanVAE.decode_chunk, []

def decode_chunk(self, *inputs, banding, **other):
    if not inputs[0].is_meta:
        used.append(banding)
    return real_decode(self, *inputs, banding=banding, **other)

autoencoder.WanVAE.decode_chunk = decode_chunk

def bounded(nbytes):
    return load_models(models="swift-tiny (bundled)", memory_gb=nbytes / 1e9).result

_, _, roomy, _ = bounded(8e9)
assert torch.equal(roomy.decode(latent), free) and used[-1].is_whole
*models, tight, _ = bounded(weights + 1.2 * decode)
assert torch.equal(tight.decode(latent), free)
assert not used[-1].is_whole
for node in ("VAEDecode", "SwiftVAEDecodeTiled"):
    kind = NODES[node]
    run = kind.execute if hasattr(kind, "execute") else kind().decode
    del used[:]
    run(vae=tight, samples={"samples": latent})
    assert not used[-1].is_whole
import copy
assert copy.copy(tight).budget_nbytes == tight.budget_nbytes

*_, short, _ = bounded(weights + between)
result = [refused(detail, short)]
def said(work, *given, **options):
    try:
        work(*given, **options)
    except errors.BudgetError as error:
        return str(error)
    raise AssertionError("it went on")

result.append(said(short.decode, latent))
motion, small, _, _ = bounded(2e7)
result.append(refused(small, vae))
inputs = dict(image=noise(1, 64, 64, 3, seed=1).sigmoid(), positive=words, seed=1, steps=1, cfg=1.0)
run = NODES["MotionReference360P"].execute
result.append(said(run, motion, width=256, height=192, pixel_frames=9, **inputs))
assert brought == []
roomy_motion, *_ = bounded(8e9)
one = run(roomy_motion, width=64, height=64, pixel_frames=5, **inputs).result[0]
*_, automatic = [load_models(models="swift-tiny (bundled)").result[0]]
assert torch.equal(one, run(automatic, width=64, height=64, pixel_frames=5, **inputs).result[0])
"""
)


def test_a_memory_budget_is_kept_and_changes_no_frame(inside):
    sampler, decode, dit, stage1 = inside(SMALL + BUDGET, weights=WEIGHTS)
    allows = r" memory_gb of Load SwiftI2V Models allows 0\.\d+ GB\."
    assert re.search(r"^decode: decoding 256x384 .* It would fit as .* is free\." + allows, sampler)
    assert re.fullmatch(
        r"decoding 256x384 takes at least .* Choose a smaller video, or free memory\." + allows,
        decode,
    )
    for refusal in (dit, stage1):
        assert re.fullmatch(
            r"the DiT takes 0\.\d+ GB \(0\.\d+ GB of it for one step\)\. Choose a smaller video or "
            r"shorter segments, or raise memory_gb: that of Load SwiftI2V Models allows 0\.02 GB\.",
            refusal,
        )


FILES = """
import pathlib
errors = core("swift_core.errors")
drawn = fill_(autoencoder.WanVAE(replace(vaes.WAN21_VAE, encoder_dim=96, decoder_dim=96)))
folder = pathlib.Path(folder_paths.models_dir, "vae")
folder.mkdir(parents=True, exist_ok=True)
loading, checkpoint = core("nodes.host.loading"), core("swift_core.weights.checkpoint")
own_files = core("nodes.host.own_files")
seen = []
own_files.load_vae = lambda file, budget_nbytes: seen.append(budget_nbytes) or "a vae"
own_files.inspect_file = lambda slot, *_: __import__("types").SimpleNamespace(path=slot)
own_files._check_detail = lambda files: None
load = NODES["LoadSwiftModels"].execute
load(models="my files", detail_vae="a.safetensors", memory_gb=12.5)
load(models="my files", detail_vae="a.safetensors")
assert seen == [12_500_000_000, None], seen
"""


def test_files_get_the_budget_too(inside):
    inside(SMALL + FILES, weights=WEIGHTS)


RESUMED = """
class Graph:
    def __init__(self, shown=0, constant=1, other=0, **loading):
        segments = {"segment_length": 3, "plan_width": shown, "plan_height": shown}
        segments["plan_frames"] = shown
        links = {"detail_model": ["1", 1], "segments": ["3", 0], "image": ["4", 0]}
        self.nodes = {
            "1": {"class_type": "LoadSwiftModels", "inputs": {"models": "my files", **loading}},
            "2": {"class_type": "CSG2KSampler", "inputs": {**links, "seed": constant}},
            "3": {"class_type": "SegmentOverlapConfig", "inputs": segments},
            "4": {"class_type": "Another", "inputs": {"memory_gb": other, "plan_width": other}},
            "5": {"class_type": "Words", "inputs": {"text": str(loading)}},
        }
    def has_node(self, name): return name in self.nodes
    def get_node(self, name): return self.nodes[name]

resuming = core("nodes.host.resume")
reference = noise(1, 48, 3, 2, 2, seed=1)
opened = []

class Store:
    def __init__(self, folder, seeds): opened.append(folder.name)

resuming.SegmentStore = Store
same = {}, {"memory_gb": 0.0}, {"memory_gb": ["5", 0]}, {"memory_gb": 8.0}, {"shown": 640}
for loading in (*same, {"detail": "other.safetensors"}, {"other": 2}):
    resuming.open_store(Graph(**loading), "2", (reference,), {})
assert len(set(opened[: len(same)])) == 1, opened
assert len(set(opened)) == 3, opened

logging.getLogger(resuming.__name__).addHandler(Kept(logging.WARNING))
for constant in (torch.zeros(2), object(), {2: 1, "a": 1}):
    assert resuming.open_store(Graph(constant=constant), "2", (reference,), {}) is None
assert len(heard) == 3 and "Object of type Tensor is" in heard[0], heard
segments = core("swift_core.segments.plan").plan_segments(3, plans.SegmentSettings())
assert resuming.finished_of(None, segments, reference) == Finished()

taken = core("nodes.host.plans").describe_taken
Phase, stage = core("swift_core.progress").Phase, core("swift_core.stages.plan")
recipe = Recipe(steps=4, cfg=1.0, sigma_shift=5.0, solver=SolverName.EULER)
made = stage.plan_generation(
    PixelShape(pixel_frames=81, height=1408, width=2560), plans.SegmentSettings(),
    motion_recipe=recipe, detail_recipe=recipe, has_motion=True,
)
result = taken(made, {Phase.REFERENCE: 10.0, Phase.REFINE: 100.0}, resumed=0).splitlines()
result += taken(made, {Phase.REFERENCE: 10.0, Phase.REFINE: 100.0}, resumed=3).splitlines()[-1:]
"""


def test_a_run_that_was_short_of_memory_goes_on_with_less(inside):
    """Frames do not depend on the budget; and no rate is told of work that was not done."""
    plans_of = 'plans_of = core("nodes.host.plans")'
    assert inside(SMALL + plans_of + HEARD + RESUMED, weights=WEIGHTS) == [
        "took      110.0 s, loading included",
        "            10.0 s  reference: 103 TFLOP/s",
        "           100.0 s  refine: 72.8 TFLOP/s",
        "           100.0 s  refine: 3 of 7 segments were there already",
    ]
