"""Resource names: the one room where they are put together and taken apart.

projects/{project}
projects/{project}/studies/{study}
projects/{project}/studies/{study}/trials/{number}
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_PROJECT = "default"

ID_RULE = "1 to 128 characters, letters, digits and '_.-', beginning with a letter or digit"
_ID = r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}"
_NUMBER = r"[1-9][0-9]{0,17}"
_ID_RE = re.compile(_ID)
_PROJECT_RE = re.compile(rf"projects/({_ID})")
_STUDY_RE = re.compile(rf"projects/({_ID})/studies/({_ID})")
_TRIAL_RE = re.compile(rf"projects/({_ID})/studies/({_ID})/trials/({_NUMBER})")


_OF_STUDY_RE = re.compile(rf"projects/{_ID}/studies/{_ID}(?=/|$)")


def study_in(text: str) -> str | None:
    """The name of the study that a resource name begins with; None if it begins with none."""
    match = _OF_STUDY_RE.match(text)
    return None if match is None else match[0]


class InvalidName(ValueError):
    """A string that is not a resource name of the kind that was expected."""


def is_id(text: str) -> bool:
    """Whether `text` may be the id of a project or a study."""
    return _ID_RE.fullmatch(text) is not None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


@dataclass(frozen=True, slots=True)
class ProjectName:
    """`projects/{project}`."""

    project: str

    @classmethod
    def parse(cls, text: str) -> ProjectName:
        """Takes a project's name apart. Raises InvalidName."""
        match = _PROJECT_RE.fullmatch(text)
        if match is None:
            raise InvalidName(f"{_shown(text)} is not of the form projects/{{project}}; an id has {ID_RULE}")
        return cls(match[1])

    def __str__(self) -> str:
        return f"projects/{self.project}"


@dataclass(frozen=True, slots=True)
class StudyName:
    """`projects/{project}/studies/{study}`."""

    project: str
    study: str

    @classmethod
    def parse(cls, text: str) -> StudyName:
        """Takes a study's name apart. Raises InvalidName."""
        match = _STUDY_RE.fullmatch(text)
        if match is None:
            raise InvalidName(
                f"{_shown(text)} is not of the form projects/{{project}}/studies/{{study}}; an id has {ID_RULE}"
            )
        return cls(match[1], match[2])

    @property
    def parent(self) -> ProjectName:
        """The study's project."""
        return ProjectName(self.project)

    def trial(self, number: int) -> TrialName:
        """The name of one of its trials."""
        return TrialName(self.project, self.study, number)

    def __str__(self) -> str:
        return f"projects/{self.project}/studies/{self.study}"


@dataclass(frozen=True, slots=True)
class TrialName:
    """`projects/{project}/studies/{study}/trials/{number}`."""

    project: str
    study: str
    number: int

    @classmethod
    def parse(cls, text: str) -> TrialName:
        """Takes a trial's name apart. Raises InvalidName."""
        match = _TRIAL_RE.fullmatch(text)
        if match is None:
            raise InvalidName(
                f"{_shown(text)} is not of the form projects/{{project}}/studies/{{study}}/trials/{{number}}; "
                f"an id has {ID_RULE}, a number counts from 1"
            )
        return cls(match[1], match[2], int(match[3]))

    @property
    def parent(self) -> StudyName:
        """The trial's study."""
        return StudyName(self.project, self.study)

    def __str__(self) -> str:
        return f"projects/{self.project}/studies/{self.study}/trials/{self.number}"
