"""Linear layers whose weights stay as they are stored, and are unpacked as each layer runs.

In 8 bits that is half the memory; in the other format of 16 bits, weights stay mapped from their
file, where converted they would fill host memory.

A published fp8 checkpoint holds, for a layer, 8-bit numbers and what to multiply them by: one
scale for all, or one for each output. Unpacking is exact but for one rounding to the compute
format. The hardware's own 8-bit product is faster, and rounds the activations to 8 bits too.
"""

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import DeviceError
from ..shapes import Float, Tensor

FP8_FORMATS = (torch.float8_e4m3fn, torch.float8_e5m2)

_ACTIVATION = torch.float8_e4m3fn
"""Format of activations in an 8-bit product: the finer of the two."""

_FIRST_CAPABILITY = (8, 9)
"""Of NVIDIA's cards, the first whose tensor cores multiply 8-bit numbers (Ada)."""

_scaled_mm: Any = cast("Any", torch)._scaled_mm  # PyTorch has no public name for it yet

_PRODUCT_MULTIPLE = 16
"""Both sides of a weight must be multiples of this in an 8-bit product."""


class ScaledLinear(nn.Module):
    """A linear layer whose weight is in another format than it computes in.

    Args:
        weight: ``(outputs, inputs)``, in one of ``FP8_FORMATS`` or in 16 bits.
        scale: what to multiply the weight by: one number, or one for each output.
        bias: in the compute format, or None.
        products: multiply in 8 bits where the shapes allow it; see ``check_products``.
    """

    row_scale: Tensor | None

    def __init__(
        self,
        weight: Float[Tensor, "outputs inputs"],
        *,
        scale: Float[Tensor, "..."],
        bias: Float[Tensor, " outputs"] | None,
        products: bool = False,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        single = scale.numel() == 1
        # A Python number: on a GPU it enters the product in fp32 and costs no synchronisation.
        self.scale = float(scale) if single else 1.0
        rows = None if single else scale.float().reshape(-1, 1)
        self.register_buffer("row_scale", rows, persistent=False)
        aligned = not any(side % _PRODUCT_MULTIPLE for side in weight.shape)
        self.products = products and aligned

    def forward(self, tokens: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """Apply the layer, in the number format of the tokens."""
        if self.products:
            return self._multiply_packed(tokens)
        return F.linear(tokens, self.unpacked_weight(tokens.dtype), self.bias)

    def unpacked_weight(self, dtype: torch.dtype) -> Float[Tensor, "outputs inputs"]:
        """Give the weight in full, rounded once."""
        weight = self.weight.to(dtype)
        if self.scale == 1 and self.row_scale is None:
            return weight
        # 8-bit numbers are exact in every wider format, so the scale is the only rounding.
        return weight.mul_(self.scale if self.row_scale is None else self.row_scale)

    def unpacked(self, dtype: torch.dtype) -> nn.Linear:
        """Make an ordinary layer of it."""
        with torch.device("meta"):
            layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        layer.weight = nn.Parameter(self.unpacked_weight(dtype), requires_grad=False)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.to(dtype), requires_grad=False)
        return layer.train(self.training)

    def _multiply_packed(self, tokens: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """Round the tokens to 8 bits by their largest value, and multiply as they are."""
        flat = tokens.reshape(-1, self.in_features)
        largest = flat.abs().amax().float().clamp(min=torch.finfo(torch.float32).tiny)
        token_scale = largest / torch.finfo(_ACTIVATION).max
        packed = (flat / token_scale).to(_ACTIVATION)
        weight_scale = torch.full_like(token_scale, self.scale)
        out: Tensor = _scaled_mm(
            packed,
            self.weight.t(),
            scale_a=token_scale,
            scale_b=weight_scale,
            out_dtype=tokens.dtype,
        )
        if self.row_scale is not None:
            out = out.mul_(self.row_scale.view(-1))
        if self.bias is not None:
            out = out.add_(self.bias)
        return out.view(*tokens.shape[:-1], self.out_features)


def check_products(device: torch.device) -> None:
    """Refuse a device that has no 8-bit products.

    Raises:
        DeviceError: naming the device.
    """
    if device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is not None or capability < _FIRST_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise DeviceError(
            f"{name} has no 8-bit matrix products (NVIDIA cards have them from the RTX 40 series "
            "on); leave fp8 products off: weights are unpacked as each layer runs."
        )
