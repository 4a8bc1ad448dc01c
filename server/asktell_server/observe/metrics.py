"""The server's metrics: one object, made for one registry, handed to whoever has something to count.

Every label has a bounded set of values: RPC methods, status codes, phases, sources, states, causes. Nothing is labelled by
study, worker or client, so the number of series does not grow with use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

FALLBACK_CAUSES = ("deadline", "overtaken", "worker_lost", "numerical")
PHASES = ("queue", "catch_up", "fit", "acquisition", "commit")


class Metrics:
    """All metrics. Satisfies `storage.base.CommitObserver`. Safe to use from any thread."""

    def __init__(self, registry: CollectorRegistry, version: str) -> None:
        self.registry = registry
        Info("asktell_build", "The running release.", registry=registry).info({"version": version})
        self._rpc = Histogram(
            "asktell_rpc_duration_seconds",
            "Time from a request's arrival to its reply, by method and status code; a stream counts once, at its end.",
            ["method", "code"],
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self._ask_phase = Histogram(
            "asktell_ask_phase_duration_seconds",
            "Parts of an ask: waiting for a compute process, catching up with the database, fitting, acquisition, commit.",
            ["phase"],
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self._phase = {phase: self._ask_phase.labels(phase) for phase in PHASES}
        self._suggestions = Counter(
            "asktell_suggestions_total",
            "Trials given out, by where their parameters came from.",
            ["source"],
            registry=registry,
        )
        self._ask = Histogram(
            "asktell_ask_duration_seconds",
            "Time to answer an ask, by where the first suggestion came from.",
            ["source"],
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self._tells = Counter(
            "asktell_tells_total",
            "Results taken, by the state that they put the trial in.",
            ["state"],
            registry=registry,
        )
        self._reports = Counter("asktell_reports_total", "Intermediate measurements taken.", registry=registry)
        self._trials = Gauge(
            "asktell_trials", "Trials in the database, by state; read every few seconds.", ["state"], registry=registry
        )
        self._look_ahead = Counter(
            "asktell_look_ahead_total",
            "Suggestions that needed a model: found ready (hit), found in the making (joined), or begun by the ask (miss).",
            ["outcome"],
            registry=registry,
        )
        self._fallbacks = Counter(
            "asktell_fallbacks_total",
            "Suggestions from the quasi-random design because a model could not answer.",
            ["cause"],
            registry=registry,
        )
        for cause in FALLBACK_CAUSES:
            self._fallbacks.labels(cause)  # there from the start, so that a rate sees the first one
        self._denied = Counter(
            "asktell_denied_total", "Calls that were not let in, by reason.", ["reason"], registry=registry
        )
        self._audit_lost = Counter(
            "asktell_audit_lines_lost_total", "Lines of the audit log that could not be written.", registry=registry
        )
        self._certificate_ends = Gauge(
            "asktell_tls_certificate_expiry_timestamp_seconds",
            "When the TLS certificate in use expires, in seconds since 1970; 0 without TLS.",
            registry=registry,
        )
        self._leases_expired = Counter("asktell_leases_expired_total", "Trials whose lease ran out.", registry=registry)
        self._worker_restarts = Counter(
            "asktell_worker_restarts_total",
            "Compute processes started again after they died or overran.",
            registry=registry,
        )
        self._commit = Histogram(
            "asktell_commit_duration_seconds",
            "Time of a database transaction, from its first statement until it is on disk.",
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self._commit_batch = Histogram(
            "asktell_commit_batch_size", "Writes that shared one commit.", registry=registry, buckets=BATCH_BUCKETS
        )
        self._live_studies = Gauge("asktell_live_studies", "Studies held in memory.", registry=registry)
        self._live_trials = Gauge("asktell_live_trials", "Trials of the studies held in memory.", registry=registry)
        self._queue_depth = Gauge("asktell_queue_depth", "Asks that wait for a suggestion.", registry=registry)
        self._queue_length = Gauge(
            "asktell_queue_length",
            "Calls inside each bounded queue: waiting_asks, waiting_explanations, waiting_writes, waiting_reads, watches.",
            ["queue"],
            registry=registry,
        )
        self._refused = Counter(
            "asktell_refused_total",
            "Calls refused for a full queue (its name; scope study, project or server) or a limit (quota; its name).",
            ["cause", "scope"],
            registry=registry,
        )
        self._streams = Gauge("asktell_watch_streams", "Open WatchStudy streams.", registry=registry)
        self._rpc_children: dict[tuple[str, str], Histogram] = {}

    def denied(self, reason: str) -> None:
        """A call was refused because of who made it, or because nobody knows who did."""
        self._denied.labels(reason).inc()

    def audit_line_lost(self) -> None:
        """A line of the audit log could not be written."""
        self._audit_lost.inc()

    def rpc_finished(self, method: str, code: str, seconds: float) -> None:
        """A call ended."""
        child = self._rpc_children.get((method, code))
        if child is None:
            child = self._rpc_children[method, code] = self._rpc.labels(method, code)
        child.observe(seconds)

    def ask_phase(self, phase: str, seconds: float) -> None:
        """A part of an ask took so long."""
        self._phase[phase].observe(seconds)

    def asked(self, sources: Mapping[str, int], first: str, seconds: float) -> None:
        """An ask was answered with so many suggestions from each source."""
        for source, count in sources.items():
            self._suggestions.labels(source).inc(count)
        self._ask.labels(first).observe(seconds)

    def told(self, state: str) -> None:
        """A result was taken."""
        self._tells.labels(state).inc()

    def reported(self) -> None:
        """An intermediate measurement was taken."""
        self._reports.inc()

    def trials(self, counts: Mapping[str, int]) -> None:
        """Number of trials in each state."""
        for state, count in counts.items():
            self._trials.labels(state).set(count)

    def look_ahead(self, outcome: str) -> None:
        """A suggestion needed a model: "hit", "joined" or "miss"."""
        self._look_ahead.labels(outcome).inc()

    def fell_back(self, cause: str) -> None:
        """A model could not answer as well as it should: "deadline", "overtaken", "worker_lost", "numerical", "simpler_model" or
        "no_free_point".
        """
        self._fallbacks.labels(cause).inc()

    def lease_expired(self) -> None:
        """A lease ran out."""
        self._leases_expired.inc()

    def worker_restarted(self) -> None:
        """A compute process was started again."""
        self._worker_restarts.inc()

    def committed(self, seconds: float, works: int) -> None:
        """A commit of so many works took so long."""
        self._commit.observe(seconds)
        self._commit_batch.observe(works)

    def live_studies(self, count: int) -> None:
        """So many studies are held in memory."""
        self._live_studies.set(count)

    def live_trials(self, count: Callable[[], float]) -> None:
        """How to find out, at any time and from any thread, how many trials are held in memory."""
        self._live_trials.set_function(count)

    def waiting_asks(self, count: int) -> None:
        """So many asks wait for a suggestion."""
        self._queue_depth.set(count)

    def queue_length(self, queue: str, length: Callable[[], float]) -> None:
        """How to find out, at any time and from any thread, how many are inside a queue."""
        self._queue_length.labels(queue).set_function(length)

    def refused(self, cause: str, scope: str) -> None:
        """A call was refused: by a queue's name and the scope of its bound, or by "quota" and the limit's name."""
        self._refused.labels(cause, scope).inc()

    def watching(self, change: int) -> None:
        """A watch stream was opened (1) or closed (-1)."""
        self._streams.inc(change)

    def certificate_loaded(self, ends: datetime) -> None:
        """A TLS certificate, valid until `ends`, is in use from now on."""
        self._certificate_ends.set(ends.timestamp())
