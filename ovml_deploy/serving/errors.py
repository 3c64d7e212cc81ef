"""What goes wrong in a server besides what goes wrong anywhere."""

from ovml_deploy.errors import OvmlError, VocabularyError


class UnknownVocabularyError(VocabularyError):
    """A name that no vocabulary has."""


class NotReadyError(VocabularyError):
    """A vocabulary that cannot be used yet, or none that is active."""


class ConflictError(VocabularyError):
    """A change that what is there does not allow."""


class StateError(VocabularyError):
    """The state folder cannot be read or written."""


class StoppingError(OvmlError):
    """The server stops, and begins nothing new."""
