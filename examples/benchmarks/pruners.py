"""Measure what each pruner saves and its effect on the search, with the same seeds.

DivergencePruner on random search, TPE and GradientSampler (four chains) of the digits schedule
(``examples/digits.py``); TruncationPruner on a population of sixteen
(``examples/digits_population.py``); ConsensusPruner on six workers of uneven speed. All compute
is counted in training steps, including those after the last report of a pruned trial:

    python examples/benchmarks/pruners.py --json pruners.json
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean, median
from typing import Any

import optuna
import pruners_consensus as consensus
import pruners_divergence as divergence
import pruners_truncation as truncation
import torch

PARTS = {"divergence": divergence, "truncation": truncation, "consensus": consensus}
# The default number of trials, for consensus of outer steps.
CASES = {
    ("divergence", "random"): 30,
    ("divergence", "TPE"): 30,
    ("divergence", "gradient"): 20,
    ("truncation", "population"): 128,
    **{("consensus", search): 6 for search in consensus.REPLICATES},
}


def run(part: str, search: str, trials: int, seed: int) -> dict[str, Any]:
    """One search, without the pruner and with it."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    module = PARTS[part]
    without, pruned = (module.run(search, trials, seed, prunes) for prunes in (False, True))
    return {"without": without, "with": pruned, **module.judge(search, without, pruned)}


def print_row(part: str, search: str, results: list[dict[str, Any]]) -> None:
    """Print mean steps and median losses over the seeds, and the other results by seed."""
    without, pruned = ([result[which] for result in results] for which in ("without", "with"))
    steps = [fmean(run["steps"] for run in runs) for runs in (without, pruned)]
    losses = [median(run["loss"] for run in runs) for runs in (without, pruned)]
    others = (
        f"{key} {' '.join(f'{result[key]:.3g}' for result in results)}"
        for key in results[0].keys() - {"without", "with"}
    )
    print(
        f"{part:11s} {search:13s} {steps[0]:9,.0f} {steps[1]:9,.0f} {1 - steps[1] / steps[0]:6.1%} "
        f"{losses[0]:9.4f} {losses[1]:9.4f}   {', '.join(sorted(others))}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--trials", type=int, help="of each search, instead of its own number")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print("pruner      search          without      with  saved  loss without / with   by seed")
    found: dict[str, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(args.processes) as pool:
        for (part, search), trials in CASES.items():
            if part in args.parts:
                jobs = [
                    pool.submit(run, part, search, args.trials or trials, seed)
                    for seed in range(args.seeds)
                ]
                found[f"{part}, {search}"] = results = [job.result() for job in jobs]
                print_row(part, search, results)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
