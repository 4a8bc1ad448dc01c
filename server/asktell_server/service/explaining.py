"""The use case ExplainStudy: what the study's model has learned. Reads only; tells and asks do not wait for it."""

from __future__ import annotations

import time

from asktell.names import StudyName
from asktell_server.domain.errors import InvalidArgument, NoModel
from asktell_server.domain.explanation import ExplainRequest, Explanation
from asktell_server.engine.host import EngineHost
from asktell_server.service.reads import Reads
from asktell_server.service.studies import require

TIMEOUT_S = 120.0
"""How long a call whose caller set no deadline may wait."""
GRACE_S = 1.0
"""At the caller's deadline gRPC itself ends the call, with the code that says so; this much later it would be ended here."""


class Explaining:
    """The use case ExplainStudy."""

    def __init__(self, reads: Reads, host: EngineHost) -> None:
        self._reads = reads
        self._host = host

    async def explain(
        self, name: StudyName, request: ExplainRequest, time_left_s: float | None
    ) -> tuple[int, Explanation]:
        """The explanation, and the revision up to which results were used. `time_left_s` is the time until the caller's deadline.

        Raises StudyNotFound, InvalidArgument, NoModel, ServerBusy, ComputeUnavailable.
        """
        deadline = time.monotonic() + (TIMEOUT_S if time_left_s is None else time_left_s + GRACE_S)
        of = (name.project, name.study)
        image = self._host.by_name(*of)
        study = image.study if image else await self._reads.run(*of, lambda tx: tx.study(*of))
        violations = request.violations(study.spec if study else None)
        if violations:
            raise InvalidArgument(violations)
        image = image or await self._host.image(require(study, name))
        try:
            return await self._host.explain(image, request, deadline)
        except NoModel as error:
            raise NoModel(str(name), f"study {name}: {error.message}", error.metadata) from None
