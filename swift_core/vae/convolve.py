"""Which library computes a convolution, where PyTorch's own choice is a bad one."""

from functools import cache
from typing import cast

import torch
from torch import nn

from ..shapes import Tensor

SMALL_NUMEL = 20480
"""Up to this ``b * c * t * h`` torch leaves fp32 on the CPU to a fallback that is 2-6 times slower
than oneDNN (``ConvParams::use_mkldnn``, torch 2.13; measured). We ask for oneDNN ourselves. So
every size is computed by one algorithm, and a part of a picture gives the bits of the whole."""

_PASSED_BY_TORCH = ((2, 9), (2, 10))
_PASSED_BY_CUDNN = (90800, 91500)
"""With these versions (the second one's end is good again) torch 2.9 and 2.10 keep 16-bit
convolutions over time away from cuDNN, and what takes them is slow and needs several times the
memory (pytorch/pytorch#166643). They do so because large ones came out wrong on some cards
(#163539): so cuDNN is asked only where others have run it so and found it right."""

_ASKED_ON = ((8, 6), (8, 9), (12, 0))
"""Compute capabilities of the RTX 30, 40 and 50 series (comfyanonymous/ComfyUI#10398)."""

MOST_NUMEL = 2**31 - 1
"""Values that 32 bits can count. Beyond them PyTorch has cuDNN (from 9.3 on) count with 64 bits,
which few of its algorithms do, or takes one of its own that wants many times the memory."""


def convolve(conv: nn.Conv2d | nn.Conv3d, features: Tensor) -> Tensor:
    """Convolve, without padding in time; what is very large frames by frames, to the same bits."""
    if isinstance(conv, nn.Conv3d) and features.numel() > MOST_NUMEL:
        return _in_turns(conv, features)
    return _at_once(conv, features)


def _in_turns(conv: nn.Conv3d, features: Tensor) -> Tensor:
    """Convolve as many frames at a time as can be counted, or what a kernel reads if none can."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    frames = features.shape[2]
    made = (frames - kernel) // stride + 1
    most = MOST_NUMEL // (features.numel() // frames)
    each = max(1, (most - kernel) // stride + 1)
    out: Tensor | None = None
    for first in range(0, made, each):
        end = min(made, first + each)
        part = _at_once(conv, features[:, :, first * stride : (end - 1) * stride + kernel])
        if out is None:
            size = (*part.shape[:2], made, *part.shape[3:])
            layout = torch.channels_last_3d
            out = torch.empty(size, dtype=part.dtype, device=part.device, memory_format=layout)
        out[:, :, first:end] = part
    assert out is not None, "there is at least one turn"
    return out


def _at_once(conv: nn.Conv2d | nn.Conv3d, features: Tensor) -> Tensor:
    if _is_left_to_fallback(features):
        return torch.mkldnn_convolution(
            features,
            conv.weight,
            conv.bias,
            cast(tuple[int, ...], conv.padding),
            conv.stride,
            conv.dilation,
            conv.groups,
        )
    if isinstance(conv, nn.Conv3d) and _is_kept_from_cudnn(features):
        return _with_cudnn(conv, features)
    return conv._conv_forward(features, conv.weight, conv.bias)  # pyright: ignore[reportPrivateUsage]


def _is_left_to_fallback(features: Tensor) -> bool:
    """Tell whether torch would pass oneDNN by, although it is there."""
    return (
        features.device.type == "cpu"
        and features.dtype == torch.float32
        and features.shape[:4].numel() <= SMALL_NUMEL
        and torch.backends.mkldnn.is_available()
    )


def _is_kept_from_cudnn(features: Tensor) -> bool:
    """Tell whether torch would pass cuDNN by, although it is there."""
    sixteen = features.dtype in (torch.float16, torch.bfloat16)
    if not (features.is_cuda and sixteen and keeps_from_cudnn()):
        return False
    return torch.cuda.get_device_capability(features.device) in _ASKED_ON


@cache
def keeps_from_cudnn() -> bool:
    """Tell whether this PyTorch keeps 16-bit convolutions over time away from its cuDNN."""
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    version = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    first, end = _PASSED_BY_CUDNN
    return (major, minor) in _PASSED_BY_TORCH and version is not None and first <= version < end


def _with_cudnn(conv: nn.Conv3d, features: Tensor) -> Tensor:
    made = torch.cudnn_convolution(
        features,
        conv.weight,
        cast(tuple[int, ...], conv.padding),
        conv.stride,
        conv.dilation,
        conv.groups,
        benchmark=False,
        deterministic=False,
        allow_tf32=True,
    )
    return made if conv.bias is None else made.add_(conv.bias.view(-1, 1, 1, 1))
