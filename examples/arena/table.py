"""Tables and the figure of the arena, from its stored studies.

    python examples/arena/table.py --storage sqlite:///arena.db

Prints the tables, and writes results/arena.json and arena.png beside docs/arena.md, into which the
tables go.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import torch
from catalogue import JOBS
from figure import draw
from results import FEW, Rank, Scores, budgets, ranks, read

from samplers import SAMPLERS

RESULT = Path(__file__).parent / "results" / "arena.json"
FIGURE = "![Loss on test data with fresh seeds against compute, by job and sampler](arena.png)"
DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    """Read, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--storage", default="sqlite:///arena.db")
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where arena.md is")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    scores, seconds = read(args.storage)
    parts = {
        "jobs": jobs_table(scores, seconds),
        "losses": [*loss_tables(scores), FIGURE],
        "ranks": rank_table(scores),
        "tuning": tuning_table(scores),
    }
    for mark, lines in parts.items():
        print("\n".join(lines), end="\n\n")
        write_page(args.docs / "arena.md", mark, lines)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(as_json(scores, seconds), indent=1, allow_nan=False) + "\n")
    draw(scores, args.docs / "arena.png")


def by_size(scores: Scores) -> dict[str, list[str]]:
    """Names of the small and of the large jobs."""
    sizes = {job: len(JOBS[job].distributions()) for job in scores}
    return {
        f"≤ {FEW} dimensions": [job for job, size in sizes.items() if size <= FEW],
        f"> {FEW} dimensions": [job for job, size in sizes.items() if size > FEW],
    }


def jobs_table(scores: Scores, seconds: dict[str, float]) -> list[str]:
    """The jobs that ran."""
    head = ("job", "dimensions", "steps", "CPU seconds of a plain training", "set aside")
    lines = [row(head), row(["---"] * len(head))]
    for name in scores:
        job = JOBS[name]
        size, steps = len(job.distributions()), job.plain_training().steps
        plain = f"{seconds[name]:.2f}" if name in seconds else "–"
        cells = [name, size, steps, plain, "yes" if job.is_set_aside else ""]
        lines.append(row(cells))
    return lines


def loss_tables(scores: Scores) -> list[str]:
    """Test loss of fresh seeds ± its standard error, and in brackets the best in the study."""
    names = [name for name in SAMPLERS if any(name in job for job in scores.values())]
    lines: list[str] = []
    for budget in budgets(scores):
        lines += [f"At {budget} plain trainings:", "", row(["job", *names])]
        lines.append(row(["---"] * (len(names) + 1)))
        for job, by_sampler in scores.items():
            own = {name: by[budget] for name, by in by_sampler.items() if budget in by}
            if not own:
                continue
            best = min((score.mean for score in own.values()), default=math.nan)
            cells = [job]
            for name in names:
                if name not in own:
                    cells.append("–")
                    continue
                score = own[name]
                mean = f"{score.mean:.4g}"
                mean = f"**{mean}**" if score.mean == best and len(own) > 1 else mean
                error = plus_minus(score.error)
                cells.append(f"{mean}{error} ({fmean(score.best_values):.4g})")
            lines.append(row(cells))
        lines.append("")
    return lines


def rank_table(scores: Scores) -> list[str]:
    """Mean ranks at each budget, with 90 % intervals."""
    found = {
        (kind, budget): ranks(scores, jobs, budget)
        for kind, jobs in by_size(scores).items()
        for budget in budgets(scores)
    }
    found = {key: one for key, one in found.items() if one}
    head = ["sampler", *(f"{kind}, {budget} trainings" for kind, budget in found)]
    lines = [row(head), row(["---"] * len(head))]
    for name in SAMPLERS:
        own = [one.get(name) for one in found.values()]
        if any(own):
            lines.append(row([name, *map(_rank, own)]))
    return lines


def _rank(rank: Rank | None) -> str:
    if rank is None:
        return "–"
    return f"{rank.mean:.1f} ({rank.low:.1f} to {rank.high:.1f}), {rank.jobs} jobs"


def tuning_table(scores: Scores) -> list[str]:
    """Whether tuning matters on a job: random search beside TPE at the largest budget."""
    head = (
        "job",
        "random − TPE, test loss",
        "in standard errors",
        "of random's loss",
    )
    lines = [row(head), row(["---"] * len(head))]
    for job, by_sampler in scores.items():
        of_random, of_tpe = (by_sampler.get(name, {}) for name in ("random", "tpe"))
        both = sorted(of_random.keys() & of_tpe.keys(), key=float)
        if not both:
            continue
        random, tpe = of_random[both[-1]], of_tpe[both[-1]]
        difference = random.mean - tpe.mean
        error = math.hypot(random.error, tpe.error)
        clear = f"{difference / error:.1f}" if error > 0 else "–"
        lines.append(row([job, f"{difference:.3g}", clear, f"{difference / random.mean:.0%}"]))
    return lines if len(lines) > 2 else ["No stored job has both."]


def as_json(scores: Scores, seconds: dict[str, float]) -> dict[str, Any]:
    """Everything that the tables show."""
    return {
        "environment": {"torch": torch.__version__, "optuna": optuna.__version__},
        "plain_seconds": seconds,
        "scores": {
            job: {
                name: {budget: score._asdict() for budget, score in by_budget.items()}
                for name, by_budget in by_sampler.items()
            }
            for job, by_sampler in scores.items()
        },
        "ranks": {
            kind: {
                budget: {n: rank._asdict() for n, rank in ranks(scores, jobs, budget).items()}
                for budget in budgets(scores)
            }
            for kind, jobs in by_size(scores).items()
        },
    }


def write_page(page: Path, mark: str, lines: list[str]) -> None:
    """Replace what stands between two marks of the page."""
    before, rest = page.read_text().split(f"<!-- {mark} -->\n")
    after = rest.split(f"<!-- /{mark} -->")[1]
    body = "\n".join(lines)
    page.write_text(f"{before}<!-- {mark} -->\n{body}\n<!-- /{mark} -->{after}")


def plus_minus(error: float) -> str:
    """A standard error as it follows its mean; nothing where it is NaN."""
    return "" if math.isnan(error) else f" ± {error:.2g}"


def row(cells: Iterable[object]) -> str:
    """A row of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
