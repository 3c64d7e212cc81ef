"""The errors a user may meet. Each message says what was wrong, with what value, and what to do."""


class OvmlError(Exception):
    """Base of every error this project raises on purpose."""


class ImageError(OvmlError):
    """An image that cannot be read, or is too large to be read safely."""


class LabelError(OvmlError):
    """A label or a label file that cannot make a vocabulary."""


class VocabularyError(OvmlError):
    """A vocabulary that does not fit the model, or cannot be read or written."""


class BundleError(OvmlError):
    """A bundle that is missing, damaged, of another version, or unsafe."""


class DeviceError(OvmlError):
    """A device that is unknown, absent, or gives wrong answers."""


class CheckpointError(OvmlError):
    """A checkpoint or backbone that cannot be loaded safely or correctly."""


class DataError(OvmlError):
    """Training data that cannot be read or makes no sense."""


class EndpointError(OvmlError):
    """A language model that refuses, or does not answer."""


class ExportError(OvmlError):
    """An export that failed or did not reproduce PyTorch's numbers."""


class UsageError(OvmlError):
    """A command line that asks for something that does not exist."""


class MissingDependencyError(OvmlError):
    """An optional package that a feature needs is not installed."""


class OverloadedError(OvmlError):
    """More work than fits; ``retry_after`` is how many seconds to stay away."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
