"""`asktell study`: create, list, show, best, explain, stop, resume, delete."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path

import click
from google.protobuf.empty_pb2 import Empty

from asktell.cli.output import Cell, on_terminal, print_fields, print_json, print_table
from asktell.cli.records import space_of, trial_record
from asktell.cli.session import Session, as_json, pass_session
from asktell.cli.studyfile import spec_document, study_record
from asktell.cli.trials import print_trials
from asktell.errors import AskTellError, FieldViolation
from asktell.explanation import Importance
from asktell.study import Study as StudyHandle
from asktell.v1 import study_pb2
from asktell.v1 import study_service_pb2 as service

_STATES = [state for state in study_pb2.Study.State.keys() if state != "STATE_UNSPECIFIED"]  # noqa: SIM118 - not a mapping
_COUNTS = [field.name for field in study_pb2.Study.TrialCounts.DESCRIPTOR.fields]
_BAR = 24  # characters of a total effect of 1
_COLUMNS = ("name", "project", "state", "objectives", "algorithm", *_COUNTS)
_PRIOR = re.compile(r"^study\.spec\.algorithm\.gp\.priors\[(\d+)\](\.(parameter|normal|weighted(\.weights\b)?))?")
_PARAMETER = re.compile(r"^study\.spec\.parameters\[(\d+)\](\.(float|int|discrete|categorical)\b)?")
_IN_FILE = (  # other parts of a path, and what they are in a study file
    ("study.spec.stopping_criteria", "stopping"),
    ("study.spec.trial_policy.", ""),
    ("study.spec.", ""),
    (".default_value", ".default"),
    (".condition", ".when"),
)


@click.group()
def study() -> None:
    """Create, look at, stop and delete studies."""


@study.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", help="The study's id, instead of the one in the file.")
@click.option(
    "--if-exists",
    type=click.Choice(["fail", "use"]),
    default="fail",
    show_default=True,
    help="When the name is taken: fail, or use that study if its spec is equal.",
)
@as_json
@pass_session
def create(session: Session, file: Path, name: str | None, if_exists: str, as_json: bool) -> None:
    """Create a study from a YAML or JSON FILE, such as

    \b
      name: digits
      parameters:
        lr: {type: float, min: 1e-5, max: 0.1, log: true}
        layers: {type: int, min: 1, max: 4}
        optimizer: {type: categorical, choices: [adam, sgd]}
      objectives: {maximize: accuracy}

    docs/study-file.md describes everything that it may hold.
    """  # noqa: D301 - click's mark for lines to be left as they are
    from asktell.cli.files import read_document
    from asktell.cli.studyfile import parse_study

    study_id, message = parse_study(read_document(file), str(file))
    if not (name or study_id):
        raise click.UsageError(f"{file} gives the study no name: add one there, or give --name")
    try:
        created = session.create_study(session.study_name(name or study_id), message, use_existing=if_exists == "use")
    except AskTellError as error:
        error.violations = tuple(_in_file(violation, message) for violation in error.violations)
        raise
    _print_study(created, as_json)


def _in_file(violation: FieldViolation, study: study_pb2.Study) -> FieldViolation:
    """The violation with the field's path in a study file: `study.spec.parameters[0].float.min` is `parameters.lr.min`."""

    def parameter(match: re.Match[str]) -> str:
        index = int(match[1])
        return f"parameters.{study.spec.parameters[index].name}" if index < len(study.spec.parameters) else match[0]

    def prior(match: re.Match[str]) -> str:
        priors, index = study.spec.algorithm.gp.priors, int(match[1])
        return f"algorithm.gp.priors.{priors[index].parameter}" if index < len(priors) else match[0]

    path = _PARAMETER.sub(parameter, _PRIOR.sub(prior, violation.field))
    for part, in_file in _IN_FILE:
        path = path.replace(part, in_file)
    return FieldViolation(path, violation.description)


@study.command("list")
@click.option("--state", "states", type=click.Choice(_STATES, case_sensitive=False), multiple=True, help="Only such.")
@click.option("--all-projects", is_flag=True, help="The studies of every project.")
@as_json
@pass_session
def list_(session: Session, states: tuple[str, ...], all_projects: bool, as_json: bool) -> None:
    """List studies."""
    studies = list(session.list_studies("projects/-" if all_projects else f"projects/{session.project}", states))
    if as_json:
        print_json([study_record(study) for study in studies])
    else:
        print_table([_row(study) for study in studies], _COLUMNS)


@study.command()
@click.argument("study")
@as_json
@pass_session
def show(session: Session, study: str, as_json: bool) -> None:
    """Show what a study searches and where it stands."""
    found = session.get_study(session.study_name(study))
    if as_json:
        print_json(study_record(found))
    else:
        print_fields(_fields(found))


@study.command()
@click.argument("study")
@as_json
@pass_session
def best(session: Session, study: str, as_json: bool) -> None:
    """Show the best trial, or with several objectives the Pareto front; only trials that keep the study's constraints count."""
    name = session.study_name(study)
    found = session.get_study(name)
    trials = list(session.best_trials(name))
    print_trials([trial_record(trial, space_of(found)) for trial in trials], found, as_json)
    if not trials:
        kept = " and kept the constraints" if found.spec.outcome_constraints else ""
        click.echo(f"no trial has succeeded{kept} yet", err=True)


@study.command()
@click.argument("study")
@click.option(
    "--slice", "slices", multiple=True, metavar="PARAMETER", help="Show this one; default the 10 most important."
)
@click.option(
    "--pair", "pairs", type=(str, str), multiple=True, metavar="FIRST SECOND", help="Show these two together."
)
@click.option("--points", type=click.IntRange(0, 100), default=0, help="Values along each numeric axis; 0 means 25.")
@as_json
@pass_session
def explain(
    session: Session,
    study: str,
    slices: tuple[str, ...],
    pairs: tuple[tuple[str, str], ...],
    points: int,
    as_json: bool,
) -> None:
    """Show what the model has learned: how well it predicts, and which parameters matter.

    The bar of a parameter is full up to the lower end of its 80 % interval and light up to the upper end. Slices are printed
    with --json only.
    """
    found = StudyHandle(session.client, session.get_study(session.study_name(study))).explain(
        slices, pairs, points=points
    )
    if as_json:
        print_json(asdict(found))
        return
    for metric, explained in found.metrics.items():
        c = explained.calibration
        click.echo(
            f"{metric}: {c.observations} results; left out one by one, {c.coverage_90:.0%} lie in their 90 % interval, "
            f"R^2 {c.r_squared:.2f}, log density {c.log_density:.2f}, "
            f"with the model's own deviations, here times {c.deviation_factor:.2f}, {c.raw_coverage_90:.0%} would",
            err=True,
        )
    rows = [
        {"metric": metric, **asdict(importance), "bar": _bar(importance)}
        for metric, explained in found.metrics.items()
        for importance in explained.importances
    ]
    columns = ("metric", "parameter", "total_effect", "lower", "upper")
    print_table(rows, (*columns, "bar") if on_terminal() else columns)


def _bar(importance: Importance) -> str:
    lower, middle, upper = (round(_BAR * end) for end in (importance.lower, importance.total_effect, importance.upper))
    return "\u2588" * lower + "\u2593" * (middle - lower) + "\u2591" * (upper - middle)


@study.command()
@click.argument("study")
@click.option("--reason", default="", help="Why, for people.")
@as_json
@pass_session
def stop(session: Session, study: str, reason: str, as_json: bool) -> None:
    """Give out no more trials; running ones are told to stop, results are still taken."""
    request = service.StopStudyRequest(name=str(session.study_name(study)), reason=reason)
    _print_study(session.call("StopStudy", request, study_pb2.Study), as_json)


@study.command()
@click.argument("study")
@as_json
@pass_session
def resume(session: Session, study: str, as_json: bool) -> None:
    """Give out trials of a stopped study again."""
    request = service.ResumeStudyRequest(name=str(session.study_name(study)))
    _print_study(session.call("ResumeStudy", request, study_pb2.Study), as_json)


@study.command()
@click.argument("study")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--missing-ok", is_flag=True, help="Succeed if there is no such study.")
@pass_session
def delete(session: Session, study: str, yes: bool, missing_ok: bool) -> None:
    """Delete a study with all its trials, for good."""
    name = session.study_name(study)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("to delete a study without being asked, give --yes")
        click.confirm(f"Delete {name} with all its trials, for good?", abort=True, err=True)
    session.call("DeleteStudy", service.DeleteStudyRequest(name=str(name), allow_missing=missing_ok), Empty)


def _print_study(study: study_pb2.Study, as_json: bool) -> None:
    if as_json:
        print_json(study_record(study))
    else:
        print_table([_row(study)], _COLUMNS)


def _row(study: study_pb2.Study) -> dict[str, Cell]:
    record = study_record(study)
    return {
        "name": record["name"],
        "project": record["project"],
        "state": record["state"],
        "objectives": _objectives(study),
        "algorithm": study.spec.algorithm.WhichOneof("kind"),
        **{count: getattr(study.trial_counts, count) for count in _COUNTS},
    }


def _objectives(study: study_pb2.Study) -> str:
    words = {study_pb2.Objective.MAXIMIZE: "maximize", study_pb2.Objective.MINIMIZE: "minimize"}
    return ", ".join(f"{words.get(o.direction, '?')} {o.metric}" for o in study.spec.objectives)


def _fields(study: study_pb2.Study) -> dict[str, Cell]:
    """Field by name; what has a structure of its own is written as in a study file, on one line."""
    import yaml

    def line(value: object) -> str:
        return (
            yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).removesuffix("\n...\n").strip()
        )

    record = study_record(study)
    fields: dict[str, Cell] = {key: record[key] for key in ("name", "project", "state")}
    fields |= {key: record[key] for key in ("state_reason", "description") if key in record}
    fields |= {f"labels.{key}": value for key, value in record.get("labels", {}).items()}
    for key, value in spec_document(study.spec).items():
        if key == "parameters":
            fields |= {f"parameters.{name}": line(definition) for name, definition in value.items()}
        elif key == "objectives":
            fields[key] = _objectives(study)
        else:
            fields[key] = line(value)
    fields |= {f"trials.{count}": getattr(study.trial_counts, count) for count in _COUNTS}
    return fields | {key: record[key] for key in ("revision", "create_time", "update_time") if key in record}
