"""What a server counts, for Prometheus."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ovml_deploy.serving.vocabularies import VocabularyStore

#: seconds
_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "ovml_requests", "Requests answered", ["route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "ovml_request_seconds",
            "From a request's first byte to its answer",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.images = Counter("ovml_images", "Images tagged or encoded", registry=self.registry)
        self.errors = Counter(
            "ovml_errors", "Requests and images that failed", ["kind"], registry=self.registry
        )
        self.batch_size = Histogram(
            "ovml_batch_size", "Images in a batch", buckets=_BATCHES, registry=self.registry
        )
        self.queue_seconds = Histogram(
            "ovml_queue_seconds",
            "What images wait for the engine",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "ovml_stage_seconds",
            "Seconds in each stage",
            ["stage"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        # found once: looking a label up costs more than counting
        self._stage = {
            name: self._stages.labels(name)
            for name in ("read", "decode", "embed", "encode_and_match", "match", "select")
        }

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a value as it is when somebody asks."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def watch_vocabularies(self, store: VocabularyStore) -> None:
        """Show the vocabularies as they are when somebody asks."""
        self.registry.register(_Vocabularies(store))

    def took(self, stage: str, seconds: float) -> None:
        """Count the seconds of a stage."""
        self._stage[stage].observe(seconds)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the seconds of a stage that runs here."""
        start = perf_counter()
        try:
            yield
        finally:
            self.took(stage, perf_counter() - start)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Vocabularies(Collector):
    def __init__(self, store: VocabularyStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        labels = GaugeMetricFamily(
            "ovml_vocabulary_labels",
            "Labels of a vocabulary",
            labels=("name", "version", "id", "state", "active"),
        )
        for entry in self._store.entries():
            active = str(entry.active).lower()
            identity = entry.name, str(entry.version), entry.id or "", entry.state, active
            labels.add_metric(identity, entry.labels)
        yield labels
