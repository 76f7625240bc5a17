"""What the files that we load show of themselves: one name each that no other kind has."""

from dataclasses import dataclass

from .checkpoint import Kind
from .layouts import Layout


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A kind that we load, in one layout.

    Attributes:
        sign: a name that only such a file has; a regular expression.
        wanted: that name in words.
        note: what our own files of the kind note themselves to be.
    """

    kind: Kind
    layout: Layout
    sign: str
    wanted: str
    note: str


PROBES = (
    Probe(
        kind=Kind.DIT,
        layout=Layout.WAN,
        sign=r"blocks\.\d+\.self_attn\.q\.weight",
        wanted="blocks.N.self_attn.q.weight",
        note="dit",
    ),
    Probe(
        kind=Kind.DIT,
        layout=Layout.DIFFUSERS_DIT,
        sign=r"blocks\.\d+\.attn1\.to_q\.weight",
        wanted="blocks.N.attn1.to_q.weight",
        note="dit",
    ),
    Probe(
        kind=Kind.VAE,
        layout=Layout.WAN,
        sign=r"(en|de)coder\.middle\.0\.residual\.0\.gamma",
        wanted="encoder.middle.0.residual.0.gamma",
        note="vae",
    ),
    Probe(
        kind=Kind.VAE,
        layout=Layout.DIFFUSERS_VAE,
        sign=r"(en|de)coder\.mid_block\.resnets\.0\.norm1\.gamma",
        wanted="encoder.mid_block.resnets.0.norm1.gamma",
        note="vae",
    ),
    Probe(
        kind=Kind.TEXT_UMT5,
        layout=Layout.WAN,
        sign=r"blocks\.\d+\.pos_embedding\.embedding\.weight",
        wanted="blocks.N.pos_embedding.embedding.weight",
        note="umt5",
    ),
    Probe(
        kind=Kind.TEXT_UMT5,
        layout=Layout.TRANSFORMERS_UMT5,
        # Where T5 has position biases in its first block alone, UMT5 has them in every one.
        sign=r"encoder\.block\.[1-9]\d*\.layer\.0\.SelfAttention\.relative_attention_bias\.weight",
        wanted="encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
        note="umt5",
    ),
    Probe(
        kind=Kind.TEXT_WORDS,
        layout=Layout.OWN,
        sign=r"words\.weight",
        wanted="words.weight",
        note="words",
    ),
)
