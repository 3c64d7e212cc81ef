"""Multi-label data sets in their official layouts, and the seen/unseen split. NumPy only.

A target is 1 (positive), 0 (negative) or -1 (unknown). What a layout leaves unsaid is said in its
module.
"""

from ovml_deploy.training.data.dataset import NEGATIVE, POSITIVE, UNKNOWN, Dataset, Record
from ovml_deploy.training.data.layouts import read_dataset
from ovml_deploy.training.data.split import Split, make_split, read_seen, read_unseen

__all__ = [
    "NEGATIVE",
    "POSITIVE",
    "UNKNOWN",
    "Dataset",
    "Record",
    "Split",
    "make_split",
    "read_dataset",
    "read_seen",
    "read_unseen",
]
