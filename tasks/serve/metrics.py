"""What /metrics shows: vLLM's names under the prefix `catena:`, so its dashboards need one search-and-replace."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tasks.serve.engine.request import Sequence

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters and histograms of one engine, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def make(kind: type, name: str, what: str, *labels: str, **more: object):
            return kind(f"catena:{name}", what, labels, registry=self.registry, **more)

        self.running = make(Gauge, "num_requests_running", "sequences in the batch")
        self.waiting = make(Gauge, "num_requests_waiting", "sequences in the queue")
        self.cache = make(Gauge, "kv_cache_usage_perc", "share of key-value blocks in use, 0 to 1")
        self.preemptions = make(Counter, "num_preemptions", "sequences put back for want of memory")
        self.prompt_tokens = make(Counter, "prompt_tokens", "prompt tokens of ended requests")
        self.generation_tokens = make(Counter, "generation_tokens", "tokens generated")
        self.success = make(Counter, "request_success", "sequences ended, by reason", "finished_reason")
        self.first_token = make(Histogram, "time_to_first_token_seconds", "arrival to first token", buckets=SECONDS)
        self.per_token = make(Histogram, "time_per_output_token_seconds", "mean of a request's later tokens",
                              buckets=SECONDS)
        self.latency = make(Histogram, "e2e_request_latency_seconds", "arrival to end", buckets=SECONDS)

    def ended(self, sequence: Sequence, reason: str) -> None:
        """Count a sequence that has ended."""
        now, generated = time.perf_counter(), len(sequence.generated)
        self.prompt_tokens.inc(len(sequence.request.prompt))
        self.generation_tokens.inc(generated)
        self.success.labels(reason).inc()
        self.latency.observe(now - sequence.arrived)
        if generated > 1:
            self.per_token.observe((now - sequence.first_token) / (generated - 1))

    def text(self) -> bytes:
        """The Prometheus exposition."""
        return generate_latest(self.registry)
