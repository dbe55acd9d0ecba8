"""The table and the figures of the long-horizons experiments.

    python examples/paper/long_horizons_table.py --storage sqlite:///long_horizons.db

Adds the stored cells to results/long_horizons.json, prints Table 1 in Markdown with the paper's
numbers beside, and draws the figures; without --storage from that JSON alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "arena"))

from long_horizons_figures import draw
from long_horizons_methods import NAMES
from long_horizons_results import as_text, read
from results import standard_error
from table import plus_minus, row

RESULTS = Path(__file__).parent / "results"
PAPER = {  # Table 1: test accuracy in percent
    "hand-tuned": {"mnist": "98.4 ± 0.1", "svhn": "85.1 ± 0.3", "cifar10-full": "89.2 ± 0.2"},
    "random": {"mnist": "98.0 ± 0.2", "svhn": "82.2 ± 1.1", "cifar10-full": "82.3 ± 0.7"},
    "greedy-online": {"mnist": "97.5 ± 0.1", "svhn": "84.0 ± 0.2", "cifar10-full": "80.8 ± 0.2"},
    "published": {"mnist": "98.7 ± 0.1", "svhn": "85.7 ± 0.8", "cifar10-full": "89.3 ± 0.1"},
}


def main() -> None:
    """Read, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--storage", nargs="+", help="of the cells; by default, the JSON is read")
    parser.add_argument("--json", type=Path, default=RESULTS / "long_horizons.json")
    parser.add_argument("--figures", type=Path, default=RESULTS, help="folder of the figures")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if args.storage is not None:
        args.json.parent.mkdir(exist_ok=True, parents=True)
        before = json.loads(args.json.read_text())["cells"] if args.json.exists() else []
        args.json.write_text(as_text(read(args.storage, before)))
    found = json.loads(args.json.read_text())
    for job in found["jobs"]:
        print("\n".join(table(found, job)), end="\n\n")
    for file in draw(found, args.figures):
        print(f"wrote {file}")


def table(found: dict[str, Any], job: str) -> list[str]:
    """Table 1 for a job: test accuracy and loss of fresh seeds, means over the methods' seeds."""
    own = [cell for cell in found["cells"] if cell["job"] == job]
    budgets = sorted({budget for cell in own for budget in cell["judged"]}, key=float)
    head = ["method", *(f"at {budget} plain trainings" for budget in budgets)]
    head += ["seeds", "trials", "CPU seconds of a cell", "paper, accuracy in %"]
    steps = ", ".join(sorted({str(cell["steps"]) for cell in own}))
    plain = found["jobs"][job]["plain_seconds"]
    lines = [f"{job}: {steps} steps, a plain training takes {plain:.3g} s.", ""]
    lines += [row(head), row(["---"] * len(head))]
    for method in NAMES:
        of_method = [cell for cell in own if cell["method"] == method]
        lines.append(row([method, *cells(of_method, budgets), PAPER.get(method, {}).get(job, "–")]))
    return lines


def cells(own: Sequence[dict[str, Any]], budgets: Sequence[str]) -> list[str]:
    """A method's row, without its name and the paper's number."""
    scores = [
        score([cell for cell in own if budget in cell["judged"]], budget) for budget in budgets
    ]
    if not own:
        return [*scores, "–", "–", "–"]
    seeds = ", ".join(str(cell["seed"]) for cell in own)
    trials = fmean(len(cell["trials"]) for cell in own)
    seconds = fmean(cell["cpu_seconds"] for cell in own)
    return [*scores, seeds, f"{trials:.0f}", f"{seconds:.0f}"]


def score(own: Sequence[dict[str, Any]], budget: str) -> str:
    """Accuracy in percent and loss, each ± its standard error over the method's seeds."""
    if not own:
        return "not run"
    accuracies = [100 * fmean(cell["judged"][budget]["accuracies"]) for cell in own]
    losses = [fmean(cell["judged"][budget]["losses"]) for cell in own]
    accuracy = f"{fmean(accuracies):.2f}{plus_minus(standard_error(accuracies))} %"
    return f"{accuracy}, {fmean(losses):.4g}{plus_minus(standard_error(losses))}"


if __name__ == "__main__":
    main()
