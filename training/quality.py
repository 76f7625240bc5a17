"""How alike two pictures look: three measures from their papers, without learned parts.

Axes: ``n h w 3`` pictures in [0, 1]; every measure gives one number per picture.
"""

import torch
from torch.nn import functional as F

from swift_core.shapes import Float, Tensor

YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""Brightness and the two colour axes that HaarPSI was fitted with."""

SSIM_SIDE, SSIM_SIGMA = 11, 1.5
SSIM_CONSTANTS = (0.01**2, 0.03**2)
GMSD_CONSTANT = 170 / 255**2
HAAR_CONSTANT = 30 / 255**2
HAAR_SLOPE = 4.2


def _planes(pictures: Float[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Bring pictures to brightness and colours."""
    matrix = torch.tensor(YIQ, dtype=pictures.dtype, device=pictures.device)
    return torch.einsum("dc,nhwc->ndhw", matrix, pictures)


def _alike(one: Tensor, two: Tensor, constant: float) -> Tensor:
    """Compare two sizes: 1 where they are equal, towards 0 where one is far larger."""
    return (2 * one * two + constant) / (one.square() + two.square() + constant)


def ssim(made: Float[Tensor, "n h w 3"], true: Float[Tensor, "n h w 3"]) -> Float[Tensor, " n"]:
    """Compare brightness by local means, deviations and covariances; 1 is equal.

    Source: Wang et al., "Image quality assessment: from error visibility to structural
    similarity" (2004). Oracle: tests/unit/test_training_quality.py.
    """
    one, two = (_planes(pictures)[:, :1].double() for pictures in (made, true))
    place = torch.arange(SSIM_SIDE, dtype=torch.float64) - SSIM_SIDE // 2
    window = torch.exp(-place.square() / (2 * SSIM_SIGMA**2))
    window = (window / window.sum()).to(one.device)

    def smooth(planes: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(planes, window[None, None, None]), window[None, None, :, None])

    mean_one, mean_two = smooth(one), smooth(two)
    spread = smooth(one.square() + two.square()) - mean_one.square() - mean_two.square()
    shared = smooth(one * two) - mean_one * mean_two
    first, second = SSIM_CONSTANTS
    map_ = _alike(mean_one, mean_two, first) * (2 * shared + second) / (spread + second)
    return map_.mean((1, 2, 3))


def gmsd(made: Float[Tensor, "n h w 3"], true: Float[Tensor, "n h w 3"]) -> Float[Tensor, " n"]:
    """Give the deviation, over the picture, of how alike edges are; 0 is equal.

    Source: Xue et al., "Gradient magnitude similarity deviation" (2014).
    Oracle: tests/unit/test_training_quality.py.
    """
    edges = [_edges(F.avg_pool2d(_planes(each)[:, :1].double(), 2)) for each in (made, true)]
    alike = _alike(edges[0], edges[1], GMSD_CONSTANT)
    return alike.std((1, 2, 3), correction=0)


def _edges(planes: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Give the size of Prewitt's gradient."""
    kernel = torch.tensor([[1.0, 0, -1]] * 3, dtype=planes.dtype, device=planes.device) / 3
    both = torch.stack((kernel, kernel.T))[:, None]
    return F.conv2d(planes, both, padding=1).square().sum(1, keepdim=True).sqrt()


def haarpsi(made: Float[Tensor, "n h w 3"], true: Float[Tensor, "n h w 3"]) -> Float[Tensor, " n"]:
    """Compare Haar wavelets of two fine scales, weighted by those of a coarser one; 1 is equal.

    Source: Reisenhofer et al., "A Haar wavelet-based perceptual similarity index" (2018).
    Oracle: tests/unit/test_training_quality.py.
    """
    one, two = (F.avg_pool2d(_planes(each).double(), 2) for each in (made, true))
    scales = [(_haar(one[:, :1], scale), _haar(two[:, :1], scale)) for scale in (1, 2, 3)]
    weights = torch.maximum(*scales[2])
    maps = (_alike(*scales[0], HAAR_CONSTANT) + _alike(*scales[1], HAAR_CONSTANT)) / 2
    colours = [_box(planes[:, 1:]).abs() for planes in (one, two)]
    colour = _alike(colours[0], colours[1], HAAR_CONSTANT).mean(1, keepdim=True)
    maps = torch.cat((maps, colour), dim=1)
    weights = torch.cat((weights, weights.mean(1, keepdim=True)), dim=1)
    share = ((HAAR_SLOPE * maps).sigmoid() * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))
    return (share.logit() / HAAR_SLOPE).square()


def _haar(planes: Float[Tensor, "n 1 h w"], scale: int) -> Float[Tensor, "n 2 h w"]:
    """Give the size of the wavelets lying and standing, at every place."""
    side = 2**scale
    kernel = torch.ones((side, side), dtype=planes.dtype, device=planes.device) / side
    kernel[side // 2 :] *= -1
    both = torch.stack((kernel, kernel.T))[:, None]
    return F.conv2d(_margin(planes, side), both).abs()


def _box(planes: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Take the mean of each 2 by 2 places."""
    return F.avg_pool2d(_margin(planes, 2), 2, stride=1)


def _margin(planes: Tensor, side: int) -> Tensor:
    """Add zeros so that a kernel of even side keeps the size."""
    before, after = side // 2 - 1, side // 2
    return F.pad(planes, (before, after, before, after))
