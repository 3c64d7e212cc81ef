"""open_clip's tokenizers as a ``tokenizer.json`` for the ``tokenizers`` library."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from open_clip.tokenizer import (
    HFTokenizer,
    SimpleTokenizer,
    _clean_canonicalize,
    _clean_lower,
    _clean_whitespace,
)
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

from ovml_deploy.errors import ExportError
from ovml_deploy.models.backbone import Backbone
from ovml_deploy.runtime.bundle import TextSettings
from ovml_deploy.runtime.prompt_tokenizer import PromptTokenizer

_CLEANERS = {
    _clean_lower: "lower",
    _clean_whitespace: "whitespace",
    _clean_canonicalize: "canonicalize",
}

#: Labels that a wrong conversion would get wrong: case, digits, apostrophes, entities, scripts.
PROBES = (
    "cat",
    "Hard Hat",
    "traffic light, 3-way",
    "hunter's cap",
    "don't walk sign",
    "it\u2019s a caf\u00e9",
    "AT&amp;T  logo",
    "\u732b",
    "\u0441\u043e\u0431\u0430\u043a\u0430",
    "\U0001f600 face",
    "2024",
    "1,000,000",
    "x-ray (medical)",
    "C++",
    "rock & roll",
    "under_score",
    "na\u00efve \u00df\u0130",
    "\ufb01sh tank",
    "a" * 200,
    "many words " * 60,
)


def text_settings(backbone: Backbone) -> TextSettings:
    """Describe how the backbone turns texts into token ids. Raises ExportError."""
    cleaner = _CLEANERS.get(backbone.tokenizer.clean_fn)
    if cleaner is None:
        raise ExportError(
            f"The tokenizer cleans text with {backbone.tokenizer.clean_fn!r}, which the runtime does "
            "not know."
        )
    text = backbone.text
    return TextSettings(
        context_length=int(backbone.tokenizer.context_length or text.context_length),
        any_length=text.any_length,
        needs_mask=text.hugging_face,
        pad_id=backbone.pad_id,
        clean=cleaner,
    )


def export_tokenizer(backbone: Backbone, path: Path) -> None:
    """Write ``tokenizer.json`` and prove that it gives the backbone's own ids.

    Raises ExportError for a tokenizer that cannot be carried over.
    """
    tokenizer = backbone.tokenizer
    if isinstance(tokenizer, SimpleTokenizer):
        converted = _from_simple(tokenizer)
    elif isinstance(tokenizer, HFTokenizer):
        if tokenizer.tokenizer_mode or tokenizer.strip_sep_token:
            raise ExportError(
                "Tokenizers with tokenizer_mode or strip_sep_token are not supported."
            )
        backend = getattr(tokenizer.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ExportError(
                f"The tokenizer {type(tokenizer.tokenizer).__name__} has no fast version to export."
            )
        converted = Tokenizer.from_str(backend.to_str())
    else:
        raise ExportError(f"The tokenizer {type(tokenizer).__name__} is not supported.")
    converted.save(str(path))
    check_tokenizer(backbone, path, PROBES)


def check_tokenizer(backbone: Backbone, path: Path, texts: Sequence[str]) -> None:
    """Raise ExportError unless ``path`` gives the backbone's own ids for every text."""
    settings = text_settings(backbone)
    ours = PromptTokenizer(Tokenizer.from_file(str(path)), settings)
    expected = backbone.tokenizer(list(texts)).numpy()
    rows = ours(texts)
    for text, row, wanted in zip(texts, rows, expected, strict=True):
        padded = np.full(len(wanted), settings.pad_id)
        padded[: len(row)] = row
        if not np.array_equal(padded, wanted):
            raise ExportError(
                f"The exported tokenizer reads {text[:60]!r} as {row[:12]}, the backbone's own as "
                f"{wanted[:12].tolist()}."
            )


def _from_simple(tokenizer: SimpleTokenizer) -> Tokenizer:
    """CLIP's byte-pair encoding, from its vocabulary, merges and splitting pattern."""
    bpe = models.BPE(
        vocab=tokenizer.encoder,
        merges=sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__),
        end_of_word_suffix="</w>",
    )
    converted = Tokenizer(bpe)
    converted.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_pattern(tokenizer)), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    start, end = (
        tokenizer.decoder[tokenizer.sot_token_id],
        tokenizer.decoder[tokenizer.eot_token_id],
    )
    # in a label, too, as open_clip reads them
    converted.add_special_tokens([start, end])
    converted.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, tokenizer.sot_token_id), (end, tokenizer.eot_token_id)],
    )
    return converted


def _pattern(tokenizer: SimpleTokenizer) -> str:
    """What open_clip splits texts by: it ignores case, which only the spelled-out parts have."""
    parts = tokenizer.pat.pattern.split("|")
    words = [part for part in parts if "[" not in part]
    if parts[: len(words)] != words:
        raise ExportError(f"The tokenizer splits texts in a new way: {tokenizer.pat.pattern!r}.")
    return "|".join((f"(?i:{'|'.join(words)})", *parts[len(words) :]))
