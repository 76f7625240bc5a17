"""What a run may use of a machine."""

from dataclasses import dataclass, field

from .speed import USUAL_SPEED, Speed


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run may use.

    Attributes:
        device_nbytes: for a stage, weights and work together; None: no bound, but for VAEs where
            ``vae_nbytes`` is one.
        vae_nbytes: for a VAE beside its weights; None: what the device leaves.
        dits: where DiTs will be if there is no bound for them, in words.
        host_nbytes: that the machine has free; None: not known.
        speed: of the machine.
    """

    device_nbytes: int | None = None
    vae_nbytes: int | None = None
    dits: str = ""
    host_nbytes: int | None = None
    speed: Speed = field(default_factory=lambda: USUAL_SPEED)

    @property
    def is_bounded(self) -> bool:
        """Whether there is a bound to fit anything into."""
        return self.device_nbytes is not None or self.vae_nbytes is not None
