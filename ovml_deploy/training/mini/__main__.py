"""Builds the embedded model: ``python -m ovml_deploy.training.mini --photos FOLDER``."""

import argparse
import subprocess
import sys
from pathlib import Path

from ovml_deploy.errors import OvmlError
from ovml_deploy.training.mini.build import BuildOptions, build
from ovml_deploy.training.mini.words import VOCABULARY_FILE


def main() -> int:
    """Train, measure, save and export. Returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ovml_deploy.training.mini", description=__doc__
    )
    parser.add_argument("--photos", type=Path, default=Path("../shared/photos"))
    parser.add_argument("--out", type=Path, default=Path("build/mini"))
    parser.add_argument("--bundle", type=Path, default=Path("ovml_deploy/assets/mini"))
    parser.add_argument("--mosaics", type=int, default=BuildOptions.mosaics)
    parser.add_argument("--seed", type=int, default=BuildOptions.seed)
    parser.add_argument("--no-export", action="store_true", help="stop at the checkpoint")
    arguments = parser.parse_args()
    options = BuildOptions(mosaics=arguments.mosaics, seed=arguments.seed)
    try:
        checkpoint = build(arguments.photos, arguments.out, options)
    except OvmlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.no_export:
        return 0
    export = [sys.executable, "-m", "export.onnx", "--ckpt", str(checkpoint)]
    target = ["--out", str(arguments.bundle), "--vocab", str(VOCABULARY_FILE)]
    return subprocess.run([*export, *target], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
