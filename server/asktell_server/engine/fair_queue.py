"""A queue in which projects take turns, within a project its studies, and within a study what came first goes first.

Who brings much waits for itself, not others for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)
T = TypeVar("T", bound=Hashable)


class FairQueue(Generic[S, T]):
    """Items of any kind, each of a project and a study, which is known by an `S`. An item is in the queue once at most."""

    def __init__(self) -> None:
        # Ordered dicts throughout: others look for their first entry among all that were taken out before it.
        self._projects: OrderedDict[str, OrderedDict[S, OrderedDict[T, None]]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._projects)

    def __iter__(self) -> Iterator[T]:
        return (item for studies in self._projects.values() for items in studies.values() for item in items)

    def put(self, project: str, study: S, item: T) -> None:
        """Adds an item behind those of its study."""
        self._projects.setdefault(project, OrderedDict()).setdefault(study, OrderedDict())[item] = None

    def next(self) -> T:
        """Takes out the item whose turn it is, of at least one; its study and its project have the last turn then."""
        project, studies = next(iter(self._projects.items()))
        study, items = next(iter(studies.items()))
        item = next(iter(items))
        studies.move_to_end(study)
        self._projects.move_to_end(project)
        self.discard(project, study, item)
        return item

    def discard(self, project: str, study: S, item: T) -> None:
        """Takes out an item, if it is there."""
        studies = self._projects.get(project)
        items = None if studies is None else studies.get(study)
        if studies is None or items is None or item not in items:
            return
        del items[item]
        if not items:
            del studies[study]
        if not studies:
            del self._projects[project]

    def of_study(self, study: S) -> list[T]:
        """The items of a study, whose `S` is its own in all projects."""
        return [item for studies in self._projects.values() if study in studies for item in studies[study]]
