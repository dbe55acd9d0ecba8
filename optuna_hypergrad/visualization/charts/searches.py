"""The course of one search, as the figures of it see it: its outer steps and hyperparameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast, get_args

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_hypergrad.arguments import check_names, checked_count
from optuna_hypergrad.reports import Shape, StoredDataError, read_shapes
from optuna_hypergrad.samplers.history import OuterStep, outer_steps
from optuna_hypergrad.samplers.studies import maximizes
from optuna_hypergrad.schedules import Form, count_values, parameter_names
from optuna_hypergrad.visualization.charts.thinning import thinned

NOTHING_YET = "No outer step of a GradientSampler has been decided yet."
MOST_PANELS = 12


class Hyper(NamedTuple):
    """A hyperparameter: a schedule of several parameters, or one parameter alone."""

    name: str
    parameters: tuple[str, ...]
    form: Form
    distribution: BaseDistribution  # of its first parameter

    @property
    def is_schedule(self) -> bool:
        """Whether it has several values."""
        return len(self.parameters) > 1

    @property
    def is_log(self) -> bool:
        """Whether its range is logarithmic."""
        return bool(getattr(self.distribution, "log", False))

    @property
    def places(self) -> list[float]:
        """Where in training each value rules, as a fraction: mid-window, or at its knot."""
        n = len(self.parameters)
        if self.form == "constant":
            return [(i + 0.5) / n for i in range(n)]
        return [i / max(n - 1, 1) for i in range(n)]


class Course(NamedTuple):
    """The decided outer steps of one search of a study."""

    chain: int
    n_chains: int
    steps: Sequence[OuterStep]
    hypers: Sequence[Hyper]
    n_left_out: int  # hyperparameters for which there is no panel
    best: OuterStep | None  # that of the best value

    def shown(self, most: int) -> list[OuterStep]:
        """At most some of the steps, evenly; the first, the last and the best among them."""
        kept = thinned(len(self.steps), most, [] if self.best is None else [self._at(self.best)])
        return [self.steps[i] for i in kept]

    def title(self, what: str, n_shown: int) -> str:
        """What the figure shows, and of how much."""
        n, panels = len(self.steps), len(self.hypers)
        parts = [what]
        if self.n_chains > 1:
            parts.append(f"chain {self.chain} ({self.n_chains} in all)")
        if n_shown < n:
            parts.append(f"{n_shown} of {n:,} outer steps")
        if self.n_left_out:
            parts.append(f"{panels} of {panels + self.n_left_out} hyperparameters")
        return " · ".join(parts)

    def _at(self, step: OuterStep) -> int:
        return step.step - self.steps[0].step


def follow(
    study: Study,
    names: Sequence[str] | None = None,
    chain: int | None = None,
    *,
    learned: bool = True,
) -> Course | None:
    """The course of one search of a study; None where no outer step is decided.

    Args:
        study: The study.
        names: The hyperparameters to show, schedules or parameters; None for the first few.
        chain: Which search; None for the one with the best value.
        learned: Leave out hyperparameters without hypergradients.

    Raises:
        ValueError: If an argument is not of its kind, or names what the study does not have.
    """
    check_names("names", names)
    if chain is not None:
        checked_count("chain", chain, least=0)
    steps = outer_steps(study)
    if not steps:
        return None
    maximize = maximizes(study)
    chosen = _chosen(steps, chain, maximize)
    own = [step for step in steps if step.chain == chosen]
    hypers = _named(_hypers(study.get_trials(deepcopy=False), own, learned), names)
    n_chains = len({step.chain for step in steps})
    shown = hypers if names is not None else hypers[:MOST_PANELS]
    left_out = len(hypers) - len(shown)
    return Course(chosen, n_chains, own, shown, left_out, best_step(own, maximize))


def best_step(steps: Iterable[OuterStep], maximize: bool) -> OuterStep | None:
    """The step with the best value, if one has any."""
    sound = [step for step in steps if step.value is not None and step.verdict != "diverged"]
    sign = -1.0 if maximize else 1.0
    return min(sound, key=lambda step: sign * cast(float, step.value), default=None)


def told(step: OuterStep) -> str:
    """A step in a few words."""
    trials = "+".join(map(str, step.trials[:4])) + ("+…" if len(step.trials) > 4 else "")
    value = "" if step.value is None else f", value {step.value:.4g}"
    return f"step {step.step} (trial {trials}): {step.verdict}{value}"


def _chosen(steps: Sequence[OuterStep], chain: int | None, maximize: bool) -> int:
    chains = sorted({step.chain for step in steps})
    if chain is None:
        best = best_step(steps, maximize)
        return chains[0] if best is None else best.chain
    if chain not in chains:
        raise ValueError(f"chain must be one of {', '.join(map(str, chains))}, got {chain}.")
    return chain


def _hypers(
    trials: Sequence[FrozenTrial], steps: Sequence[OuterStep], learned: bool
) -> list[Hyper]:
    """The hyperparameters of some steps, in the order in which they were suggested."""
    ran = [trials[number] for step in steps for number in step.trials]
    known: dict[str, BaseDistribution] = {}
    shapes: dict[str, Shape] = {}
    for trial in ran:
        known |= trial.distributions
        shapes |= read_shapes(trial)
    reported = {name for step in steps for report in step.reports for name in report}
    hypers = _grouped(known, shapes)
    return [h for h in hypers if not learned or not reported.isdisjoint(h.parameters)]


def _grouped(known: Mapping[str, BaseDistribution], shapes: Mapping[str, Shape]) -> list[Hyper]:
    of_parameter: dict[str, Hyper] = {}
    for name, shape in shapes.items():
        parameters = parameter_names(name, shape.size)
        if all(parameter in known for parameter in parameters):
            hyper = Hyper(name, parameters, _form(name, shape), known[parameters[0]])
            of_parameter |= dict.fromkeys(parameters, hyper)
    alone = {name: Hyper(name, (name,), "constant", one) for name, one in known.items()}
    return [*dict.fromkeys((alone | of_parameter).values())]


def _form(name: str, shape: Shape) -> Form:
    is_whole = shape.size >= count_values(shape.form, 1)
    if shape.form not in get_args(Form) or not is_whole:
        raise StoredDataError(f"schedule {name!r} is stored as {shape}, which is none.")
    return cast(Form, shape.form)


def _named(hypers: list[Hyper], names: Sequence[str] | None) -> list[Hyper]:
    """Those of these names, in their order."""
    if names is None:
        return hypers
    by_name: dict[str, Any] = {hyper.name: hyper for hyper in hypers}
    for name in names:
        if name not in by_name:
            known = ", ".join(by_name) or "none"
            raise ValueError(f"names: {name!r} is no hyperparameter here; there are: {known}.")
    return [by_name[name] for name in dict.fromkeys(names)]
