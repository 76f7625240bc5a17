"""The main path: its order, what it holds, what it hands out, and how it is stopped."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from swift_core.errors import GeometryError, MediaError, PromptError, ScheduleError, SegmentError
from swift_core.flow.recipe import Recipe, SolverName
from swift_core.geometry import PixelShape
from swift_core.media.pictures import fit_picture
from swift_core.pipeline import GenerationSettings, Keep, decode, generate
from swift_core.precision import BF16
from swift_core.progress import Phase
from swift_core.segments.plan import Interaction, SegmentSettings
from swift_core.stages.pixels import to_pixels
from swift_core.stages.prompt import PromptEmbeddings, read_prompt
from swift_core.stages.reference import build_reference
from swift_core.text.words import WordEncoder
from swift_core.tracking.carry import DetailCarrier
from swift_core.weights.seeded import seeded_model_set
from swift_core.weights.slots import Slot
from tests.models import RECIPE, RUNTIME, slot, small_dit, small_models, small_vae, small_words
from tests.weights import fill_

OUTPUT = PixelShape(pixel_frames=13, height=64, width=64)
SETTINGS = GenerationSettings(
    output=OUTPUT,
    prompt="zoom in",
    seed=4,
    segments=SegmentSettings(segment_length=2),
    motion_recipe=RECIPE,
    detail_recipe=RECIPE,
)


class Stopped(BaseException):
    """As ComfyUI's interrupt is by now: no Exception."""


@pytest.fixture
def picture():
    return torch.rand(70, 90, 3, generator=torch.Generator().manual_seed(0))


def run(models, picture, settings=SETTINGS, *, observe=None, **more):
    runtime = RUNTIME if observe is None else replace(RUNTIME, observe=observe)
    return torch.cat(list(generate(models, picture, settings, runtime=runtime, **more)))


def test_the_stations_come_in_order(picture):
    seen = []
    video = run(small_models(), picture, observe=seen.append)
    assert tuple(video.shape) == (13, 64, 64, 3)
    assert video.min() >= 0
    assert video.max() <= 1
    order = list(dict.fromkeys(progress.phase for progress in seen))
    assert order == list(Phase)
    # Every phase counts up to what it announced.
    for phase in Phase:
        units = [progress for progress in seen if progress.phase is phase]
        assert len(units) == units[-1].steps * units[-1].segments
    assert len([p for p in seen if p.phase is Phase.DECODE]) == 4


def test_frames_come_as_they_are_decoded(picture):
    seen = []
    frames = generate(
        small_models(), picture, SETTINGS, runtime=replace(RUNTIME, observe=seen.append)
    )
    assert len(next(frames)) == 1
    assert sum(progress.phase is Phase.DECODE for progress in seen) == 1
    assert len(next(frames)) == 4
    assert not torch.is_inference_mode_enabled()


def test_nothing_runs_before_the_settings_are_checked(picture):
    models = small_models()
    refuse = Slot(config=models.text.config, source="test", load=lambda _: pytest.fail("loaded"))
    models = replace(models, text=refuse)
    odd = replace(SETTINGS, output=replace(OUTPUT, width=72))
    with pytest.raises(GeometryError, match="72x64"):
        run(models, picture, odd)
    with pytest.raises(SegmentError, match="segment 9"):
        run(models, picture, replace(SETTINGS, segment_seeds={9: 1}))
    with pytest.raises(ScheduleError, match="reference_strength is 1"):
        replace(SETTINGS, reference_strength=1.0)
    with pytest.raises(MediaError, match="has 5 frames, the video is to have 13"):
        run(models, picture, motion=torch.zeros(5, 16, 16, 3))


def test_what_is_made_on_the_way_is_handed_out_at_once(picture):
    events = []
    keep = Keep(
        motion=lambda clip: events.append(("motion", tuple(clip.shape))),
        latent=lambda latent: events.append(("latent", tuple(latent.shape))),
    )
    run(small_models(), picture, keep=keep, observe=lambda p: events.append(p.phase))
    kept = [index for index, event in enumerate(events) if isinstance(event, tuple)]
    assert [events[index] for index in kept] == [
        ("motion", (13, 16, 16, 3)),
        ("latent", (1, 8, 4, 8, 8)),
    ]
    before = [events[index - 1] for index in kept]
    after = [events[index + 1] for index in kept]
    assert before == [Phase.MOTION_DECODE, Phase.REFINE]
    assert after == [Phase.REFERENCE, Phase.DECODE]


def test_a_kept_latent_decodes_to_the_same_frames(picture):
    latents = []
    models = small_models()
    video = run(models, picture, keep=Keep(latent=latents.append))
    assert torch.equal(torch.cat(list(decode(models, latents[0], runtime=RUNTIME))), video)


def test_a_motion_clip_of_ones_own_stands_in_for_stage_one(picture):
    clips, seen = [], []
    models = small_models()
    video = run(models, picture, keep=Keep(motion=clips.append))
    again = run(models, picture, motion=clips[0], observe=seen.append)
    assert torch.equal(video, again)
    assert {p.phase for p in seen} == {Phase.REFERENCE, Phase.REFINE, Phase.DECODE}
    other = run(models, picture, motion=1 - clips[0])
    assert not torch.equal(video, other)
    assert torch.equal(video[0], other[0]), "frame 0 is the picture, whatever the motion"


def test_the_stages_take_turns(picture):
    """No two models are held at a time: each is gone before the next one comes."""
    alive = []

    def fresh(given, make):
        def load(_precision):
            gc.collect()
            assert [ref for ref in alive if ref() is not None] == []
            module = make()
            alive.append(weakref.ref(module))
            return module

        return replace(given, load=load)

    models = small_models()
    names = ("text", "motion_high", "motion_low", "motion_vae", "detail", "detail_vae")
    loaded = {name: getattr(models, name).load(None) for name in names}
    import copy

    models = replace(
        models,
        **{
            name: fresh(getattr(models, name), lambda name=name: copy.deepcopy(loaded[name]))
            for name in names
        },
    )
    run(models, picture)
    # Text, VAE, high, low, VAE, VAE, detail, VAE.
    assert len(alive) == 8


@pytest.mark.parametrize("interaction", list(Interaction))
def test_stopped_at_every_possible_step(picture, interaction):
    """Nothing is left behind, and the next run is as a fresh one."""
    models = small_models()
    settings = replace(
        SETTINGS,
        segments=SegmentSettings(segment_length=2, interaction=interaction),
        output=replace(OUTPUT, pixel_frames=9),
    )
    seen = []
    fresh = run(models, picture, settings, observe=lambda p: seen.append(p.phase))

    def live_tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    for stop_at in range(len(seen)):
        count = [0]

        def observe(_progress, count=count, stop_at=stop_at):
            if count[0] == stop_at:
                raise Stopped
            count[0] += 1

        before = live_tensors()
        with pytest.raises(Stopped):
            run(models, picture, settings, observe=observe)
        assert live_tensors() == before, f"stopped in {seen[stop_at]}"
        assert not torch.is_inference_mode_enabled()
    assert torch.equal(run(models, picture, settings), fresh)


def test_an_unfinished_stream_can_be_dropped(picture):
    models = small_models()
    frames = generate(models, picture, SETTINGS, runtime=RUNTIME)
    next(frames)
    frames.close()
    assert not torch.is_inference_mode_enabled()
    run(models, picture)


def test_the_reference_is_the_picture_and_the_enlarged_clip(picture):
    """Built as one piece by hand: bicubic to the output's size, frame 0 replaced, encoded."""
    vae = small_vae()
    motion = torch.rand(13, 16, 16, 3, generator=torch.Generator().manual_seed(1))
    made = build_reference(vae, picture, motion, output=OUTPUT, runtime=RUNTIME)
    channels_first = motion.permute(0, 3, 1, 2)
    large = torch.nn.functional.interpolate(
        channels_first, size=(64, 64), mode="bicubic", antialias=True
    )
    large = large.clamp(0, 1).permute(0, 2, 3, 1)
    large[0] = fit_picture(picture, height=64, width=64)
    expected = vae.encode(to_pixels(large, RUNTIME))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
    alone = vae.encode(to_pixels(large[:1], RUNTIME))
    torch.testing.assert_close(made[:, :, :1], alone, atol=1e-5, rtol=0)


def test_the_reference_can_hold_the_pictures_detail(picture):
    """Frame by frame in order, whatever chunks the VAE takes; and the same each time."""
    vae = small_vae()
    fitted = fit_picture(picture, height=64, width=64)
    small = fit_picture(fitted, height=16, width=16)
    motion = torch.stack([small.roll(frame // 4, 1) for frame in range(13)])

    def build(carry):
        return build_reference(vae, picture, motion, output=OUTPUT, carry=carry, runtime=RUNTIME)

    carrier = DetailCarrier(fitted, height=16, width=16, share=0.5)
    large = [carrier.carry(frame, fit_picture(frame, height=64, width=64)) for frame in motion[1:]]
    clip = torch.stack([fitted, *large])
    made = build(0.5)
    torch.testing.assert_close(made, vae.encode(to_pixels(clip, RUNTIME)), atol=1e-5, rtol=0)
    assert torch.equal(made, build(0.5))
    plain = build(0.0)
    assert torch.equal(made[:, :, :1], plain[:, :, :1])
    assert not torch.allclose(made[:, :, 1:], plain[:, :, 1:], atol=1e-3)
    with pytest.raises(GeometryError, match="carry is 2"):
        build(2.0)


def test_a_run_carries_what_its_settings_say(picture):
    latents = {}
    for carry in (0.0, 1.0):
        kept = Keep(latent=lambda latent, carry=carry: latents.update({carry: latent}))
        run(small_models(), picture, replace(SETTINGS, carry=carry), keep=kept)
    assert torch.equal(latents[0.0][:, :, :1], latents[1.0][:, :, :1])
    assert not torch.equal(latents[0.0], latents[1.0])
    with pytest.raises(GeometryError, match="carry is -1"):
        replace(SETTINGS, carry=-1.0)


def test_the_anchor_is_never_sampled(picture):
    latents = []
    run(small_models(), picture, keep=Keep(latent=latents.append))
    fitted = fit_picture(picture, height=64, width=64).unsqueeze(0)
    anchor = small_vae().encode(to_pixels(fitted, RUNTIME))
    torch.testing.assert_close(latents[0][:, :, :1], anchor, atol=1e-5, rtol=0)


def test_a_negative_prompt_is_embedded_only_where_it_is_used(picture):
    read = []

    class Noting(WordEncoder):
        def encode(self, prompt, *, max_tokens):
            read.append(prompt)
            return super().encode(prompt, max_tokens=max_tokens)

    words = fill_(Noting(small_words().config))
    models = small_models(text=slot(words.config, words))
    settings = replace(SETTINGS, negative="blur")
    run(models, picture, settings)
    assert read == ["zoom in"]
    guided = replace(settings.detail_recipe, cfg=2.0)
    run(models, picture, replace(settings, detail_recipe=guided))
    assert read == ["zoom in", "zoom in", "blur"]


def test_guidance_without_a_negative_prompt_is_refused():
    guided = Recipe(steps=1, cfg=2.0, sigma_shift=5.0, solver=SolverName.EULER)
    prompt = PromptEmbeddings(positive=torch.zeros(1, 1, 16), negative=None)
    with pytest.raises(PromptError, match="cfg 2 guides away from a negative prompt"):
        read_prompt(small_dit(), prompt, guided)


def test_one_model_can_be_both_stages(picture):
    """TI2V's way: no reference channels, and no second expert."""
    dit = small_dit()
    both = slot(dit.config, dit)
    models = small_models(motion_high=both, motion_low=None, detail=both)
    latents = {}
    for strength in (None, 0.0, 0.5, 0.9):
        kept = Keep(latent=lambda latent, strength=strength: latents.update({strength: latent}))
        run(models, picture, replace(SETTINGS, reference_strength=strength), keep=kept)
    assert torch.equal(latents[None], latents[0.5]), "the default without reference channels"
    assert not torch.equal(latents[0.0], latents[0.5])


def test_bf16_runs_and_stays_near_fp32(picture):
    models = seeded_model_set()
    settings = replace(SETTINGS, motion_recipe=models.motion_recipe)
    latents = []
    for runtime in (RUNTIME, replace(RUNTIME, precision=BF16)):
        for _ in generate(
            models, picture, settings, runtime=runtime, keep=Keep(latent=latents.append)
        ):
            pass
    exact, rough = latents
    assert rough.dtype == torch.float32, "latents are fp32 between steps"
    # Two stages and two VAE passes of random weights in bf16 (each 1-2 %) feed each other.
    assert (rough - exact).norm() / exact.norm() < 0.15
