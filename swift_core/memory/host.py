"""What the machine itself has of memory."""

import psutil


def host_nbytes() -> int:
    """Tell how much memory the machine has."""
    return int(psutil.virtual_memory().total)


def free_host_nbytes() -> int:
    """Tell how much of it could be taken now; what only caches files counts as free."""
    return int(psutil.virtual_memory().available)
