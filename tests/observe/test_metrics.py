"""The metrics: each is counted once here, under the name that dashboards use, with labels that cannot grow in number."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from asktell_server.domain.trial import SuggestionSource, TrialState
from asktell_server.observe.metrics import PHASES, Metrics

FAMILIES = {
    "asktell_build_info": "gauge",
    "asktell_rpc_duration_seconds": "histogram",
    "asktell_ask_phase_duration_seconds": "histogram",
    "asktell_suggestions": "counter",
    "asktell_ask_duration_seconds": "histogram",
    "asktell_tells": "counter",
    "asktell_reports": "counter",
    "asktell_trials": "gauge",
    "asktell_look_ahead": "counter",
    "asktell_fallbacks": "counter",
    "asktell_denied": "counter",
    "asktell_audit_lines_lost": "counter",
    "asktell_leases_expired": "counter",
    "asktell_worker_restarts": "counter",
    "asktell_commit_duration_seconds": "histogram",
    "asktell_commit_batch_size": "histogram",
    "asktell_live_studies": "gauge",
    "asktell_live_trials": "gauge",
    "asktell_queue_depth": "gauge",
    "asktell_queue_length": "gauge",
    "asktell_refused": "counter",
    "asktell_watch_streams": "gauge",
    "asktell_tls_certificate_expiry_timestamp_seconds": "gauge",
}


def everything(metrics: Metrics) -> None:
    """Counts one of each."""
    metrics.rpc_finished("Ask", "OK", 0.25)
    metrics.ask_phase("fit", 0.5)
    metrics.asked({"MODEL": 2, "ENQUEUED": 1}, "ENQUEUED", 0.125)
    metrics.told("SUCCEEDED")
    metrics.reported()
    metrics.trials({"RUNNING": 3})
    metrics.look_ahead("hit")
    metrics.fell_back("deadline")
    metrics.denied("PERMISSION_DENIED")
    metrics.audit_line_lost()
    metrics.lease_expired()
    metrics.worker_restarted()
    metrics.committed(0.0625, 7)
    metrics.live_studies(11)
    metrics.live_trials(lambda: 12)
    metrics.waiting_asks(13)
    metrics.queue_length("waiting_writes", lambda: 17)
    metrics.refused("waiting_writes", "project")
    metrics.watching(1)
    metrics.watching(1)
    metrics.watching(-1)
    metrics.certificate_loaded(datetime(1970, 1, 2, tzinfo=UTC))


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry in which everything happened once."""
    made = CollectorRegistry()
    everything(Metrics(made, "1.2.3"))
    return made


def test_every_family_has_its_documented_name_type_and_help(registry: CollectorRegistry) -> None:
    """Nothing is missing, nothing is there that is not listed here."""
    text = generate_latest(registry).decode()
    families = [f for f in text_string_to_metric_families(text) if not f.name.endswith("_created")]

    assert {family.name: family.type for family in families} == FAMILIES
    assert all(family.documentation.endswith(".") for family in families)


@pytest.mark.parametrize(
    ("sample", "labels", "value"),
    [
        ("asktell_build_info", {"version": "1.2.3"}, 1),
        ("asktell_rpc_duration_seconds_count", {"method": "Ask", "code": "OK"}, 1),
        ("asktell_rpc_duration_seconds_sum", {"method": "Ask", "code": "OK"}, 0.25),
        ("asktell_ask_phase_duration_seconds_sum", {"phase": "fit"}, 0.5),
        ("asktell_suggestions_total", {"source": "MODEL"}, 2),
        ("asktell_suggestions_total", {"source": "ENQUEUED"}, 1),
        ("asktell_ask_duration_seconds_sum", {"source": "ENQUEUED"}, 0.125),
        ("asktell_tells_total", {"state": "SUCCEEDED"}, 1),
        ("asktell_reports_total", {}, 1),
        ("asktell_trials", {"state": "RUNNING"}, 3),
        ("asktell_look_ahead_total", {"outcome": "hit"}, 1),
        ("asktell_fallbacks_total", {"cause": "deadline"}, 1),
        ("asktell_denied_total", {"reason": "PERMISSION_DENIED"}, 1),
        ("asktell_audit_lines_lost_total", {}, 1),
        ("asktell_leases_expired_total", {}, 1),
        ("asktell_worker_restarts_total", {}, 1),
        ("asktell_commit_duration_seconds_sum", {}, 0.0625),
        ("asktell_commit_batch_size_sum", {}, 7),
        ("asktell_live_studies", {}, 11),
        ("asktell_live_trials", {}, 12),
        ("asktell_queue_depth", {}, 13),
        ("asktell_queue_length", {"queue": "waiting_writes"}, 17),
        ("asktell_refused_total", {"cause": "waiting_writes", "scope": "project"}, 1),
        ("asktell_watch_streams", {}, 1),
        ("asktell_tls_certificate_expiry_timestamp_seconds", {}, 86400),
    ],
)
def test_each_event_is_counted_in_its_sample(
    registry: CollectorRegistry, sample: str, labels: dict[str, str], value: float
) -> None:
    """Counters add, gauges follow, histograms sum seconds."""
    assert registry.get_sample_value(sample, labels) == value


def test_no_label_names_a_study_a_worker_or_a_client(registry: CollectorRegistry) -> None:
    """The labels are those whose values the code itself enumerates."""
    names = {
        name for family in registry.collect() for sample in family.samples for name in sample.labels if name != "le"
    }

    assert names == {
        *("version", "method", "code", "phase", "source", "state", "outcome", "cause", "reason", "queue", "scope")
    }


def test_the_number_of_series_does_not_grow_with_use() -> None:
    """A thousand more events of every kind that there is add not one series."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, "1.2.3")

    def use() -> None:
        everything(metrics)
        for phase in PHASES:
            metrics.ask_phase(phase, 1.0)
        for source in SuggestionSource:
            metrics.asked({source.value: 1}, source.value, 1.0)
        metrics.trials({state.value: 1 for state in TrialState})
        for state in TrialState:
            metrics.told(state.value)

    def series() -> int:
        return sum(len(family.samples) for family in registry.collect())

    use()
    before = series()
    for _ in range(1000):
        use()

    assert series() == before


def test_a_phase_that_is_not_listed_is_a_mistake() -> None:
    """Nobody adds a label value by a slip of the pen."""
    metrics = Metrics(CollectorRegistry(), "1.2.3")

    with pytest.raises(KeyError):
        metrics.ask_phase("lunch", 1.0)


def test_two_servers_in_one_process_do_not_share_metrics() -> None:
    """Each has a registry of its own; the library's default one stays empty of ours."""
    first, second = CollectorRegistry(), CollectorRegistry()
    Metrics(first, "1").told("FAILED")
    Metrics(second, "2")

    assert first.get_sample_value("asktell_tells_total", {"state": "FAILED"}) == 1
    assert second.get_sample_value("asktell_tells_total", {"state": "FAILED"}) is None
