"""The figures of one API process, for Prometheus: latency, errors, throughput, queue, model, uptime, CPU and memory."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one app, in a registry of their own: two apps in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # process_cpu_seconds_total, process_resident_memory_bytes …
        PlatformCollector(registry=self.registry)
        # Its count gives throughput, its status errors, its buckets latency.
        self._requests = Histogram(
            "imgpipe_http_request_seconds",
            "Time from the request's head to the end of its answer.",
            ["method", "route", "status"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._queues = Gauge(
            "imgpipe_queue_requests",
            "Requests that are worked on or wait, by kind of work.",
            ["queue"],
            registry=self.registry,
        )
        self._models = Gauge(
            "imgpipe_model_info", "Loaded models; always 1.", ["model", "version"], registry=self.registry
        )
        self._cache = Counter(
            "imgpipe_answer_cache",
            "Answers that were known before, and those that were not.",
            ["known"],
            registry=self.registry,
        )
        self._refused_connections = Counter(
            "imgpipe_refused_connections",
            "Connections that were closed at once, because there were too many.",
            registry=self.registry,
        )
        started = time.time()
        uptime = Gauge("imgpipe_uptime_seconds", "Time since this process began to serve.", registry=self.registry)
        uptime.set_function(lambda: time.time() - started)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note one answer."""
        self._requests.labels(method, route, str(status)).observe(seconds)

    def watch_queue(self, name: str, length: Callable[[], int]) -> None:
        """Tell how long a queue is, whenever the figures are asked for."""
        self._queues.labels(name).set_function(length)

    def note_model(self, model: str, version: str) -> None:
        """Note a model that was loaded."""
        self._models.labels(model, version).set(1)

    def count_cache(self, *, hit: bool) -> None:
        """Note whether an answer was known before."""
        self._cache.labels("yes" if hit else "no").inc()

    def count_refused_connection(self) -> None:
        """Note a connection that was closed at once."""
        self._refused_connections.inc()
