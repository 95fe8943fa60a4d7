"""What /metrics shows: vLLM's names and label under the prefix `catena:`, one replacement away from its dashboards."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tasks.serve.engine.request import Sequence

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
GAUGES = {
    "running": ("num_requests_running", "sequences in the batch"),
    "waiting": ("num_requests_waiting", "sequences in the queue"),
    "cache": ("kv_cache_usage_perc", "share of key-value blocks in use, 0 to 1"),
}
COUNTERS = {
    "preemptions": ("num_preemptions", "sequences put back for want of memory"),
    "prefix_queries": ("prefix_cache_queries", "prompt tokens looked up in the prefix cache"),
    "prefix_hits": ("prefix_cache_hits", "prompt tokens found there"),
    "drafts": ("spec_decode_num_drafts", "guesses checked"),
    "draft_tokens": ("spec_decode_num_draft_tokens", "tokens guessed"),
    "accepted_tokens": ("spec_decode_num_accepted_tokens", "tokens guessed right"),
    "prompt_tokens": ("prompt_tokens", "prompt tokens of ended requests"),
    "generation_tokens": ("generation_tokens", "tokens generated"),
}
HISTOGRAMS = {
    "first_token": ("time_to_first_token_seconds", "arrival to first token"),
    "per_token": ("time_per_output_token_seconds", "mean of a request's later tokens"),
    "latency": ("e2e_request_latency_seconds", "arrival to end"),
}


class Exposition:
    """The collectors of all models of a process, labelled `model_name`, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.kinds = {attribute: kind(f"catena:{name}", what, ["model_name"], registry=self.registry, **more)
                      for kind, table, more in ((Gauge, GAUGES, {}), (Counter, COUNTERS, {}),
                                                (Histogram, HISTOGRAMS, {"buckets": SECONDS}))
                      for attribute, (name, what) in table.items()}
        self.success = Counter("catena:request_success", "sequences ended, by reason",
                               ["model_name", "finished_reason"], registry=self.registry)

    def text(self) -> bytes:
        """The Prometheus exposition."""
        return generate_latest(self.registry)


class Metrics:
    """The counters and histograms of one engine."""

    running: Gauge
    waiting: Gauge
    cache: Gauge
    preemptions: Counter
    prefix_queries: Counter
    prefix_hits: Counter
    drafts: Counter
    draft_tokens: Counter
    accepted_tokens: Counter
    prompt_tokens: Counter
    generation_tokens: Counter
    first_token: Histogram
    per_token: Histogram
    latency: Histogram

    def __init__(self, model: str = "model", exposition: Exposition | None = None) -> None:
        self.model, self.exposition = model, exposition or Exposition()
        for attribute, collector in self.exposition.kinds.items():
            setattr(self, attribute, collector.labels(model))

    def ended(self, sequence: Sequence, reason: str) -> None:
        """Count a sequence that has ended."""
        now, prompt = time.perf_counter(), len(sequence.request.prompt)
        generated = len(sequence.tokens) - prompt
        self.prompt_tokens.inc(prompt)
        self.generation_tokens.inc(generated)
        self.exposition.success.labels(self.model, reason).inc()
        self.latency.observe(now - sequence.arrived)
        if generated > 1:
            self.per_token.observe((now - sequence.first_token) / (generated - 1))

    def text(self) -> bytes:
        """The Prometheus exposition of every model that shares this one's."""
        return self.exposition.text()
