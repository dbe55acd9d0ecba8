"""Tables and figures of populations.py beside the figures of the HPM paper's rebuttal.

    python examples/paper/populations_table.py --storage sqlite:///populations.db

Adds the stored cells to results/populations.json, prints the tables of all, and writes
results/populations.md and results/populations_JOB.png.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import optuna

# After this folder: the benchmarks have a populations.py, too.
sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(1, str(Path(__file__).parents[1] / "arena"))

from populations import METHODS
from populations_figure import draw
from populations_results import PARTS, Found, Results, Speed, read
from results import standard_error
from table import row

OUT = Path(__file__).parent / "results"
COMMAND = "python examples/paper/populations.py --data DIR --profile {} --jobs {} --seeds {}"
MISSING = "not run"
Cells = list[dict[str, Any]]  # of a method, one for each seed


class Published(NamedTuple):
    """What the rebuttal says of CIFAR-10: losses, and accuracies in percent."""

    losses: tuple[float, float] | None = None  # validation, test
    accuracies: tuple[float, float] | None = None


REBUTTAL = {
    "pbt": Published(None, (78.5, 78.1)),
    "stn": Published(None, (80.3, 80.1)),
    "stn-restarts": Published((0.5817, 0.5832)),
    "hpm": Published((0.5636, 0.5649), (81.7, 81.1)),
    "hpm-one-more-step": Published((0.6139, 0.6267)),
    "hpm-without-hypertraining": Published((0.5944, 0.6031)),
    "hpm-mlp-teacher": Published((0.5696, 0.5745)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--storage", nargs="+", default=["sqlite:///populations.db"])
    parser.add_argument("--out", type=Path, default=OUT, help="folder of what is written")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    args.out.mkdir(exist_ok=True)
    results, speeds = read(args.storage, before(args.out / "populations.json"))
    lines: list[str] = []
    for job, by_method in results.items():
        check_settings(job, by_method)
        cells = {method: [*by_method.get(method, {}).values()] for method in METHODS}
        lines += [f"**{job}**, {described(cells)}", "", *quality_table(job, cells), ""]
        lines += [*cost_table(cells), "", *mutation_table(cells), ""]
        draw(cells, args.out / f"populations_{job}.png")
    lines += speed_table(speeds)
    print("\n".join(lines))
    (args.out / "populations.md").write_text("\n".join(lines) + "\n")
    text = json.dumps(as_json(results, speeds), indent=1, allow_nan=False)
    (args.out / "populations.json").write_text(text + "\n")


def before(file: Path) -> Found:
    """What has been read before."""
    found = json.loads(file.read_text()) if file.exists() else {"cells": {}, "scaling": {}}
    speeds = {name: [Speed(**one) for one in own] for name, own in found["scaling"].items()}
    return Found(found["cells"], speeds)


def check_settings(job: str, by_method: dict[str, dict[str, Any]]) -> None:
    """Exit if the cells of a job cannot be compared."""
    names = ("profile", "device", "generations", "steps")
    found = {
        tuple(cell[name] for name in names)
        for cells in by_method.values()
        for cell in cells.values()
    }
    if len(found) > 1:
        raise SystemExit(f"cells of {job} have different {', '.join(names)}: {sorted(found)}.")


def described(cells: dict[str, Cells]) -> str:
    """What the cells of a job have in common."""
    one = next(cell for of_method in cells.values() for cell in of_method)
    return (
        f"profile {one['profile']} on {one['device']}: {one['generations']} segments of "
        f"{one['steps']} steps; mean ± standard error over the seeds"
    )


def table(
    head: list[str], cells: dict[str, Cells], values_of: Callable[[Cells, str], list[str]]
) -> list[str]:
    """A row for each method; of those without cells, "not run"."""
    lines = [row(head), row(["---"] * len(head))]
    for method, found in cells.items():
        values = values_of(found, method) if found else [MISSING] + [""] * (len(head) - 2)
        lines.append(row([method, *values]))
    return lines


def quality_table(job: str, cells: dict[str, Cells]) -> list[str]:
    """Losses, or perplexities, and accuracies of the member that is best on the selection part."""
    is_text = job == "ptb"
    kind, digits = ("perplexity", 1) if is_text else ("loss", 4)
    parts = {"selection": "validation", "validation": "hypergradients' part", "test": "test"}
    head = ["method", "seeds", *(f"{name} {kind}" for name in parts.values())]
    head += ["validation accuracy, %", "test accuracy, %"]
    if job == "cifar10":
        head += ["rebuttal's losses", "rebuttal's accuracies"]

    def values_of(found: Cells, method: str) -> list[str]:
        def value(part: str, name: str) -> list[float]:
            return [cell["best"][part][name] for cell in found]

        losses = {part: value(part, "loss") for part in parts}
        if is_text:
            losses = {
                part: [math.exp(loss) for loss in of_part] for part, of_part in losses.items()
            }
        values = [str(len(found)), *(spread(losses[part], digits) for part in parts)]
        for part in ("selection", "test"):
            values.append(spread([100 * hit for hit in value(part, "accuracy")], 1))
        if job == "cifar10":
            published = REBUTTAL.get(method, Published())
            values += [" / ".join(map(str, pair)) if pair else "–" for pair in published]
        return values

    return table(head, cells, values_of)


def cost_table(cells: dict[str, Cells]) -> list[str]:
    """Seconds, their parts, and the cost in trainings of one member and in runs of one STN."""
    alone = [total(cell) for cell in cells["stn"]]
    head = ["method", "members", "CPU seconds", "wall seconds", *(f"{part}, %" for part in PARTS)]
    head += ["trainings of one member", "runs of stn"]

    def values_of(found: Cells, method: str) -> list[str]:
        values = [str(found[0]["members"]), spread([total(cell) for cell in found], 0)]
        values.append(spread([cell["wall"] for cell in found], 0))
        for part in PARTS:
            shares = [100 * cell["seconds"][part] / total(cell) for cell in found]
            values.append(spread(shares, 1))
        one = [total(c) * c["members"] / c["seconds"]["training"] for c in found]
        runs = fmean(alone) if alone else math.nan
        values.append(spread(one, 2))
        values.append(spread([total(cell) / runs for cell in found], 2) if alone else MISSING)
        return values

    return table(head, cells, values_of)


def total(cell: dict[str, Any]) -> float:
    """All seconds of a cell, without tests."""
    return float(sum(cell["seconds"].values()))


def mutation_table(cells: dict[str, Cells]) -> list[str]:
    """Mean mutation degree |g − 1| and distance of clones, in each half of a population."""
    halves = ("first half", "second half")
    head = [
        "method",
        *(f"mutation degree, {half}" for half in halves),
        *(f"moved, {h}" for h in halves),
    ]

    def values_of(found: Cells, method: str) -> list[str]:
        values = []
        for name in ("degree", "moved"):
            for is_second in (False, True):
                means = [half_mean(cell, name, is_second) for cell in found]
                known = [mean for mean in means if mean is not None]
                values.append(spread(known, 3) if known else "–")
        return values

    return table(head, cells, values_of)


def half_mean(cell: dict[str, Any], name: str, is_second: bool) -> float | None:
    """Mean over the generations of one half that have clones."""
    middle = cell["generations"] / 2
    by_generation = {int(key): one[name] for key, one in cell["mutation"].items()}
    found = [value for g, value in by_generation.items() if (g >= middle) == is_second]
    return fmean(found) if found else None


def speed_table(speeds: dict[str, list[Speed]]) -> list[str]:
    """Segments a second by the number of workers, beside one worker."""
    head = ["job and method", "workers", "segments", "wall seconds", "CPU seconds", "speed-up"]
    lines = [row([*head, "efficiency"]), row(["---"] * (len(head) + 1))]
    for name, found in speeds.items():
        rates = {speed.workers: speed.segments / speed.wall for speed in found}
        for one in found:
            values = [name, one.workers, one.segments, f"{one.wall:.0f}", f"{one.cpu:.0f}"]
            up = rates[one.workers] / rates[1] if 1 in rates else math.nan
            shown = [f"{up:.2f}", f"{up / one.workers:.0%}"] if 1 in rates else [MISSING] * 2
            lines.append(row([*values, *shown]))
    return lines if speeds else [f"Scaling: {MISSING}."]


def as_json(results: Results, speeds: dict[str, list[Speed]]) -> dict[str, Any]:
    """Everything that the tables show, and the commands that ran it."""
    commands = []
    for job, by_method in results.items():
        found = [cell for cells in by_method.values() for cell in cells.values()]
        seeds = sorted({int(seed) for cells in by_method.values() for seed in cells})
        methods = f" --methods {' '.join(by_method)}"
        seeds_text = " ".join(map(str, seeds))
        commands.append(COMMAND.format(found[0]["profile"], job, seeds_text) + methods)
    return {
        "commands": commands,
        "cells": results,
        "scaling": {name: [speed._asdict() for speed in found] for name, found in speeds.items()},
    }


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard error, the mean alone of one value."""
    error = standard_error(values)
    return f"{fmean(values):.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


if __name__ == "__main__":
    main()
