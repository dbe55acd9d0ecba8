"""What the mutation of a clone did to its hyperparameters, told from what is stored."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from optuna_hypergrad.reports import Segment, read_gradient, read_refined
from optuna_hypergrad.samplers.constraints import followed_gradient
from optuna_hypergrad.samplers.family import Family, Student
from optuna_hypergrad.samplers.traits import Numeric, handed_on

Origin = Literal["teacher", "perturbed", "resampled", "gradient"]


class Mutated(NamedTuple):
    """What became of one hyperparameter when its student was cloned."""

    origin: Origin
    """``"teacher"``: the teacher weighted it; ``"perturbed"``: it was multiplied by 0.8 or 1.2;
    ``"resampled"``: it was drawn anew; ``"gradient"``: it took one more step of descent."""
    before: float
    """What the parent handed on, as a fraction of the range, in log space where the range is
    logarithmic; NaN for a categorical parameter."""
    after: float
    """What the clone began with, as such a fraction."""
    has_step: bool = False
    """Whether the parent took a step along its hypergradient to what it handed on."""

    @property
    def factor(self) -> float:
        """The weight by which the fraction was multiplied; NaN where it was 0.

        The teacher's is 1 + tanh(…), as far as the range allowed it.
        """
        return self.after / self.before if self.before > 0 else math.nan


def mutated(segment: Segment, parent: Student, refine: bool) -> dict[str, Mutated]:
    """What mutation did, by parameter; those that it left alone are not there.

    Args:
        segment: What a clone begins with.
        parent: The student that was cloned.
        refine: Whether students go on from refined values; see ``goes_on_refined``.
    """
    numeric = Numeric.of(parent.trial.distributions)
    handed = handed_on(parent, refine, segment.fixed).values
    fractions = zip(
        numeric.names,
        numeric.fractions(handed).tolist(),
        numeric.fractions({**handed, **segment.values}).tolist(),
        strict=True,
    )
    told: dict[str, Mutated] = {}
    followed = followed_gradient(parent.trial).keys()
    stepped = followed - read_refined(parent.trial).keys() - set(segment.fixed)
    for name, before, after in fractions:
        origin, was = _origin(segment, name), segment.queried.get(name, before)
        if was != after or origin in ("teacher", "resampled"):
            told[name] = Mutated(origin, was, after, refine and name in stepped)
    drawn = (name for name in segment.resampled if name not in told)
    return told | {name: Mutated("resampled", math.nan, math.nan) for name in drawn}


def goes_on_refined(family: Family) -> bool:
    """Whether students go on from refined values or along hypergradients.

    The first student that could tell does; True where none could.
    """
    for student in family:
        if student.segment.parent is None or student.is_clone:
            continue
        parent = family[student.segment.parent]
        if read_gradient(parent.trial) is None and not read_refined(parent.trial):
            continue
        fixed = student.segment.fixed
        left = handed_on(parent, refine=False, fixed=fixed).values
        if left != handed_on(parent, refine=True, fixed=fixed).values:
            return left != dict(student.segment.values)
    return True


def _origin(segment: Segment, name: str) -> Origin:
    if name in segment.resampled:
        return "resampled"
    if name in segment.queried:
        return "teacher"
    # Only those that descend keep their pace; other mutants are somewhere else.
    return "gradient" if name in segment.step_size else "perturbed"
