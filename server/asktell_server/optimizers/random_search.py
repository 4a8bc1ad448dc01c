"""Random search: independent uniform draws from the unit cube, so log-uniform where a parameter is log."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from asktell_server.domain.space import Point
from asktell_server.domain.trial import Suggestion, SuggestionSource
from asktell_server.optimizers.base import Proposal
from asktell_server.optimizers.design import MAX_DRAWS, DesignedOptimizer, Stream


class RandomAsk(DesignedOptimizer):
    """Draws anew for every trial; the default point has no privilege."""

    uses_results = False

    def needs_model(self) -> bool:
        """Never."""
        return False

    def ask(self, number: int, pending: Sequence[Point]) -> Proposal:
        """A uniform draw that is not taken; in a full space one that is."""
        # Seeding the standard library's generator takes a fifth of the time that numpy's takes, and a few draws are all we need.
        rng = random.Random((self.spec.seed << 64 | number) << 8 | Stream.RANDOM)
        dimensions = range(self.encoding.dimensions)
        codes = (np.array([rng.random() for _ in dimensions]) for _ in range(MAX_DRAWS))
        point = self.first_free(number, self.taken(pending), codes)
        return Proposal(Suggestion(point, SuggestionSource.SAMPLER))
