"""``python -m ovml_deploy.cli``: the command without its installed script."""

import sys

from ovml_deploy.cli import main

sys.exit(main())
