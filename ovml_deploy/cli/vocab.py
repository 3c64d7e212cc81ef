"""``ovml-deploy vocab ...``."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ovml_deploy import assets, output
from ovml_deploy.commandline import SOME_FAILED, command, flag, names, number
from ovml_deploy.errors import OvmlError, UsageError, VocabularyError
from ovml_deploy.files import may_be_written
from ovml_deploy.user_folders import NoFolderError

if TYPE_CHECKING:
    from ovml_deploy.pipelines.calibrate import CalibrationReport
    from ovml_deploy.runtime.bundle import Bundle
    from ovml_deploy.runtime.vocabulary import Vocabulary


class Vocab:
    """Build, calibrate and look at vocabularies."""

    @command(overwrite=flag)
    def build(
        self,
        labels: str,
        engine: str = str(assets.MINI),
        name: str | None = None,
        out: str | None = None,
        device: str = "auto",
        overwrite: bool = False,
    ) -> None:
        """Encode a label file and store it as a vocabulary.

        Args:
            labels: a label file: text with one label a line, .json or .csv (docs/labels.md); for a
                prompt-tuned bundle a new label may name its group after a TAB ('ovml-deploy info' lists
                the groups)
            engine: the bundle whose text encoder and prompts are used
            name: what to call it; default: the label file's name
            out: the .safetensors file to write; default: vocabularies/NAME in the bundle, and in the
                user's data folder for the embedded model
            device: auto, cpu, openvino, cuda, tensorrt, or a .plan file
            overwrite: replace a vocabulary that exists
        """
        from ovml_deploy.runtime.bundle import Bundle
        from ovml_deploy.runtime.engine import open_text_encoder
        from ovml_deploy.runtime.label_files import read_grouped_labels

        bundle = Bundle.open(engine)
        name = name or Path(labels).stem
        if Path(name).name != name:
            raise UsageError(f"{name!r} is no name for a vocabulary; give --out to name a file.")
        _check_out(out)
        target = Path(out) if out else _place(bundle, name)
        _check_target(target)
        _check_free(target, overwrite)
        words = read_grouped_labels(labels)
        encoder = open_text_encoder(engine, device)
        vocabulary = encoder.vocabulary(words, name, output.show_encoding)
        vocabulary.save(target)
        print(f"{target}: {len(vocabulary):,} labels, id {vocabulary.id}")

    @command()
    def list(self, engine: str = str(assets.MINI)) -> int:
        """List the vocabularies of a bundle.

        Args:
            engine: the bundle
        """
        from ovml_deploy.runtime.bundle import Bundle
        from ovml_deploy.runtime.vocabulary import load_named

        bundle = Bundle.open(engine)
        found, failed = [], 0
        for name in bundle.vocabulary_names():
            try:
                found.append(load_named(bundle, name))
            except OvmlError as error:  # one made for another model hides no other
                print(f"failed: {error}", file=sys.stderr)
                failed += 1
        default = bundle.default_vocabulary
        rows = [
            (
                *(v.name, len(v), v.id, "yes" if v.calibration else "no"),
                "default" if v.name == default else "",
            )
            for v in found
        ]
        output.print_rows("", ("name", "labels", "id", "calibrated", ""), rows)
        return SOME_FAILED if failed else 0

    @command()
    def show(self, vocabulary: str, engine: str = str(assets.MINI)) -> None:
        """Print the labels of a vocabulary, one a line.

        Args:
            vocabulary: its name in the bundle, or a .safetensors file
            engine: the bundle
        """
        shown, _ = _open(vocabulary, engine)
        print("\n".join(shown.labels))

    @command(precision=number, exclude=names, overwrite=flag)
    def calibrate(
        self,
        vocabulary: str,
        data: str,
        images: str | None = None,
        engine: str = str(assets.MINI),
        precision: float | None = None,
        out: str | None = None,
        device: str = "auto",
        exclude: tuple[str, ...] = (),
        overwrite: bool = False,
    ) -> int:
        """Make a vocabulary's scores probabilities, learned from images whose labels are known.

        From then on, tagging with it shows only tags that are more likely right than wrong, or
        that reach the precision asked for. What is printed comes from 5-fold cross-validation.

        Args:
            vocabulary: its name in the bundle, or a .safetensors file
            data: a folder with a subfolder of images for each label, or what 'train' takes as data:
                a CSV or COCO file, or FOLDER:PART of a known layout
            images: where the relative paths of a CSV or COCO file start; default: its own folder
            engine: the bundle whose scores are calibrated
            precision: the share of tags that must be right; default: each more likely than not
            out: the .safetensors file to write; default: the vocabulary itself
            device: auto, cpu, openvino, cuda, tensorrt, or a .plan file
            exclude: names or paths to pass over in a folder, separated by commas; case is ignored
            overwrite: replace another vocabulary that --out names
        """
        import numpy as np

        from ovml_deploy.pipelines import calibrate as work
        from ovml_deploy.pipelines.labelled_images import targets_for
        from ovml_deploy.pipelines.logits import collect_logits
        from ovml_deploy.runtime.tagger import Tagger
        from ovml_deploy.training.data.labelled import read_labelled, search_of

        work.check_precision(precision)
        _check_out(out)
        words, own_file = _open(vocabulary, engine)
        words = replace(words, calibration=None)  # an older one may be of another model
        target = Path(out) if out else own_file
        _check_target(target)
        _check_free(target, overwrite or target.resolve() == own_file.resolve())
        paths, labelled = read_labelled(data, images, exclude)
        search = search_of(labelled)
        lost = output.print_search(search.passed_over.lines(), search.reasons)
        work.check_size(len(paths), len(words))
        targets, strange = targets_for(labelled, words.labels)
        tagger = Tagger.load(engine, device, words)
        encoded = output.with_progress(tagger.encode_many(paths), len(paths), "encoding")
        logits, kept, failed = collect_logits(tagger, words, encoded, len(paths))
        for message in failed:
            print(f"failed: {message}", file=sys.stderr)
        targets = targets if len(kept) == len(paths) else np.ascontiguousarray(targets[kept])
        calibrated, report = work.calibrate_vocabulary(
            words, logits, targets, tagger.bundle.activation, precision
        )
        assert calibrated.calibration is not None
        bound = replace(calibrated.calibration, model_hash=tagger.bundle.model_hash)
        calibrated = replace(calibrated, calibration=bound)
        calibrated.save(target)
        _print_report(calibrated, report, len(failed), len(strange))
        print(f"{target}: {len(calibrated):,} labels, calibrated, id {calibrated.id}")
        return SOME_FAILED if failed or lost else 0


def _check_out(out: str | None) -> None:
    if out is not None and not out.endswith(".safetensors"):
        raise UsageError(f"A vocabulary is a .safetensors file, and --out is {out!r}.")


def _place(bundle: "Bundle", name: str) -> Path:
    """Return where a new vocabulary is stored. Raises UsageError where there is no such place."""
    try:
        place = bundle.vocabulary_file(name)
    except NoFolderError as error:
        raise UsageError(
            f"A vocabulary of the embedded model is saved in the user's data folder, and there is none: "
            f"{error}, or name a file with --out."
        ) from error
    assets.require_outside(place, "Choose another --name, or name a file with --out.")
    return place


def _check_target(target: Path) -> None:
    """Raise VocabularyError or UsageError before hours of work whose result could not be written."""
    assets.require_outside(target)
    if not may_be_written(target):
        raise VocabularyError(
            f"The vocabulary cannot be written to {str(target)!r}: that is a folder, or lies in none "
            "that you may write to. Name another place with --out."
        )


def _check_free(target: Path, overwrite: bool) -> None:
    """Raise VocabularyError for a file that exists, unless it may be replaced."""
    if target.exists() and not overwrite:
        raise VocabularyError(
            f"The vocabulary {str(target)!r} exists. Replace it with --overwrite, or choose another name."
        )


def _open(vocabulary: str, engine: str) -> "tuple[Vocabulary, Path]":
    """The vocabulary of this name in the bundle, or in this file; and its file."""
    from ovml_deploy.runtime.bundle import Bundle
    from ovml_deploy.runtime.vocabulary import Vocabulary, stored_file

    in_file = vocabulary.endswith(".safetensors")
    file = Path(vocabulary) if in_file else stored_file(Bundle.open(engine), vocabulary)
    return Vocabulary.load(file), file


def _print_report(
    vocabulary: "Vocabulary", report: "CalibrationReport", failed: int, strange: int
) -> None:
    calibration = vocabulary.calibration
    assert calibration is not None
    rows = [
        ("images", f"{calibration.images:,}"),
        ("images that could not be read", f"{failed:,}"),
        ("positive labels of them", f"{calibration.positives:,}"),
        ("labels with fewer than 5 positives", f"{report.few_positives:,} of {len(vocabulary):,}"),
        ("labels that the data do not know", f"{report.unknown_labels:,}"),
        ("labels of the data that are not in the vocabulary", f"{strange:,}"),
        ("threshold", f"{calibration.threshold:.3f}"),
        ("precision", f"{report.precision:.3f} (of {report.tags:,} tags)"),
        ("recall", f"{report.recall:.3f}"),
        ("tags per image", f"{report.tags_per_image:.2f}"),
        ("calibration error before", f"{report.error_before:.4f}"),
        ("calibration error after", f"{report.error_after:.4f}"),
    ]
    output.print_rows("", ("", ""), rows)
    if report.few_positives:
        print("Labels with few positives lean on the offset that all labels share.")
