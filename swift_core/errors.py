"""Every error a user can cause, as a family with one root.

A caller that wants one sentence instead of a traceback catches ``SwiftError``; each message names
the value, what was expected and what to do.
"""


class SwiftError(Exception):
    """Root of all errors that bad input can cause; the message is one sentence for the user."""


class GeometryError(SwiftError):
    """A size or a number of frames that the models cannot represent."""


class ScheduleError(SwiftError):
    """Noise levels or sampling settings that make no schedule."""


class SegmentError(SwiftError):
    """Segment settings that make no plan."""


class CheckpointError(SwiftError):
    """A file that is no checkpoint, not a whole one, or not the one that is needed."""


class PackageError(SwiftError):
    """A library that only some models need, and that is not installed."""


class PromptError(SwiftError):
    """Text, or a text embedding, that the models cannot take."""


class MediaError(SwiftError):
    """A picture or video that cannot be read, written or used."""


class OutputError(SwiftError):
    """A place on disk that cannot be written."""


class BudgetError(SwiftError):
    """A run that does not fit into the memory there is.

    Attributes:
        share: of the picture's area at which it would fit; 0 where no size would.
        least_nbytes: of memory with which it would fit as it is; 0 where that is not known.
    """

    def __init__(self, message: str, *, share: float = 0.0, least_nbytes: int = 0) -> None:
        super().__init__(message)
        self.share = share
        self.least_nbytes = least_nbytes


class DeviceError(SwiftError):
    """A device that is not there, or that cannot do what is asked of it."""
