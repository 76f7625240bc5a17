"""The command ``generate``: check everything, run the main path, write what was made."""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files import check_writable, reserved
from ..geometry import pixel_frames_of
from ..media.codecs import VideoCodec, video_nbytes
from ..media.fidelity import Fidelity, FidelityMeter
from ..media.pictures import fit_picture, load_picture
from ..media.sources import ClipSource
from ..memory.streaming import StreamReport
from ..pipeline import GenerationSettings, Keep, generate, plan
from ..shapes import Tensor
from ..stages.plan import GenerationPlan, planned_models
from ..stages.resources import Resources
from ..stages.run_plan import RunPlan, plan_run
from ..stages.runtime import Runtime, log_streamed
from ..stages.speed import speed_of
from ..weights.latents import SavedLatent, save_latent
from ..weights.model_set import ModelSet, add_loras, loras_of
from .disk import check_disk
from .loras import loras_as_data, open_loras
from .reporting import Bars, machine, peak_memory, write_json
from .settings import (
    MOTION_CODECS,
    check_distinct,
    choose_runtime,
    open_models,
    open_motion,
    output_shape,
    recipe,
    segment_settings,
)
from .speech import complain, say
from .videos import check_video, open_writer, write_clip


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A run that has been checked and can start."""

    options: argparse.Namespace
    models: ModelSet
    settings: GenerationSettings
    plan: RunPlan
    runtime: Runtime
    picture: Tensor
    motion: ClipSource | None


def run_generate(options: argparse.Namespace) -> int:
    """Make a video from a picture."""
    job = _check(options)
    if options.models is None:
        complain(job.models.description)
    begin = time.perf_counter()
    streams: list[dict[str, Any]] = []

    def streamed(name: str, report: StreamReport) -> None:
        log_streamed(name, report)
        streams.append({"model": name, **report.as_data()})

    with reserved(options.output, overwrite=options.overwrite), Bars(quiet=options.quiet) as bars:
        fidelity = _run(job, bars, streamed)
    if options.report:
        seconds = time.perf_counter() - begin
        report = _report(job, bars, seconds=seconds, fidelity=fidelity)
        write_json({**report, "streamed": streams}, options.report)
    say(str(options.output))
    return 0


def _check(options: argparse.Namespace) -> _Job:
    """Refuse what cannot work; no model has run when this returns."""
    _check_files(options)
    models = open_models(options.models, tokenizer=options.tokenizer)
    models = add_loras(models, open_loras(options.lora))
    settings = _settings(options, models)
    plan(models, settings)
    picture = load_picture(options.image)
    motion = open_motion(options, settings.output)
    made = plan(models, settings, motion=motion)
    check_disk(_written(options, made))
    runtime = choose_runtime(options)
    return _Job(
        options=options,
        models=models,
        settings=settings,
        plan=plan_run(
            planned_models(models),
            made,
            _resources(options, runtime),
            compute=runtime.precision.compute,
        ),
        runtime=runtime,
        picture=picture,
        motion=motion,
    )


def _resources(options: argparse.Namespace, runtime: Runtime) -> Resources:
    """Tell what the run may use, and if the estimate is to be reported, how fast the machine is."""
    made = runtime.resources()
    if not options.report:
        return made
    return replace(made, speed=speed_of(runtime.device, dtype=runtime.precision.compute))


def _written(options: argparse.Namespace, made: GenerationPlan) -> dict[Path, int]:
    """List the files that a run will write, and about how many bytes of each."""
    files = {options.output: video_nbytes(made.output, VideoCodec(options.codec))}
    if options.save_motion:
        codec = MOTION_CODECS[options.save_motion.suffix.lower()]
        files[options.save_motion] = video_nbytes(made.motion, codec)
    if options.save_latent:
        files[options.save_latent] = made.latent_nbytes
    return files


def _check_files(options: argparse.Namespace) -> None:
    check_distinct(
        {
            "--image": options.image,
            "--motion": options.motion,
            **{f"--lora {lora.slot}={lora.path}": lora.path for lora in options.lora},
        },
        {
            "--output": options.output,
            "--save-motion": options.save_motion,
            "--save-latent": options.save_latent,
            "--report": options.report,
        },
    )
    if options.motion and options.save_motion:
        raise OutputError(
            f"--save-motion keeps Stage I's clip, but with --motion {options.motion} there is no "
            "Stage I; leave one of them out."
        )
    check_video(options)
    overwrite = options.overwrite
    if options.save_motion:
        check_writable(options.save_motion, suffixes=tuple(MOTION_CODECS), overwrite=overwrite)
    if options.save_latent:
        check_writable(options.save_latent, suffixes=(".safetensors",), overwrite=overwrite)
    if options.report:
        check_writable(options.report, suffixes=(".json",), overwrite=overwrite)


def _settings(options: argparse.Namespace, models: ModelSet) -> GenerationSettings:
    return GenerationSettings(
        output=output_shape(options),
        prompt=options.prompt,
        negative=options.negative,
        seed=options.seed,
        segments=segment_settings(options),
        motion_recipe=recipe(options, models.motion_recipe, prefix="motion_"),
        detail_recipe=recipe(options, models.detail_recipe, prefix=""),
        carry=models.carry if options.carry is None else options.carry,
        reference_strength=options.reference_strength,
        segment_seeds=dict[int, int](options.segment_seed),
    )


def _run(job: _Job, bars: Bars, streamed: Callable[[str, StreamReport], None]) -> Fidelity:
    """Run the main path, and tell how the video holds together."""
    options, output = job.options, job.settings.output

    def keep_motion(clip: Tensor) -> None:
        if options.save_motion:
            codec = MOTION_CODECS[options.save_motion.suffix.lower()]
            write_clip(clip, options.save_motion, codec=codec, rate=options.fps)

    def keep_latent(latent: Tensor) -> None:
        if options.save_latent:
            saved = SavedLatent(
                latent=latent,
                frames_per_second=options.fps,
                latent_space=job.models.detail_vae.config.latent_space,
            )
            save_latent(saved, options.save_latent)

    frames: Iterator[Tensor] = generate(
        job.models,
        job.picture,
        job.settings,
        runtime=replace(job.runtime, observe=bars, streamed=streamed),
        motion=job.motion,
        keep=Keep(motion=keep_motion, latent=keep_latent),
    )
    fitted = fit_picture(job.picture, height=output.height, width=output.width)
    meter = _meter(job, fitted)
    with open_writer(options, height=output.height, width=output.width, rate=options.fps) as writer:
        for chunk in frames:
            meter.watch(chunk)
            writer.write(chunk)
    return meter.read()


def _meter(job: _Job, fitted: Tensor) -> FidelityMeter:
    """Have each segment judged by its own frames."""
    time = job.models.detail_vae.config.compression.time
    segments = job.plan.generation.segments.segments
    starts = [pixel_frames_of(segment.targets[0], time=time) for segment in segments]
    return FidelityMeter(fitted, starts, time=time)


def _report(job: _Job, bars: Bars, *, seconds: float, fidelity: Fidelity) -> dict[str, Any]:
    """Collect what was asked for, what was done and what it took."""
    settings = job.settings

    def written(path: Path | None) -> str | None:
        return None if path is None else str(path)

    return {
        "output": str(job.options.output),
        "saved_motion": written(job.options.save_motion),
        "saved_latent": written(job.options.save_latent),
        "models": {
            "name": job.models.name,
            "description": job.models.description,
            "loras": loras_as_data(loras_of(job.models)),
        },
        "prompt": settings.prompt,
        "negative": settings.negative,
        "seed": settings.seed,
        "segment_seeds": dict(settings.segment_seeds),
        "frames_per_second": str(job.options.fps),
        "carry": settings.carry,
        "recipes": {
            "motion": settings.motion_recipe.as_data(),
            "detail": settings.detail_recipe.as_data(),
        },
        "plan": job.plan.as_data(),
        "device": str(job.runtime.device),
        "attention": job.runtime.attention_name,
        "compiled": job.runtime.compiles,
        "stages": _stages(job.plan, bars),
        "fidelity": fidelity.as_data(),
        "seconds": {"total": seconds, **bars.seconds},
        "peak_memory": peak_memory(),
        "machine": machine(),
    }


def _stages(plan: RunPlan, bars: Bars) -> dict[str, dict[str, float]]:
    """Put each stage's time beside its arithmetic."""
    return {
        work.stage: {
            "seconds": seconds,
            "flops": work.flops,
            "flops_per_second": work.flops / seconds,
        }
        for work in plan.generation.work
        if (seconds := bars.seconds.get(work.stage))
    }
