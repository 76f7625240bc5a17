"""diffusers' models with the numbers and weights of ours, through our own key tables.

A wrong row in a table shows twice: the strict load refuses it, or the outputs differ.
"""

import pytest

from swift_core.weights.layouts import dit_to_diffusers, vae_to_diffusers

diffusers = pytest.importorskip("diffusers")


def empty_oracle_dit(config):
    """diffusers' DiT with these numbers, and weights of its own."""
    return diffusers.WanTransformer3DModel(
        patch_size=(config.patch.time, config.patch.height, config.patch.width),
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        text_dim=config.text_dim,
        freq_dim=config.frequency_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=config.eps,
        rope_max_seq_len=1024,
    )


def empty_oracle_vae(config):
    """diffusers' VAE with these numbers, and weights of its own."""
    return diffusers.AutoencoderKLWan(
        base_dim=config.encoder_dim,
        decoder_base_dim=config.decoder_dim,
        z_dim=config.latent_channels,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.residual_blocks,
        temperal_downsample=list(config.temporal_downsample),
        latents_mean=list(config.latent_mean),
        latents_std=list(config.latent_std),
        is_residual=config.residual,
        in_channels=config.pixel_channels,
        out_channels=config.pixel_channels,
        patch_size=config.patch if config.patch > 1 else None,
        scale_factor_spatial=config.compression.space,
        scale_factor_temporal=config.compression.time,
    )


def _with_weights(oracle, module, names):
    weights = {names[name]: weight for name, weight in module.state_dict().items()}
    oracle.load_state_dict(weights, strict=True, assign=True)
    return oracle.eval().requires_grad_(False)


def oracle_dit(dit):
    """diffusers' DiT with the weights of ours."""
    return _with_weights(empty_oracle_dit(dit.config), dit, dit_to_diffusers(dit.state_dict()))


def oracle_vae(vae):
    """diffusers' VAE with the weights of ours."""
    names = vae_to_diffusers(vae.state_dict(), vae.config)
    return _with_weights(empty_oracle_vae(vae.config), vae, names)
