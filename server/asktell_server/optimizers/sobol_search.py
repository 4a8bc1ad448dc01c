"""Quasi-random search: the default point, then the study's scrambled Sobol sequence, indexed by trial number."""

from __future__ import annotations

from collections.abc import Sequence

from asktell_server.domain.space import Point
from asktell_server.domain.trial import Suggestion, SuggestionSource
from asktell_server.optimizers.base import Proposal
from asktell_server.optimizers.design import DesignedOptimizer


class SobolAsk(DesignedOptimizer):
    """Spreads points evenly over the unit cube."""

    uses_results = False

    def needs_model(self) -> bool:
        """Never."""
        return False

    def ask(self, number: int, pending: Sequence[Point]) -> Proposal:
        """The default point while it is not taken, otherwise the next Sobol point that is not; in a full space one that is."""
        taken = self.taken(pending)
        default = self.untried_default(taken)
        if default is not None:
            return Proposal(Suggestion(default, SuggestionSource.SAMPLER, detail="default point"))
        return Proposal(Suggestion(self.sobol_point(number, taken), SuggestionSource.SAMPLER))
