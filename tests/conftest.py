"""Settings of the whole test run."""

import torch
from hypothesis import settings

# No timed assertions, and the same examples in every run.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")
torch.use_deterministic_algorithms(True, warn_only=True)
# The models here are tiny: a second thread costs more than it brings, above all on a busy machine.
torch.set_num_threads(1)
