"""Attention from other packages where they are installed, held against PyTorch's own before use.

Faults of such kernels are silent, and depend on the card, the number of tokens and the values:
tails that are no whole block (thu-ml/SageAttention#377), very many tokens (#388), one kind of card
(#320), constant values (#164). So each layer's first real result of a kind is compared, at its true
length. At the first sign of trouble PyTorch's attention takes over for the rest of the run.

Axes: ``b`` batch, ``s`` query tokens, ``k`` key tokens, ``n`` heads, ``d`` features.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from ..errors import DeviceError, PackageError
from ..shapes import Float, Tensor
from ..shortage import is_shortage
from .attention import KeyValue, SelfAttention, attend

_log = logging.getLogger(__name__)

MOST_COMPARED = 1024
"""Query tokens of a result that are held against PyTorch's, spread over all of them."""

CUDNN_CAPABILITIES = (9, 10)
"""Major compute capabilities (Hopper, Blackwell for servers) where PyTorch has cuDNN's kernels.

They are up to twice as fast there as FlashAttention 2. Source:
pytorch/pytorch@001f694:aten/src/ATen/native/transformers/cuda/sdp_utils.cpp,
check_prefer_cudnn_attention; huggingface/transformers#48163.
"""


class AttentionChoice(Enum):
    """What computes self-attention."""

    AUTO = "auto"
    SDPA = "sdpa"
    FLASH = "flash"
    SAGE = "sage"


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A package with an attention of its own, for 16-bit formats on CUDA.

    Attributes:
        name: as people know it.
        package: what is imported, not before first use.
        function: its attention over ``"b s n d"``.
        options: what the function needs to be told beside query, key and value.
        install: command that installs it.
        tolerance: largest error of a result, as a share of the result.
    """

    name: str
    package: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    install: str
    tolerance: float

    def is_installed(self) -> bool:
        """Look for the package without importing it."""
        return find_spec(self.package) is not None

    def load(self) -> Callable[..., Any]:
        """Import the function; whatever is wrong with the package comes out here."""
        return partial(getattr(import_module(self.package), self.function), **self.options)


FLASH = Backend(
    name="FlashAttention",
    package="flash_attn",
    function="flash_attn_func",
    install="pip install flash-attn --no-build-isolation",
    # Exact but for roundings: 0.25 % in bf16, a quarter of this.
    tolerance=0.01,
)

SAGE = Backend(
    name="SageAttention",
    package="sageattention",
    function="sageattn",
    options={"tensor_layout": "NHD", "is_causal": False},
    install="pip install sageattention",
    # Rounding to 8 bits as it does, probabilities and values too, is 3.9 % off on random numbers.
    tolerance=0.08,
)

_BY_CHOICE = {AttentionChoice.FLASH: FLASH, AttentionChoice.SAGE: SAGE}


class Kind(NamedTuple):
    """What a kernel's faults depend on, beside values and the card's model."""

    head_width: int
    dtype: torch.dtype
    device: torch.device
    queries: int
    keys: int


class _UnfitError(Exception):
    """A result that is not attention's."""


class FastAttention:
    """A backend on trial, for one run: where it fails, PyTorch's attention is used from then on.

    Every layer is given its own set of the kinds of input that it has passed with.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._function: Callable[..., Any] | None = None
        self._failed = False
        # Traced, the trial would be compiled anew whenever one is passed.
        self._attempt = cast("Callable[..., Tensor | None]", torch.compiler.disable(self._try))

    @property
    def name(self) -> str:
        """Name what computes now."""
        failed = f"sdpa, because {self.backend.name} failed"
        return failed if self._failed else self.backend.name

    def __call__(
        self, query: Float[Tensor, "b s n d"], memory: KeyValue, *, passed: set[Kind]
    ) -> Float[Tensor, "b s n d"]:
        """Attend from every query token to the memory.

        Args:
            passed: kinds of input that are known to work in this layer; grows.
        """
        out = None if self._failed else self._attempt(query, memory, passed)
        return attend(query, memory) if out is None else out

    def _try(self, query: Tensor, memory: KeyValue, passed: set[Kind]) -> Tensor | None:
        """Attend with the backend; None and a line of log if it cannot be trusted."""
        try:
            if self._function is None:
                self._function = self.backend.load()
            out = self._function(query, memory.key, memory.value)
            kind = _kind(query, memory)
            if kind not in passed:
                _compare(out, query, memory, tolerance=self.backend.tolerance)
                passed.add(kind)
        except _UnfitError as unfit:
            self._give_up(str(unfit))
        except Exception as error:  # packages of any version, and compilers in them
            if isinstance(error, MemoryError) or is_shortage(error):
                raise  # not the backend's fault, and whoever plans memory must hear of it
            lines = str(error).splitlines() or [""]
            self._give_up(f"{type(error).__name__}: {lines[0][:200]}")
        else:
            return out
        return None

    def _give_up(self, reason: str) -> None:
        self._failed = True
        _log.warning(
            "%s is not used: %s; PyTorch's attention takes its place", self.backend.name, reason
        )


def choose_attention(choice: AttentionChoice, device: torch.device) -> FastAttention | None:
    """Find what was asked for; None is PyTorch's attention.

    ``auto`` takes FlashAttention where it is installed and PyTorch has nothing faster. It never
    takes SageAttention, which rounds to 8 bits: that one must be asked for by name.

    Raises:
        DeviceError: if it does not run on this device.
        PackageError: if it is not installed.
    """
    if choice is AttentionChoice.SDPA:
        return None
    if choice is AttentionChoice.AUTO:
        wins = device.type == "cuda" and not _has_cudnn_attention(device) and FLASH.is_installed()
        return FastAttention(FLASH) if wins else None
    backend = _BY_CHOICE[choice]
    if device.type != "cuda":
        raise DeviceError(
            f"the attention {choice.value} runs on CUDA only, and this run is on the "
            f"{device.type}; choose auto or sdpa."
        )
    if not backend.is_installed():
        raise PackageError(
            f"the attention {choice.value} needs the package {backend.package}, which is not "
            f"installed here; install it with {backend.install}, or choose auto or sdpa."
        )
    return FastAttention(backend)


def use_attention(model: nn.Module, attention: FastAttention | None) -> None:
    """Let every self-attention of a DiT use a backend, or PyTorch's attention again.

    Prompts and masks stay with PyTorch's. A model without self-attention layers is left alone.

    Args:
        attention: one for all models of a run, so that it fails once; None is PyTorch's.
    """
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.fast = None if attention is None else partial(attention, passed=set[Kind]())


def _has_cudnn_attention(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device)[0] in CUDNN_CAPABILITIES


def _kind(query: Tensor, memory: KeyValue) -> Kind:
    return Kind(
        head_width=query.shape[-1],
        dtype=query.dtype,
        device=query.device,
        queries=query.shape[1],
        keys=memory.key.shape[1],
    )


def _compare(out: Any, query: Tensor, memory: KeyValue, *, tolerance: float) -> None:
    """Hold some tokens of the first and last head against PyTorch's attention to all keys.

    An error of 8 % leaves a cosine of 0.996 at least, so that is not asked for as well.

    Raises:
        _UnfitError: saying how the result is wrong.
    """
    if not isinstance(out, Tensor) or out.shape != query.shape or out.dtype != query.dtype:
        raise _UnfitError(f"it gave no {query.dtype} of {tuple(query.shape)}")
    heads = slice(None, None, max(1, query.shape[2] - 1))
    step = math.ceil(query.shape[1] / MOST_COMPARED)
    # Counted from the last token: tails go wrong first.
    tokens = slice((query.shape[1] - 1) % step, None, step)
    exact = attend(
        query[:1, tokens, heads],
        KeyValue(memory.key[:1, :, heads], memory.value[:1, :, heads]),
    ).float()
    wrong = _length(out[:1, tokens, heads].float() - exact)
    size = _length(exact).clamp(min=torch.finfo(torch.float32).tiny)
    # A sum shows what is not finite anywhere, and takes no memory; both cross at once.
    figures = torch.stack((wrong / size, out.sum(dtype=torch.float32)))
    error, total = (float(figure) for figure in figures.cpu())
    if not math.isfinite(total):
        raise _UnfitError("its result is not finite")
    if not error <= tolerance:
        raise _UnfitError(f"its result is off by {error:.1%}, where {tolerance:.0%} is allowed")


def _length(tensor: Tensor) -> Tensor:
    return tensor.square().sum().sqrt()
