"""Our VAEs' encode and decode beside diffusers', with the same weights."""

from dataclasses import replace

import torch

from swift_core.geometry import PixelShape
from swift_core.vae.autoencoder import WanVAE
from swift_core.vae.config import WAN21_VAE, WAN22_VAE, VAEConfig
from swift_core.vae.layout import prepare
from tests.oracles import oracle_vae
from tests.weights import fill_

from .measure import print_heading, print_pair

SMALL_22 = replace(WAN22_VAE, encoder_dim=24, decoder_dim=32)
SMALL_21 = replace(WAN21_VAE, encoder_dim=24, decoder_dim=24)
TINY = replace(
    WAN22_VAE,
    encoder_dim=24,
    decoder_dim=24,
    dim_mult=(1, 2, 2),
    residual_blocks=1,
    temporal_downsample=(True, True),
)


def _case(
    name: str, config: VAEConfig, *, pixel_frames: int, height: int, width: int
) -> tuple[str, VAEConfig, PixelShape]:
    return name, config, PixelShape(pixel_frames=pixel_frames, height=height, width=width)


CASES = (
    _case("2.2 form", SMALL_22, pixel_frames=9, height=64, width=96),
    _case("2.2 form", SMALL_22, pixel_frames=17, height=128, width=128),
    _case("2.1 form", SMALL_21, pixel_frames=9, height=64, width=96),
    _case("2.1 form", SMALL_21, pixel_frames=9, height=128, width=128),
    _case("tiny set's form", TINY, pixel_frames=9, height=256, width=256),
)


@torch.inference_mode()
def main(rounds: int = 5) -> None:
    """Print the table."""
    print_heading("VAE, fp32")
    for name, config, size in CASES:
        vae = fill_(WanVAE(config)).eval().requires_grad_(False)
        oracle = oracle_vae(vae)
        prepare(vae)
        pixels = torch.rand(1, 3, size.pixel_frames, size.height, size.width) * 2 - 1
        raw_latent, _ = vae.encode_moments(pixels)
        latent = vae.normalize(raw_latent)
        print_pair(
            f"encode, {name}, {size}",
            lambda: vae.encode(pixels),  # noqa: B023
            lambda: oracle.encode(pixels).latent_dist.mean,  # noqa: B023
            rounds=rounds,
        )
        print_pair(
            f"decode, {name}, {size}",
            lambda: vae.decode(latent),  # noqa: B023
            lambda: oracle.decode(raw_latent).sample,  # noqa: B023
            rounds=rounds,
        )


if __name__ == "__main__":
    main()
