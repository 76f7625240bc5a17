"""Which weights are on the device when, and what a step takes beside them."""
