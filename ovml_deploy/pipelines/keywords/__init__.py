"""Tags as XMP and IPTC keywords, in copies of photos: what photographers' programs read."""

from ovml_deploy.pipelines.keywords.copies import Copied, check_threshold, write_keywords
from ovml_deploy.pipelines.keywords.exiftool import KeywordError
from ovml_deploy.pipelines.keywords.places import Place, Plan, plan_copies

__all__ = [
    "Copied",
    "KeywordError",
    "Place",
    "Plan",
    "check_threshold",
    "plan_copies",
    "write_keywords",
]
