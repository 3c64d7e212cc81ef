"""The ``ovml-deploy`` command: parses, calls, prints."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ovml_deploy import __version__, assets, output
from ovml_deploy.cli.archives import index_command, retag_command
from ovml_deploy.cli.doctor import doctor_command
from ovml_deploy.cli.evaluate import evaluate_command
from ovml_deploy.cli.keywords import keywords_command
from ovml_deploy.cli.knowledge import knowledge_command
from ovml_deploy.cli.serve import serve_command
from ovml_deploy.cli.train import Train
from ovml_deploy.cli.verify import verify_command
from ovml_deploy.cli.video import tag_video_command
from ovml_deploy.cli.vocab import Vocab
from ovml_deploy.commandline import SOME_FAILED, command, count, names, number, run
from ovml_deploy.errors import UsageError

if TYPE_CHECKING:
    from ovml_deploy.runtime.results import TagResult

#: So many images tell where time goes; of a few, most goes where the first ones are waited for.
_MANY = 64
_DEMO_WORDS = (
    "cat", "dog", "coffee", "tea", "flower", "tree", "building", "bridge", "rocket", "clock",
)  # fmt: skip


class Commands:
    """Open-vocabulary multi-label image tagging without torch."""

    def __init__(self) -> None:
        self.vocab = Vocab()
        self.train = Train()

    @command(top_k=count, threshold=number, batch_size=count, exclude=names)
    def tag(
        self,
        *photos: str,
        engine: str = str(assets.MINI),
        vocab: str | None = None,
        labels: str | None = None,
        top_k: int = 5,
        threshold: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        format: str = "table",
        out: str | None = None,
        batch_size: int = 8,
        exclude: tuple[str, ...] = (),
    ) -> int:
        """Tag image files, folders and patterns.

        Args:
            photos: images, folders of images, or patterns such as 'in/*.jpg'
            engine: a bundle, or a file in one; default: the embedded model
            vocab: a label file, a vocabulary file, or the name of one in the bundle
            labels: the labels themselves, separated by commas
            top_k: at most so many tags an image
            threshold: only tags with at least this score; default: a calibrated vocabulary's own,
                so an image may get none (0 shows all top_k), and otherwise no threshold
            device: auto, cpu, openvino, cuda, tensorrt, or a .plan file; only auto chooses by itself
            precision: auto (the fastest the device has), or fp32, bf16, fp16, int8
            format: table, json or csv
            out: write a file instead: .csv, .jsonl, .json (COCO), or .parquet (needs pyarrow)
            batch_size: images encoded at once
            exclude: names or paths to pass over in folders and patterns, separated by commas, such as
                '*.cr3,2019/raw'; case is ignored
        """
        from ovml_deploy.pipelines.folders import find_images
        from ovml_deploy.runtime.results import TagResult
        from ovml_deploy.runtime.stages import Stages
        from ovml_deploy.runtime.tagger import Tagger

        output.check_format(format)
        if out is not None:
            from ovml_deploy.pipelines.tag_files import check_out, write_results

            if format != "table":
                raise UsageError("Give --out or --format, not both.")
            check_out(out)
        if vocab is not None and labels is not None:
            raise UsageError("Give --vocab or --labels, not both.")
        found = find_images(photos, exclude)
        output.print_search(found.passed_over.lines(), ())
        words = vocab if labels is None else [w for w in labels.split(",") if w.strip()]
        tagger = Tagger.load(engine, device, words, output.show_encoding, precision)
        output.show_engine(tagger.engine)
        stages = Stages()
        results = tagger.tag_many(
            found.images, top_k, threshold, batch_size=batch_size, stages=stages
        )
        lost = (
            TagResult(each.path, (), tagger.vocabulary.id, each.reason) for each in found.unreadable
        )
        total = len(found.images) + len(found.unreadable)
        shown = output.with_progress(chain(results, lost), total, "tagging")
        if out is not None:
            failures: list[TagResult] = []
            written = write_results(output.note_failures(shown, failures), tagger.vocabulary, out)
            output.print_failures(failures)
            print(f"{written:,} images: {out}")
            failed = len(failures)
        else:
            failed = output.print_results(shown, format)
        if len(found.images) >= _MANY:
            output.print_bottleneck(stages)
        return SOME_FAILED if failed else 0

    @command()
    def demo(self, out: str = "demo.jpg") -> None:
        """Tag the sample photographs with the embedded model, twice, and draw the result.

        Args:
            out: the picture to write
        """
        from ovml_deploy.files import write_atomically
        from ovml_deploy.pipelines.contact_sheet import Panel, contact_sheet
        from ovml_deploy.runtime.tagger import Tagger

        photographs = [str(path) for path in assets.sample_photographs()]
        tagger = Tagger.load(assets.MINI)
        runs: dict[str, Sequence[TagResult]] = {}
        for name, words, tags, threshold in (
            ("of its own, calibrated", tagger.vocabulary, 4, None),
            ("of yours", _DEMO_WORDS, 1, 0.1),
        ):
            vocabulary = tagger.use_vocabulary(words)
            title = f"{len(vocabulary):,} words {name}"
            runs[title] = [*tagger.tag_many(photographs, tags, threshold)]
            rows = [
                (Path(r.source).name, "  ".join(f"{t.label} {t.score:.2f}" for t in r))
                for r in runs[title]
            ]
            output.print_rows(f"\n{title}", ("photograph", "tags"), rows)
        panels = [
            Panel(source, {title: results[i] for title, results in runs.items()})
            for i, source in enumerate(photographs)
        ]
        with write_atomically(out) as temporary:
            contact_sheet(panels).save(temporary, "JPEG", quality=88)
        print(f"\nThe photographs with their tags: {out}")

    @command()
    def info(self, engine: str = str(assets.MINI)) -> None:
        """Describe a bundle.

        Args:
            engine: the bundle
        """
        from ovml_deploy.runtime.describe import describe_bundle

        output.print_rows("", ("", ""), describe_bundle(engine))

    @command()
    def version(self) -> None:
        """Print the version."""
        print(__version__)

    doctor = staticmethod(doctor_command)
    evaluate = staticmethod(evaluate_command)
    index = staticmethod(index_command)
    keywords = staticmethod(keywords_command)
    knowledge = staticmethod(knowledge_command)
    retag = staticmethod(retag_command)
    serve = staticmethod(serve_command)
    tag_video = staticmethod(tag_video_command)
    verify = staticmethod(verify_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run(Commands(), "ovml-deploy", argv)
