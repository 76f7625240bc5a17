"""Each fast path of the DiT beside its slow twin."""

import pytest
import torch
from einops import rearrange

from swift_core.model.dit import PromptKeys
from swift_core.model.modulation import timestep_sinusoids
from swift_core.model.rope import make_rope
from tests.models import small_dit

# Same arithmetic in another order, fp32, activations of order 1.
CLOSE = {"atol": 1e-5, "rtol": 0}


def draw(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def dit():
    return small_dit()


def test_modulation_per_frame_is_modulation_per_token(dit):
    """Running every token as a frame of its own builds the per-token modulation: the naive form."""
    latent, text = draw(1, 8, 3, 4, 6), draw(1, 12, 16)
    timestep = torch.tensor([[0.0, 640.0, 15.0]])
    prompt = dit.read_prompt(text)
    per_frame = dit(latent, timestep, prompt, positions=range(3))

    tokens = rearrange(dit._patchify(latent), "b t s d -> b (t s) 1 d")
    per_token = timestep.repeat_interleave(6, dim=1)
    time = dit.time_embedding(timestep_sinusoids(per_token, 32))
    time_modulation = dit.time_projection(time).unflatten(-1, (6, -1))
    rope = make_rope(dit.config, range(3), height=2, width=3, device=torch.device("cpu"))
    for layer, keys in zip(dit.blocks, prompt.dit_blocks, strict=True):
        tokens, _ = layer(tokens, time_modulation, rope=rope, prompt=keys)
    patches = dit.head(tokens, time)
    naive = rearrange(patches, "b (t h w) 1 (p q c) -> b c t (h p) (w q)", t=3, h=2, w=3, p=2, q=2)
    torch.testing.assert_close(per_frame, naive, **CLOSE)


def test_prompt_keys_kept_are_prompt_keys_recomputed(dit):
    latent, text = draw(1, 8, 2, 4, 4), draw(1, 7, 16)
    kept = dit.read_prompt(text)
    first = dit(latent, torch.full((1, 2), 500.0), kept, positions=range(2))
    again = dit(latent, torch.full((1, 2), 500.0), dit.read_prompt(text), positions=range(2))
    assert torch.equal(first, again)
    assert torch.equal(first, dit(latent, torch.full((1, 2), 500.0), kept, positions=range(2)))


@pytest.mark.parametrize("order", [(0, 3, 4, 5, 6), (0, 4, 5, 6, 7)])
def test_read_only_by_remembered_keys_is_read_only_by_mask(dit, order):
    """Anchor, neighbor, two targets and a right neighbor: conditions must not see targets."""
    latent, prompt = draw(1, 8, 5, 4, 6), dit.read_prompt(draw(1, 12, 16))
    targets, conditions = [2, 3], [0, 1, 4]
    timestep = torch.zeros(1, 5)
    timestep[:, targets] = 700.0
    visible = torch.ones(5, 5, dtype=torch.bool)
    visible[conditions] = torch.tensor([i in conditions for i in range(5)])
    slow = dit(latent, timestep, prompt, positions=order, visible=visible)[:, :, targets]

    context = dit.read_context(
        latent[:, :, conditions], prompt, positions=[order[i] for i in conditions]
    )
    fast = dit(
        latent[:, :, targets],
        timestep[:, targets],
        prompt,
        positions=[order[i] for i in targets],
        context=context,
    )
    torch.testing.assert_close(fast, slow, **CLOSE)
    both_ways = dit(latent, timestep, prompt, positions=order)[:, :, targets]
    assert (both_ways - slow).abs().max() > 100 * CLOSE["atol"]


def test_a_batch_of_two_is_two_singles(dit):
    latent, text = draw(2, 8, 3, 4, 4), draw(2, 9, 16)
    timestep = torch.tensor([[0.0, 300.0, 300.0], [0.0, 800.0, 900.0]])
    both = dit(latent, timestep, dit.read_prompt(text), positions=range(3))
    for i in range(2):
        one = slice(i, i + 1)
        alone = dit(latent[one], timestep[one], dit.read_prompt(text[one]), positions=range(3))
        torch.testing.assert_close(both[one], alone, **CLOSE)


def test_frames_in_another_order_give_the_same_velocities(dit):
    """Attention does not know the order; positions do."""
    latent, prompt = draw(1, 8, 4, 4, 4), dit.read_prompt(draw(1, 12, 16))
    timestep = torch.tensor([[0.0, 0.0, 600.0, 600.0]])
    positions, order = [0, 5, 6, 7], [2, 0, 3, 1]
    straight = dit(latent, timestep, prompt, positions=positions)
    shuffled = dit(
        latent[:, :, order], timestep[:, order], prompt, positions=[positions[i] for i in order]
    )
    torch.testing.assert_close(shuffled, straight[:, :, order], **CLOSE)


def test_keys_of_one_dit_block_each(dit):
    prompt = dit.read_prompt(draw(1, 3, 16))
    assert isinstance(prompt, PromptKeys)
    assert [tuple(keys.key.shape) for keys in prompt.dit_blocks] == [(1, 12, 2, 24)] * 3
