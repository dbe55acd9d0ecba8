"""What GradientSampler decides about a trial that its Gaussian process proposes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from optuna.storages import BaseStorage

from optuna_hypergrad.reports.attributes import (
    PROPOSAL,
    Fields,
    read_decision,
    write_decision,
)


class Proposal(NamedTuple):
    """The decision about a trial of the Gaussian process, before it runs."""

    trial: int
    """The trial's number, which tells a copied decision from its own."""
    seed: int
    """Seed of the sampler."""
    wants_hypergradient: bool
    """Whether the hypergradient is worth its price."""


def write_proposal(storage: BaseStorage, trial_id: int, proposal: Proposal) -> None:
    """Store a decision with a running trial."""
    stored = {**proposal._asdict(), "wants_hypergradient": int(proposal.wants_hypergradient)}
    write_decision(storage, trial_id, PROPOSAL, stored)


def read_proposal(number: int, system_attrs: Mapping[str, Any]) -> Proposal | None:
    """The decision among a trial's system attributes, or None.

    Raises:
        StoredDataError: If the attribute was not written by ``write_proposal``.
    """

    def parse(stored: Fields) -> Proposal:
        wants = stored.int_("wants_hypergradient", most=1)
        return Proposal(stored.int_("trial"), stored.int_("seed"), bool(wants))

    return read_decision(system_attrs, number, PROPOSAL, parse)
