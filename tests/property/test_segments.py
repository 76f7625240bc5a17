"""Laws of the segment plan, for any clip and any settings."""

from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from swift_core.segments.plan import (
    BlockRole,
    RopePositions,
    SegmentSettings,
    plan_segments,
)

lengths = st.integers(1, 90)
settings = st.builds(
    SegmentSettings,
    segment_length=st.integers(1, 12),
    neighbors=st.integers(0, 8),
    right_neighbors=st.integers(0, 4),
    rope=st.sampled_from(RopePositions),
)


@given(lengths, settings)
def test_every_target_is_sampled_once_and_in_order(latent_frames, settings):
    plan = plan_segments(latent_frames, settings)
    targets = [frame for segment in plan.segments for frame in segment.targets]
    assert targets == list(range(1, latent_frames))
    assert [segment.index for segment in plan.segments] == list(range(len(plan.segments)))


@given(lengths, settings)
def test_only_finished_frames_are_seen_on_the_left_and_no_frame_twice(latent_frames, settings):
    for segment in plan_segments(latent_frames, settings).segments:
        frames = segment.latent_frames
        assert frames[0] == 0
        assert len(set(frames)) == len(frames)
        assert list(frames) == sorted(frames)
        assert all(0 <= frame < latent_frames for frame in frames)
        # Without gaps beside the targets: what is seen is what is next to them.
        beside = [*segment.left, *segment.targets, *segment.right]
        assert all(after - before == 1 for before, after in pairwise(beside))
        assert frames[segment.target_slice] == segment.targets
        assert segment.roles.count(BlockRole.ANCHOR) == 1
        assert segment.roles.count(BlockRole.TARGET) == len(segment.targets)


@given(lengths, settings)
def test_no_segment_is_larger_than_asked_for(latent_frames, settings):
    plan = plan_segments(latent_frames, settings)
    bound = 1 + settings.neighbors + settings.segment_length + settings.right_neighbors
    assert plan.largest <= bound


@given(lengths, settings)
def test_segments_after_the_first_have_one_size(latent_frames, settings):
    assume(settings.neighbors <= settings.segment_length)
    later = plan_segments(latent_frames, settings).segments[1:]
    assert len({len(segment.latent_frames) for segment in later}) <= 1
    if len(later) > 1 and not settings.right_neighbors:
        size = 1 + settings.neighbors + settings.segment_length
        assert len(later[0].latent_frames) == size


@given(st.integers(40, 90), st.integers(40, 90), settings)
def test_the_largest_segment_does_not_grow_with_the_clip(one, other, settings):
    """Tokens per step are bounded: beyond a few segments, length does not matter."""
    assert plan_segments(one, settings).largest == plan_segments(other, settings).largest


@given(lengths, settings)
def test_positions(latent_frames, settings):
    for segment in plan_segments(latent_frames, settings).segments:
        if settings.rope is RopePositions.GLOBAL:
            assert segment.positions == segment.latent_frames
        else:
            assert segment.positions == tuple(range(len(segment.latent_frames)))


@given(lengths, settings)
def test_a_segment_as_long_as_the_clip_is_the_whole_clip(latent_frames, settings):
    whole = SegmentSettings(segment_length=max(1, latent_frames - 1), neighbors=settings.neighbors)
    plan = plan_segments(latent_frames, whole)
    assert len(plan.segments) == min(1, latent_frames - 1)
    for segment in plan.segments:
        assert segment.latent_frames == tuple(range(latent_frames))
