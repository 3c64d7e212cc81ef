"""Export: from checkpoints to bundles, and from bundles to engines."""

import sys

from ovml_deploy.commandline import report_missing_package

if sys.argv[:1] == ["-m"]:  # python -m export.NAME: Python sets this until it runs the module
    sys.excepthook = report_missing_package("export", sys.excepthook)
