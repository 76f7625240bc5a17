"""SegmentOverlapConfig: how Stage II is cut into segments, and what that means."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..swift_core.geometry import PixelShape
from ..swift_core.segments.plan import Interaction, RopePositions, SegmentSettings
from ..swift_core.stages.plan import plan_generation
from ..swift_core.weights.set_file import DEFAULT_RECIPE
from .host.plans import describe_for_card
from .schema import advanced, make_schema
from .settings import read_choice, side_input
from .types import SegmentsType


class SegmentOverlapConfig(io.ComfyNode):
    """Set how a clip is cut, and show the plan."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return make_schema(
            node_id="SegmentOverlapConfig",
            display_name="Segment Overlap Config",
            description=(
                "How Stage II works through the clip: how many latent frames at once, and how many "
                "finished ones they see. Memory and time per step depend on this, not on the "
                "length of the video. Shows the plan in words."
            ),
            search_aliases=["swifti2v segments", "context window", "overlap"],
            is_output_node=True,
            inputs=[
                io.Int.Input(
                    "segment_length",
                    default=3,
                    min=1,
                    max=64,
                    tooltip=(
                        "Latent frames sampled together (the paper's M); one is 4 frames of the "
                        "video. More: smoother motion, more memory. Less: fits smaller cards."
                    ),
                ),
                io.Int.Input(
                    "neighbors",
                    default=1,
                    min=0,
                    max=16,
                    tooltip=(
                        "Finished latent frames that a segment sees before it (the paper's N). 0 "
                        "saves memory and shows seams."
                    ),
                ),
                advanced(
                    io.Int.Input(
                        "right_neighbors",
                        default=0,
                        min=0,
                        max=16,
                        tooltip=(
                            "Latent frames that a segment sees after it, not yet refined. The "
                            "paper's figure has none."
                        ),
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "rope",
                        options=[positions.value for positions in RopePositions],
                        default=RopePositions.GLOBAL.value,
                        tooltip=(
                            "Where a segment's frames stand in time: global is their place in the "
                            "clip, local counts from 0 in each segment."
                        ),
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "interaction",
                        options=[interaction.value for interaction in Interaction],
                        default=Interaction.BIDIRECTIONAL.value,
                        tooltip=(
                            "bidirectional: picture and neighbors also attend to what is sampled "
                            "(the paper). read-only: cheaper, drifts more, not for core MODELs."
                        ),
                    )
                ),
                advanced(
                    side_input(
                        "plan_width",
                        default=2560,
                        tooltip="Only for the plan that is shown: width of the video.",
                        least=64,
                        step=64,
                    )
                ),
                advanced(
                    side_input(
                        "plan_height",
                        default=1408,
                        tooltip="Only for the plan that is shown: height of the video.",
                        least=64,
                        step=64,
                    )
                ),
                advanced(
                    io.Int.Input(
                        "plan_frames",
                        default=81,
                        min=5,
                        max=10001,
                        step=4,
                        tooltip="Only for the plan that is shown: frames of the video, 4n+1.",
                    )
                ),
            ],
            outputs=[
                SegmentsType.Output(
                    "segments", display_name="segments", tooltip="For CSG 2K Sampler."
                ),
                io.String.Output("plan", display_name="plan", tooltip="The plan in words."),
            ],
        )

    @classmethod
    def execute(
        cls,
        segment_length: int,
        neighbors: int,
        right_neighbors: int = 0,
        rope: str = RopePositions.GLOBAL.value,
        interaction: str = Interaction.BIDIRECTIONAL.value,
        plan_width: int = 2560,
        plan_height: int = 1408,
        plan_frames: int = 81,
    ) -> io.NodeOutput:
        """Give the settings, and plan a video of Wan2.2's models with them, on this card."""
        settings = SegmentSettings(
            segment_length=segment_length,
            neighbors=neighbors,
            right_neighbors=right_neighbors,
            rope=read_choice(RopePositions, "rope", rope),
            interaction=read_choice(Interaction, "interaction", interaction),
        )
        output = PixelShape(pixel_frames=plan_frames, height=plan_height, width=plan_width)
        made = plan_generation(
            output, settings, motion_recipe=DEFAULT_RECIPE, detail_recipe=DEFAULT_RECIPE
        )
        words = describe_for_card(made)
        return io.NodeOutput(settings, words, ui=ui.PreviewText(words))
