"""Builds the embedded model: ``python -m ovml_deploy.training.mini --photos FOLDER``."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from ovml_deploy.errors import OvmlError
from ovml_deploy.files import write_folder_atomically
from ovml_deploy.training.mini.backbone_folder import restore_folder
from ovml_deploy.training.mini.build import (
    CALIBRATION,
    CALIBRATION_FILE,
    BuildOptions,
    build,
)
from ovml_deploy.training.mini.material import Material
from ovml_deploy.training.mini.words import VOCABULARY_FILE

#: Of the tags that the shipped vocabulary gives by default, on the calibration pictures.
_PRECISION = 0.77


def main() -> int:
    """Train, save, export and calibrate. Returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ovml_deploy.training.mini", description=__doc__
    )
    parser.add_argument("--photos", type=Path, default=Path("../shared/photos"))
    parser.add_argument("--cutouts", type=Path, default=Path("build/cutouts"))
    parser.add_argument("--icons", type=Path, default=Path("build/icons"))
    parser.add_argument("--out", type=Path, default=Path("build/mini"))
    parser.add_argument("--bundle", type=Path, default=Path("ovml_deploy/assets/mini"))
    parser.add_argument("--scenes", type=int, default=BuildOptions.scenes)
    parser.add_argument("--seed", type=int, default=BuildOptions.seed)
    parser.add_argument("--no-export", action="store_true", help="stop at the checkpoints")
    parser.add_argument(
        "--only-backbone",
        action="store_true",
        help="only write OUT/backbone, out of the towers' packages and the bundle as it is",
    )
    given = parser.parse_args()
    try:
        if given.only_backbone:
            restore_folder(given.out / "backbone", given.bundle)
            return 0
        material = Material.load(given.photos, given.cutouts, given.icons)
        checkpoint = build(material, given.out, BuildOptions(scenes=given.scenes, seed=given.seed))
    except OvmlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.no_export:
        return 0
    pictures = given.out / CALIBRATION / CALIBRATION_FILE
    made = given.out / "bundle"
    export = ["export.onnx", "--ckpt", checkpoint, "--out", made]
    calibrate = ["ovml_deploy.cli", "vocab", "calibrate", VOCABULARY_FILE.stem]
    for command in (
        [*export, "--vocab", VOCABULARY_FILE],
        [*calibrate, "--data", pictures, "--engine", made, "--precision", _PRECISION],
    ):
        done = subprocess.run([sys.executable, "-m", *map(str, command)], check=False)
        if done.returncode:
            return done.returncode
    # 'vocab calibrate' does not change the package, so it worked on the copy in OUT
    with write_folder_atomically(given.bundle) as folder:
        shutil.copytree(made, folder, dirs_exist_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
