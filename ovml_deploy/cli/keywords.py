"""``ovml-deploy keywords``."""

from ovml_deploy import assets, output
from ovml_deploy.commandline import SOME_FAILED, command, count, flag, names, number
from ovml_deploy.errors import UsageError


@command(top_k=count, threshold=number, batch_size=count, overwrite=flag, exclude=names)
def keywords_command(
    *photos: str,
    out: str,
    engine: str = str(assets.MINI),
    vocab: str | None = None,
    labels: str | None = None,
    top_k: int = 5,
    threshold: float | None = None,
    prefix: str = "",
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 8,
    exclude: tuple[str, ...] = (),
) -> int:
    """Copy photos with their tags as keywords (XMP and IPTC), as photographers' programs read them.

    Args:
        photos: images, folders of images, or patterns such as 'in/*.jpg'; they are only read
        out: the folder of copies; run again, it passes over those that are there
        engine: a bundle, or a file in one; default: the embedded model
        vocab: a label file, a vocabulary file, or the name of one in the bundle
        labels: the labels themselves, separated by commas
        top_k: at most so many keywords a photo
        threshold: only tags with at least this score; default: a calibrated vocabulary's own. Labels
            and uncalibrated vocabularies have none, so they need it
        prefix: text before each keyword, to tell them from those that a person gave
        overwrite: make copies anew that are there
        device: auto, cpu, openvino, cuda, tensorrt, or a .plan file; only auto chooses by itself
        precision: auto (the fastest the device has), or fp32, bf16, fp16, int8
        batch_size: images encoded at once
        exclude: names or paths to pass over in folders and patterns, separated by commas; case is ignored
    """
    from ovml_deploy.pipelines.keywords import check_threshold, plan_copies, write_keywords
    from ovml_deploy.pipelines.keywords.exiftool import find_exiftool
    from ovml_deploy.runtime.bundle import Bundle
    from ovml_deploy.runtime.tagger import Tagger, stored_vocabulary

    if vocab is not None and labels is not None:
        raise UsageError("Give --vocab or --labels, not both.")
    find_exiftool()  # before the model is loaded, what is wrong with the command line
    plan = plan_copies(photos, out, exclude)
    total = len(plan.places) + len(plan.unreadable)
    output.print_search(plan.passed_over.lines(), ())
    words = vocab if labels is None else [w for w in labels.split(",") if w.strip()]
    bundle = Bundle.open(engine)
    source = bundle.default_vocabulary if words is None else words
    check_threshold(None if source is None else stored_vocabulary(bundle, source), threshold)
    tagger = Tagger.load(engine, device, words, output.show_encoding, precision)
    output.show_engine(tagger.engine)
    copies = write_keywords(
        tagger, photos, out, top_k, threshold, prefix, overwrite, batch_size, exclude
    )
    failures = output.Failures()
    written = there = failed = 0
    for copy in output.with_progress(copies, total, "copying"):
        if copy.error is not None:
            failed += 1
            failures.print(copy.source, copy.error)
        elif copy.there:
            there += 1
        else:
            written += 1
    failures.close()
    kept = f", {there:,} there already (--overwrite makes them anew)" if there else ""
    print(f"{out}: {written:,} copies{kept}, {failed:,} failed")
    return SOME_FAILED if failed else 0
