"""From weights as they are stored to weights as a module holds them.

An 8-bit weight of a linear layer stays as it is, and the layer becomes one that unpacks it as it
runs; every other packed number is unpacked here. Nothing is copied that needs no other format.
"""

from collections.abc import Mapping

import torch
from torch import nn

from ..errors import CheckpointError
from ..model.scaled import FP8_FORMATS, ScaledLinear
from ..precision import Precision, dtype_of, is_island
from ..shapes import Tensor
from .packing import WEIGHT_SCALES, is_packing


def unpack_weights(
    module: nn.Module,
    stored: Mapping[str, Tensor],
    *,
    precision: Precision,
    islands: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Bring weights to the formats of a module, and prepare the module for those that stay packed.

    Args:
        module: on the meta device; its linear layers with 8-bit weights are replaced.
        stored: by name of the parameter, as in the file, with what says how they are packed.
        islands: parts of the names of fp32 parameters; these are never left packed.

    Returns:
        What ``module.load_state_dict`` takes, complete if ``stored`` is.

    Raises:
        CheckpointError: if a scale is no number to multiply by.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if is_packing(name):
            continue
        dtype, scale = dtype_of(name, precision, islands), _scale(stored, name)
        stays_packed = _stays(tensor, dtype) and not is_island(name, islands)
        layer = _linear_layer(module, name) if stays_packed else None
        if layer is not None:
            packed = ScaledLinear(
                tensor,
                scale=torch.ones(()) if scale is None else scale,
                bias=layer.bias,
                products=precision.fp8_products and tensor.dtype in FP8_FORMATS,
            )
            module.set_submodule(name.removesuffix(".weight"), packed)
            weights[name] = tensor
        elif scale is None:
            weights[name] = tensor.to(dtype)
        else:
            rows = scale.reshape(-1, *[1] * (tensor.dim() - 1))
            weights[name] = tensor.to(torch.float32, copy=True).mul_(rows).to(dtype)
    return weights


def _stays(tensor: Tensor, wanted: torch.dtype) -> bool:
    """Tell whether a matrix is better left as it is stored, and converted as its layer runs.

    In 8 bits it takes half the memory. In the other format of 16 bits it takes as much either way,
    but converted it would have to lie in host memory, where as it is it is only mapped.
    """
    if tensor.dtype in FP8_FORMATS:
        return True
    return {tensor.dtype, wanted} == {torch.float16, torch.bfloat16}


def _linear_layer(module: nn.Module, name: str) -> nn.Linear | None:
    """Give the linear layer whose weight has that name, if there is one."""
    layer, _, leaf = name.rpartition(".")
    found = module.get_submodule(layer)
    return found if leaf == "weight" and isinstance(found, nn.Linear) else None


def _scale(stored: Mapping[str, Tensor], name: str) -> Tensor | None:
    """Give what a weight must be multiplied by, in fp32."""
    if not name.endswith(".weight"):
        return None
    layer = name.removesuffix(".weight")
    found = [stored[key] for part in WEIGHT_SCALES if (key := f"{layer}.{part}") in stored]
    if not found:
        return None
    scale = found[0].to(torch.float32)
    if not bool((scale.isfinite() & (scale > 0)).all()):
        raise CheckpointError(
            f"the scale of {name} holds {scale.min().item():g} to {scale.max().item():g}, but a "
            "scale is finite and above 0; the file is damaged: download it again."
        )
    return scale
