"""`asktell export` and `asktell import`: a study's trials in a file, and back into a study.

JSON is lossless: `{"format": "asktell-export", "version": 1, "study": <a study file>, "trials": [<record>, ...]}` with every
field of every trial, intermediate measurements included. CSV holds a row per trial (see `flat`).

An import reads the whole file before it sends anything. It sends the trials in batches, each all or none, and each under
a request id made from the study and the batch itself: the same import again adds nothing twice for as long as the
server remembers the ids (at least 24 hours). So a file whose later batch was refused can be corrected and imported again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import click

from asktell.cli import flat
from asktell.cli.output import json_text, print_json, write
from asktell.cli.problems import BadInput
from asktell.cli.records import Record, space_of, trial_message, trial_record
from asktell.cli.session import Session, as_json, pass_session
from asktell.cli.studyfile import parse_study, study_document
from asktell.errors import AskTellError, FieldViolation, StudyNotFound
from asktell.names import StudyName
from asktell.v1 import study_service_pb2 as service
from asktell.v1.search_space_pb2 import Parameter
from asktell.v1.study_pb2 import Study
from asktell.v1.trial_pb2 import Trial

FORMAT = "asktell-export"
VERSION = 1
_BATCH_TRIALS = 1000  # the contract's limit
_BATCH_BYTES = 2 * 1024 * 1024  # well under any server's limit on a message
_SHOWN_PROBLEMS = 20
_FORMATS = click.Choice(["csv", "json"])
_TRIAL = re.compile(r"^trials\[(\d+)\]\.?")


@click.command()
@click.argument("study")
@click.argument("file", type=click.Path(dir_okay=False, writable=True, path_type=Path), required=False)
@click.option("--format", "form", type=_FORMATS, help="[default: by the file's suffix; json on standard output]")
@pass_session
def export(session: Session, study: str, file: Path | None, form: str | None) -> None:
    """Write a study's trials to FILE, or to standard output.

    JSON keeps everything, the study's spec and intermediate measurements included. CSV has a row per trial.
    """
    form = form or (_form_of(file) if file else "json")
    name = session.study_name(study)
    found = session.get_study(name)
    space = space_of(found)
    trials = [trial_record(trial, space) for trial in session.list_trials(name, full=form == "json")]
    if form == "json":
        document = {"format": FORMAT, "version": VERSION, "study": study_document(found), "trials": trials}
        text = json_text(document, indent=1) + "\n"
    else:
        objectives = [objective.metric for objective in found.spec.objectives]
        text = flat.write_csv(flat.columns(space, objectives, trials), (flat.row(trial, space) for trial in trials))
    if file is None:
        write(text)
        return
    try:
        file.write_bytes(text.encode())
    except OSError as error:
        raise BadInput(str(file), [error.strerror or str(error)]) from error


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--study", help="The study to add to. [default for a JSON export: the name in the file]")
@click.option("--format", "form", type=_FORMATS, help="[default: by the file's suffix]")
@as_json
@pass_session
def import_(session: Session, file: Path, study: str | None, form: str | None, as_json: bool) -> None:
    """Add the trials of FILE to a study.

    FILE is an export (JSON or CSV), or the JSON list that `trial list --json` prints. A JSON export creates its study if that
    is missing. Finished trials are imported, waiting ones queued; running and expired ones have no result and are left
    out. To import the same file again within a day is safe: nothing is added twice.
    """
    from asktell.cli.files import parse_json, read_text

    form = form or _form_of(file)
    text = read_text(file)
    where = str(file)
    document = parse_json(text, where) if form == "json" else None
    exported, spec = _exported_study(document, where)
    if not (study or exported):
        raise click.UsageError(f"{file} names no study: give --study")
    name = session.study_name(study or exported)
    try:
        found = session.get_study(name)
        missing = False
    except StudyNotFound:
        if spec is None:
            raise
        found, missing = spec, True
    space = space_of(found)
    records = _trial_records(document, where) if form == "json" else flat.read_csv(text, where, space)
    trials, left_out = _messages(records, where, space)
    if missing:
        found = session.create_study(name, found, use_existing=True)
    _send(session, name, trials)
    counts = {"study": str(name), "created": missing, "trials": len(trials), "left_out": left_out}
    if as_json:
        print_json(counts)
    else:
        click.echo(f"{len(trials)} trials are in {name}" + (", which is new" if missing else ""), err=True)
    if left_out:
        click.echo(f"{left_out} trials that were running or had expired have no result and are left out", err=True)


def _form_of(file: Path) -> str:
    suffix = file.suffix.lower().removeprefix(".")
    if suffix not in _FORMATS.choices:
        raise click.UsageError(f"{file} ends in neither .csv nor .json: give --format")
    return suffix


def _exported_study(document: object, where: str) -> tuple[str, Study | None]:
    """The study of a JSON export: its id and what it searches. Raises BadInput."""
    if not isinstance(document, Mapping):
        return "", None
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise BadInput(where, [f'it is not an export: that has "format": "{FORMAT}" and "version": {VERSION}'])
    return parse_study(document.get("study"), where)


def _trial_records(document: object, where: str) -> list[tuple[str, Record]]:
    """The records of a JSON document, each after its place ("trial 9"). Raises BadInput."""
    records = document.get("trials") if isinstance(document, Mapping) else document
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise BadInput(where, ["trials: required, a list of trials"])
    return [
        (f"trial {record['number']}" if "number" in record else f"trials[{index}]", record)
        for index, record in enumerate(records)
    ]


def _messages(
    records: Iterable[tuple[str, Record]], where: str, space: Mapping[str, Parameter]
) -> tuple[list[tuple[str, Trial]], int]:
    """The trials to send, each after its place in the file, and the number of those without a result.

    Raises BadInput with all that is wrong.
    """
    trials: list[tuple[str, Trial]] = []
    problems: list[str] = []
    left_out = 0
    for place, record in records:
        if record.get("state") in ("RUNNING", "EXPIRED"):
            left_out += 1
            continue
        try:
            trials.append((place, trial_message(record, space)))
        except ValueError as error:
            problems += [f"{place}: {problem}" for problem in str(error).splitlines()]
    if len(problems) > _SHOWN_PROBLEMS:
        problems[_SHOWN_PROBLEMS:] = [f"and {len(problems) - _SHOWN_PROBLEMS} more"]
    if problems:
        raise BadInput(where, problems)
    return trials, left_out


def _send(session: Session, name: StudyName, trials: list[tuple[str, Trial]]) -> None:
    """Sends the trials; an error says where in the file it lies, and how much was sent before it."""
    sent = 0
    for batch in _batches(trials):
        places = [place for place, _ in batch]
        try:
            request = _request(name, [trial for _, trial in batch], sent)
            session.call("CreateTrials", request, service.CreateTrialsResponse)
        except AskTellError as error:
            error.violations = tuple(_in_file(violation, places) for violation in error.violations)
            if sent:
                error.add_note(f"the first {sent} of {len(trials)} trials are in, and a repeat does not add them again")
            raise
        sent += len(batch)


def _in_file(violation: FieldViolation, places: Sequence[str]) -> FieldViolation:
    """The violation with the trial's place in the file instead of its index in the request."""

    def placed(match: re.Match[str]) -> str:
        index = int(match[1])
        return f"{places[index]}: " if index < len(places) else match[0]

    return FieldViolation(_TRIAL.sub(placed, violation.field), violation.description)


def _batches(trials: Iterable[tuple[str, Trial]]) -> Iterator[list[tuple[str, Trial]]]:
    """Cuts the trials where the contract's limits or the size of a message ask for it; the same way each time."""
    batch: list[tuple[str, Trial]] = []
    size = 0
    for place, trial in trials:
        if batch and (len(batch) == _BATCH_TRIALS or size + trial.ByteSize() > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((place, trial))
        size += trial.ByteSize()
    if batch:
        yield batch


def _request(name: StudyName, batch: list[Trial], before: int) -> service.CreateTrialsRequest:
    """`before`: trials of the file that come before it, since a file may say the same thing twice."""
    request = service.CreateTrialsRequest(parent=str(name), trials=batch)
    content = b"%d " % before + request.SerializeToString(deterministic=True)
    request.request_id = f"import-{hashlib.sha256(content).hexdigest()}"
    return request
