"""`asktell ask` and `asktell trial`: list, show, tell."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Sequence

import click

from asktell.cli.numbers import metric, standard_error
from asktell.cli.output import Cell, print_fields, print_json, print_table
from asktell.cli.records import Record, space_of, trial_record
from asktell.cli.session import Session, as_json, pass_session
from asktell.v1 import study_service_pb2 as service
from asktell.v1.study_pb2 import Study
from asktell.v1.trial_pb2 import Measurement, Trial

_STATES = [state for state in Trial.State.keys() if state != "STATE_UNSPECIFIED"]  # noqa: SIM118 - not a mapping


@click.command()
@click.argument("study")
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many trials.")
@click.option("--worker", help="Who evaluates them, for people. [default: this host]")
@click.option("--request-id", help="Makes it safe to run this command again: the same id gets the same trials.")
@as_json
@pass_session
def ask(session: Session, study: str, count: int, worker: str | None, request_id: str | None, as_json: bool) -> None:
    """Ask a study for trials to evaluate.

    `asktell trial tell` ends them.
    """
    name = session.study_name(study)
    found = session.get_study(name)
    request = service.AskRequest(
        parent=str(name),
        count=count,
        worker=socket.gethostname() if worker is None else worker,
        request_id=request_id or str(uuid.uuid4()),
    )
    trials = session.call("Ask", request, service.AskResponse, patient=True).trials
    print_trials([trial_record(trial, space_of(found)) for trial in trials], found, as_json)


@click.group()
def trial() -> None:
    """Look at trials and end them."""


@trial.command("list")
@click.argument("study")
@click.option("--state", "states", type=click.Choice(_STATES, case_sensitive=False), multiple=True, help="Only such.")
@click.option("--full", is_flag=True, help="With --json: intermediate measurements, too.")
@as_json
@pass_session
def list_(session: Session, study: str, states: tuple[str, ...], full: bool, as_json: bool) -> None:
    """List the trials of a study by number."""
    name = session.study_name(study)
    found = session.get_study(name)
    trials = session.list_trials(name, states, full=full and as_json)
    print_trials([trial_record(trial, space_of(found)) for trial in trials], found, as_json)


@trial.command()
@click.argument("study")
@click.argument("number", type=click.IntRange(min=1))
@as_json
@pass_session
def show(session: Session, study: str, number: int, as_json: bool) -> None:
    """Show a trial with all its measurements."""
    name = session.study_name(study)
    found = session.get_study(name)
    trial = session.call("GetTrial", service.GetTrialRequest(name=str(name.trial(number))), Trial)
    record = trial_record(trial, space_of(found))
    if as_json:
        print_json(record)
    else:
        print_fields(_fields(record))


@trial.command()
@click.argument("study")
@click.argument("number", type=click.IntRange(min=1))
@click.argument("metrics", nargs=-1, type=metric, metavar="[METRIC=VALUE]...")
@click.option(
    "--standard-error",
    "errors",
    type=standard_error,
    multiple=True,
    metavar="METRIC=VALUE",
    help="How uncertain a metric is.",
)
@click.option("--step", type=click.IntRange(min=0), help="How far the training was.")
@click.option("--failed", metavar="REASON", help="The evaluation broke.")
@click.option("--infeasible", metavar="REASON", help="The parameters cannot be evaluated; trying again would not help.")
@click.option("--pruned", metavar="REASON", help="Ended early because it was not promising; metrics are optional.")
@as_json
@pass_session
def tell(
    session: Session,
    study: str,
    number: int,
    metrics: tuple[tuple[str, float], ...],
    errors: tuple[tuple[str, float], ...],
    step: int | None,
    failed: str | None,
    infeasible: str | None,
    pruned: str | None,
    as_json: bool,
) -> None:
    """End a trial with its result, such as

    \b
      asktell trial tell digits 7 accuracy=0.93 loss=0.21
      asktell trial tell digits 8 --failed "out of memory"
    """  # noqa: D301 - click's mark for lines to be left as they are
    name = session.study_name(study)
    endings = [ending for ending in (failed, infeasible, pruned) if ending is not None]
    if len(endings) > 1:
        raise click.UsageError("a trial ends in one way: give one of --failed, --infeasible and --pruned")
    if metrics and (failed is not None or infeasible is not None):
        raise click.UsageError("a trial that is failed or infeasible has no metrics")
    if not metrics and not endings:
        raise click.UsageError("give a result: METRIC=VALUE for every objective, or --failed, --infeasible or --pruned")
    if not metrics and (errors or step is not None):
        raise click.UsageError("--standard-error and --step go with a metric")

    request = service.TellRequest(name=str(name.trial(number)))
    measurement = Measurement(metrics=_once(metrics), standard_errors=_once(errors), step=step)
    if failed is not None:
        request.failed.reason = failed
    elif infeasible is not None:
        request.infeasible.reason = infeasible
    elif pruned is not None:
        request.pruned.reason = pruned
        if metrics:
            request.pruned.measurement.CopyFrom(measurement)
    else:
        request.measurement.CopyFrom(measurement)
    found = session.get_study(name)
    told = session.call("Tell", request, service.TellResponse)
    record = trial_record(told.trial, space_of(found))
    if as_json:
        print_json(record | {"study_state": Study.State.Name(told.study_state)})
    else:
        print_trials([record], found, as_json)


def print_trials(records: Sequence[Record], study: Study, as_json: bool) -> None:
    """Trials as a table of their parameters and metrics, or as a JSON list of records."""
    if as_json:
        print_json(list(records))
        return
    measured = dict.fromkeys(objective.metric for objective in study.spec.objectives)
    for record in records:
        measured |= dict.fromkeys(record.get("measurement", {}).get("metrics", {}))
    columns = [
        *("number", "state"),
        *(f"params.{name}" for name in space_of(study)),
        *(f"metrics.{name}" for name in measured),
        *("source", "worker"),
    ]
    print_table([trial_row(record) for record in records], columns)


def trial_row(record: Record) -> dict[str, Cell]:
    """A trial's cells for a table."""
    return {
        "number": record["number"],
        "state": record["state"],
        **{f"params.{name}": value for name, value in record["parameters"].items()},
        **{f"metrics.{name}": value for name, value in record.get("measurement", {}).get("metrics", {}).items()},
        "source": record.get("suggestion", {}).get("source"),
        "worker": record.get("worker"),
    }


def _once(pairs: Sequence[tuple[str, float]]) -> dict[str, float]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise click.UsageError("a metric is given twice")
    return values


def _fields(record: Record) -> dict[str, Cell]:
    """Field by name, with dots for what is nested."""
    fields: dict[str, Cell] = {}

    def put(path: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                put(f"{path}.{key}" if path else key, inner)
        elif isinstance(value, list):  # intermediate measurements, each known by its step
            for item in value:
                put(f"{path}.{item.get('step', '?')}", {k: v for k, v in item.items() if k != "step"})
        else:
            assert value is None or isinstance(value, (float, int, str, bool))
            fields[path] = value

    put("", record)
    return fields
