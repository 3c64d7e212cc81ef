"""Open-vocabulary multi-label image tagging without torch: exported once, re-worded at any time."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names are imported when first used, so that `import ovml_deploy` costs next to nothing.
_LAZY = {
    "Bundle": "ovml_deploy.runtime.bundle",
    "OvmlError": "ovml_deploy.errors",
    "Tag": "ovml_deploy.runtime.results",
    "TagResult": "ovml_deploy.runtime.results",
    "Tagger": "ovml_deploy.runtime.tagger",
    "Vocabulary": "ovml_deploy.runtime.vocabulary",
}

__all__ = ["Bundle", "OvmlError", "Tag", "TagResult", "Tagger", "Vocabulary", "__version__"]

if TYPE_CHECKING:
    from ovml_deploy.errors import OvmlError
    from ovml_deploy.runtime.bundle import Bundle
    from ovml_deploy.runtime.results import Tag, TagResult
    from ovml_deploy.runtime.tagger import Tagger
    from ovml_deploy.runtime.vocabulary import Vocabulary


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
