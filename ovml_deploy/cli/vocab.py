"""``ovml-deploy vocab ...``."""

from pathlib import Path

from ovml_deploy import assets, output
from ovml_deploy.commandline import command
from ovml_deploy.errors import UsageError


class Vocab:
    """Build and look at vocabularies."""

    @command()
    def build(
        self,
        labels: str,
        engine: str = str(assets.MINI),
        name: str | None = None,
        out: str | None = None,
        device: str = "auto",
    ) -> None:
        """Encode a label file and store it as a vocabulary.

        Args:
            labels: a UTF-8 text file, one label a line
            engine: the bundle whose text encoder and prompts are used
            name: what to call it; default: the label file's name
            out: the .safetensors file to write; default: vocabularies/NAME in the bundle
            device: auto, or one that 'ovml-deploy doctor' lists
        """
        from ovml_deploy.runtime.backends import create_backend
        from ovml_deploy.runtime.bundle import VOCABULARIES, Bundle
        from ovml_deploy.runtime.labels import read_labels
        from ovml_deploy.runtime.text_encoder import TextEncoder

        bundle = Bundle.open(engine)
        name = name or Path(labels).stem
        if Path(name).name != name:
            raise UsageError(f"{name!r} is no name for a vocabulary; give --out to name a file.")
        if out is not None and not out.endswith(".safetensors"):
            raise UsageError(f"A vocabulary is a .safetensors file, and --out is {out!r}.")
        target = Path(out) if out else bundle.inside(f"{VOCABULARIES}/{name}.safetensors")
        words = read_labels(labels)
        encoder = TextEncoder(bundle, create_backend(device))
        vocabulary = encoder.vocabulary(words, name, output.show_encoding)
        vocabulary.save(target)
        print(f"{target}: {len(vocabulary):,} labels, id {vocabulary.id}")

    @command()
    def list(self, engine: str = str(assets.MINI)) -> None:
        """List the vocabularies of a bundle.

        Args:
            engine: the bundle
        """
        from ovml_deploy.runtime.bundle import Bundle
        from ovml_deploy.runtime.vocabulary import load_named

        bundle = Bundle.open(engine)
        found = [load_named(bundle, name) for name in bundle.vocabulary_names()]
        default = bundle.default_vocabulary
        rows = [(v.name, len(v), v.id, "default" if v.name == default else "") for v in found]
        output.print_rows("", ("name", "labels", "id", ""), rows)

    @command()
    def show(self, vocabulary: str, engine: str = str(assets.MINI)) -> None:
        """Print the labels of a vocabulary, one a line.

        Args:
            vocabulary: its name in the bundle, or a .safetensors file
            engine: the bundle
        """
        from ovml_deploy.runtime.bundle import Bundle
        from ovml_deploy.runtime.vocabulary import Vocabulary, load_named

        if vocabulary.endswith(".safetensors"):
            shown = Vocabulary.load(vocabulary)
        else:
            shown = load_named(Bundle.open(engine), vocabulary)
        print("\n".join(shown.labels))
