"""``ovml-deploy serve``."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ovml_deploy import assets, output
from ovml_deploy.commandline import command, count, flag, needs_extra, number
from ovml_deploy.errors import UsageError

if TYPE_CHECKING:
    from ovml_deploy.runtime.labels import LabelSource

_LEVELS = ("debug", "info", "warning", "error")


@command(
    port=count,
    grpc_port=count,
    max_batch=count,
    max_delay_ms=number,
    max_queue=count,
    max_pixels=count,
    max_body_mb=count,
    drain=number,
    insecure=flag,
)
def serve_command(
    engine: str = str(assets.MINI),
    host: str = "127.0.0.1",
    port: int = 8000,
    grpc_port: int | None = None,
    vocab: str | None = None,
    labels: str | None = None,
    state: str | None = None,
    api_key_file: str | None = None,
    insecure: bool = False,
    device: str = "auto",
    precision: str = "auto",
    max_batch: int = 8,
    max_delay_ms: float = 2.0,
    max_queue: int = 64,
    max_pixels: int = 50_000_000,
    max_body_mb: int = 32,
    drain: float = 30.0,
    root_path: str = "",
    log_level: str = "info",
) -> int:
    """Serve a bundle over HTTP: tags, new words while it runs, metrics, and a web page.

    Args:
        engine: a bundle, or a file in one; default: the embedded model
        host: the address to listen on; others than this machine's own need an API key
        port: the port to listen on; 0 takes a free one
        grpc_port: a port for gRPC (Open Inference Protocol); 0 takes a free one; default: none
        vocab: a label file to start with; it becomes the active vocabulary, named as the file is
        labels: the labels to start with, separated by commas
        state: a folder that keeps vocabularies through restarts; default: they are forgotten
        api_key_file: a file with the key that clients must send; also OVML_API_KEY_FILE or OVML_API_KEY
        insecure: listen on a public address without a key
        device: auto, cpu, openvino, cuda, tensorrt, or a .plan file; only auto chooses by itself
        precision: auto (the fastest the device has), or fp32, bf16, fp16, int8
        max_batch: images computed at once
        max_delay_ms: milliseconds that an idle engine waits for others, where less than half are there
        max_queue: images inside at once, before clients are asked to come back later
        max_pixels: pixels that an image may have
        max_body_mb: megabytes that a request may have
        drain: seconds that requests have to end after SIGTERM
        root_path: the path below which a reverse proxy shows the server, such as /tagger
        log_level: debug, info, warning or error
    """
    from ovml_deploy.runtime.engine import Engine
    from ovml_deploy.serving.logs import configure_logs
    from ovml_deploy.serving.settings import Settings, check_address, read_api_key

    if log_level not in _LEVELS:
        raise UsageError(f"--log-level is {log_level!r}; it is one of {', '.join(_LEVELS)}.")
    start = _start(vocab, labels)
    settings = Settings(
        max_batch=max_batch,
        max_delay=max_delay_ms / 1e3,
        max_queue=max_queue,
        max_pixels=max_pixels,
        max_body=max_body_mb << 20,
        drain=drain,
        state=None if state is None else Path(state),
        api_key=read_api_key(api_key_file),
        root_path=root_path,
    )
    check_address(host, settings.api_key, insecure)
    configure_logs(log_level)
    # the server is imported, which is Python, while the engine loads, which hardly is
    with ThreadPoolExecutor(1, thread_name_prefix="ovml-open") as pool, needs_extra("serve"):
        opening = pool.submit(Engine.open, engine, device, precision)
        from ovml_deploy.serving.server import Address, serve

        if grpc_port is not None:
            import ovml_deploy.serving.kserve.grpc  # noqa: F401  (missing packages are told now)
    opened = opening.result()
    output.show_engine(opened)
    return serve(opened, settings, Address(host, port), start, grpc_port)


def _start(vocab: str | None, labels: str | None) -> "tuple[str, LabelSource] | None":
    from ovml_deploy.runtime.labels import check_labels
    from ovml_deploy.serving.vocabularies import read_named_labels

    if vocab is not None and labels is not None:
        raise UsageError("Give --vocab or --labels, not both.")
    if vocab is not None:
        return read_named_labels(vocab)
    if labels is not None:
        return "start", check_labels(word for word in labels.split(",") if word.strip())
    return None
