"""Test hypergradients of many families of models against central differences.

    pip install "optuna_hypergrad[test]" timm
    python examples/benchmarks/models.py --json results/models.json --docs ../../docs/models.md

Each model has random weights, its own loss and a few random examples, all in double precision, and
is trained by two steps of SGD. The hypergradient of the learning rate, by reverse mode and, where
the model is small, by forward mode, is compared with central differences of the same training by
``torch.optim``. Takes some five minutes on one core; families of a library that is not installed
are left out.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from model_families import Batch, Family, families
from torch import nn

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient

STEPS, LR = 2, 0.1
# Of the learning rate; some models compute in single precision.
DIFFERENCES = (1e-6, 1e-4, 1e-3, 1e-2)
BOUND = 1e-3  # of the relative difference
SMALL = 3_000_000  # largest number of weights for forward mode
BEGIN, END = "<!-- families: written by examples/benchmarks/models.py -->", "<!-- /families -->"


@dataclass(frozen=True)
class Outcome:
    """The result for one family."""

    library: str
    name: str
    weights: int
    status: str  # "runs", "wrong", "refused"
    reverse: float | None = None  # difference from central differences, relative
    forward: float | None = None
    why: str = ""
    seconds: float = 0.0


def measured(family: Family) -> Outcome:
    """Build a model of the family and judge its hypergradients."""
    start = time.perf_counter()
    torch.manual_seed(0)
    model = family.make().double().train()
    weights = sum(p.numel() for p in model.parameters())
    case = family.library, family.name, weights
    batches, validation = [family.batch() for _ in range(STEPS)], family.batch()
    modes = ("reverse", "forward") if weights <= SMALL else ("reverse",)
    try:
        found = [engine(family, model, batches, validation, mode) for mode in modes]
    except ValueError as error:
        return Outcome(*case, "refused", why=str(error), seconds=time.perf_counter() - start)
    errors = judged(found, family.lr, lambda lr: trained(family, model, batches, validation, lr))
    status = "runs" if max(errors) <= BOUND else "wrong"
    forward = errors[1] if len(errors) > 1 else None
    seconds = time.perf_counter() - start
    return Outcome(*case, status, errors[0], forward, seconds=seconds)


def engine(
    family: Family, model: nn.Module, batches: list[Batch], validation: Batch, mode: str
) -> float:
    """The hypergradient of the learning rate."""
    torch.manual_seed(1)
    update = SGD(Schedule("lr", [family.lr]))
    model = deepcopy(model)
    result = hypergradient(
        model,
        family.loss,
        update,
        batches,
        validation,
        steps=STEPS,
        mode=mode,  # type: ignore[arg-type]
        estimate="exact",
        products="loop",
    )
    return result.gradient["lr"]


def trained(
    family: Family, model: nn.Module, batches: list[Batch], validation: Batch, lr: float
) -> float:
    """The validation loss of the same training by torch."""
    torch.manual_seed(1)
    model = deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for batch in batches:
        optimizer.zero_grad()
        family.loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for module in model.modules():  # the statistics of the batch, as the engine's default
        module.train(isinstance(module, nn.modules.batchnorm._NormBase))
    with torch.no_grad():
        return float(family.loss(model, validation))


def judged(found: list[float], lr: float, run: Callable[[float], float]) -> list[float]:
    """Relative differences from central differences of fourth order, the best of several."""
    best = [float("inf")] * len(found)
    for e in (lr * part for part in DIFFERENCES):
        near, far = (run(lr + k * e) - run(lr - k * e) for k in (1, 2))
        expected = (8 * near - far) / (12 * e)
        errors = [abs(one - expected) / max(abs(expected), 1e-12) for one in found]
        best = min(best, errors, key=max)
        if max(best) <= BOUND / 100:
            break
    return best


def table(outcomes: Iterable[Outcome]) -> str:
    """The outcomes as a table in Markdown."""
    lines = [
        "| from | model | weights | | reverse | forward |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in outcomes:
        errors = ["" if e is None else f"{e:.0e}" for e in (one.reverse, one.forward)]
        status = one.status if not one.why else f"{one.status}: {one.why.splitlines()[0]}"
        cells = [one.library, one.name, f"{one.weights:,}", status.replace("|", "\\|"), *errors]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def written(page: str, text: str) -> str:
    """The page with the text between the two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main() -> None:
    """Test all families, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="parts of the names, or libraries")
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    parser.add_argument("--docs", type=Path, help="a page with marks, to write the table into")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")  # torchvision's and transformers' own
    outcomes = []
    for family in families():
        if args.only and not any(part in f"{family.library} {family.name}" for part in args.only):
            continue
        try:
            outcomes.append(measured(family))
        except ImportError as error:
            print(f"{family.name} left out: {error}")
            continue
        print(outcomes[-1], flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in outcomes], indent=1) + "\n")
    if args.docs:
        args.docs.write_text(written(args.docs.read_text(), table(outcomes)))


if __name__ == "__main__":
    main()
