"""How far hypergradients can be trusted: their signs beside central differences of whole runs.

For each of five jobs and four levels of the learning rate, from tame to just below divergence: the
slopes of the validation loss by central differences over steps of 40 %, the mean of eight seeds,
and hypergradients of single runs, exact, damped, and with clipped products. A slope is clear if it
differs from zero by two standard errors of its mean.

    python examples/benchmarks/trust.py differences estimates report --data-root DIR --cells DIR

Parts may run in several processes at once. Each cell is a file in --cells, and is not run again.
``search`` searches on the transformer and the LSTM with GradientSampler; ``cost`` compares the CPU
time of both estimates. All on two shared cores: differences 3 hours, estimates 1 hour, a
search up to 25 minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import torch
import trust_differences
from numpy.typing import NDArray
from scipy.stats import spearmanr
from trust_jobs import JOBS, Job

from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule, trial_seed
from optuna_hypergrad.reports.growth import MIN_TRUST

SEEDS, RUNS = 8, 3  # of differences, of hypergradients
ESTIMATES: dict[str, dict[str, Any]] = {
    "exact": {"estimate": "exact"},
    "damped": {"estimate": "damped"},
    "clipped": {"estimate": "exact", "clip_products": 10.0},  # FDS, Appendix B
}
RATES = {"transformer": (1e-4, 1e-1), "lstm": (1e-3, 1.0)}  # of searches
RANGES = {
    "beta1": (0.5, 0.99),
    "beta2": (0.8, 0.999),
    "weight_decay": (1e-3, 1.0),
    "dropout": (0.0, 0.6),
    "label_smoothing": (0.0, 0.3),
}
FRESH = 5
RESULT = Path(__file__).parent / "results" / "trust.json"
DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = {"differences", "estimates", "search", "cost", "report"}
    parser.add_argument("parts", nargs="+", choices=sorted(parts))
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--levels", nargs="+", type=float, help="by default those of each job")
    parser.add_argument("--estimates", nargs="+", choices=ESTIMATES, default=list(ESTIMATES))
    parser.add_argument("--seeds", nargs="+", type=int, help="by default all")
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON of report")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where chaos.md is")
    args = parser.parse_args()
    args.cells.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name, make in _cells(args):
        file = args.cells / f"{name}.json"
        if not file.exists():
            start = time.process_time()
            cell = {**make(), "seconds": time.process_time() - start}
            file.write_text(json.dumps(cell))
            print(name, f"{cell['seconds']:.0f} s", flush=True)
    if "report" in args.parts:
        report(args.cells, args.out, args.docs)


def _cells(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Names of the chosen cells, and what computes each."""
    root = args.data_root
    for name in args.jobs:
        job = JOBS[name]
        for level in args.levels or job.levels:
            at = f"{name}-{level:g}"
            if "differences" in args.parts:
                for seed in args.seeds or range(SEEDS):
                    yield (
                        f"differences-{at}-{seed}",
                        lambda j=job, c=level, s=seed: differences(j, root, c, s),
                    )
            if "estimates" in args.parts:
                for seed in args.seeds or range(RUNS):
                    for estimate in args.estimates:
                        yield (
                            f"{estimate}-{at}-{seed}",
                            lambda j=job, c=level, s=seed, e=estimate: estimated(j, root, c, s, e),
                        )
    if "search" in args.parts:
        for name in set(args.jobs) & set(RATES):
            for seed in args.seeds or range(2):
                for estimate in ("exact", "damped"):
                    yield (
                        f"search-{name}-{estimate}-{seed}",
                        lambda j=JOBS[name], s=seed, e=estimate: search(j, root, s, e),
                    )
    if "cost" in args.parts:
        yield "cost", lambda: cost(root)


def differences(job: Job, root: Path, level: float, seed: int) -> dict[str, Any]:
    """Slopes by differences with one seed."""
    slopes, losses = trust_differences.slopes(job, root, level, seed)
    return {"slopes": slopes, "losses": losses}


def estimated(job: Job, root: Path, level: float, seed: int, estimate: str) -> dict[str, Any]:
    """Slopes by the hypergradient of one run."""
    values = job.values(level)
    result = job.run(root, values, seed, mode="reverse", **ESTIMATES[estimate])
    growth = result.growth
    assert growth is not None
    return {
        "slopes": job.slopes(values, result.gradient),
        "loss": result.loss,
        "growth": growth.total,
        "rate": growth.rate,
        "dominated": growth.dominated,
        "damped": growth.damped,
        "clipped": result.clipped,
        "trust": growth.trust,
    }


def search(job: Job, root: Path, seed: int, estimate: str, n_trials: int = 12) -> dict[str, Any]:
    """A search over all hyperparameters of a job, and its best values on fresh seeds."""

    def objective(trial: optuna.Trial) -> float:
        low, high = RATES[job.name]
        suggest_schedule(trial, "lr", low, high, windows=len(job.lr), log=True)
        for name in job.others:
            least, most = RANGES[name]
            suggest_schedule(trial, name, least, most, log=name == "weight_decay")
        values = {name: float(trial.params[name]) for name in job.scales}
        result = job.run(root, values, trial_seed(trial), estimate=estimate)
        report_hypergradient(trial, result)
        return result.loss

    sampler = GradientSampler(seed=seed, strategy="sign_descent", stop_when_converged=False)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=n_trials)
    best = {name: float(study.best_params[name]) for name in job.scales}
    fresh = [job.run(root, best, 1000 + i, on="test", learn=()).loss for i in range(FRESH)]
    return {
        "losses": [trial.value for trial in study.trials],
        "best": study.best_value,
        "params": best,
        "fresh_test_losses": fresh,
    }


def cost(root: Path, rounds: int = 3) -> dict[str, Any]:
    """CPU time of the damped estimate over the exact one, interleaved, medians of ratios."""
    ratios: dict[str, float] = {}
    for name, level in (("mlp", 1.0), ("mlp", 20.0), ("lenet", 1.0), ("lstm", 3.0)):
        job, found = JOBS[name], list[float]()
        job.run(root, job.values(level), 0, mode="reverse")  # warm up
        for _ in range(rounds):
            seconds = {}
            for estimate in ("exact", "damped"):
                start = time.process_time()
                job.run(root, job.values(level), 0, mode="reverse", estimate=estimate)
                seconds[estimate] = time.process_time() - start
            found.append(seconds["damped"] / seconds["exact"])
        ratios[f"{name}-{level:g}"] = median(found)
    return {"ratios": ratios}


def report(cells: Path, out: Path, docs: Path) -> None:
    """Write the JSON, the page and its figure, and print the signs."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(cells.glob("*.json"))}
    table = {
        f"{name}-{level:g}": row
        for name, job in JOBS.items()
        for level in job.levels
        if (row := compared(found, job, level))
    }
    result = {
        "environment": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": "two shared CPU cores, one thread a process",
        },
        "table": table,
        "tried": found.get("tried", {}).get("tried", {}),  # of a prototype
        "search": {k: v for k, v in found.items() if k.startswith("search-")},
        "cost": found.get("cost"),
    }
    out.write_text(json.dumps(_finite(result), indent=1, allow_nan=False) + "\n")
    draw(table, docs / "chaos_signs.png")
    write_page(docs / "chaos.md", "signs", signs_table(table))
    write_page(docs / "chaos.md", "search", search_table(result["search"], result["cost"]))
    for at, row in table.items():
        shares = "  ".join(
            f"{k} {v['right']:.0%} (cosine {v['cosine']:.2f}, growth {v['growth']:.1f})"
            for k, v in row["estimates"].items()
        )
        print(f"{at:16} {row['clear']}/{len(row['slopes'])} clear  {shares}")


def _finite(value: Any) -> Any:
    """JSON without NaN and infinity, which become None and "inf"."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


SIGNS = (
    "job, level",
    "seeds",
    "clear slopes",
    *("exact", "damped", "clipped", "6 trainings"),
    "growth",
    "left out",
    "damped and trusted",
    "damped as exact",
)
SEARCHES = (
    "job, estimate, seed of the sampler",
    "first trial",
    "best trial",
    "fresh seeds, test data",
)


def signs_table(table: dict[str, Any]) -> list[str]:
    """The table of right signs in Markdown."""
    lines = [_row(SIGNS), _row(["---"] * len(SIGNS))]
    for at, row in table.items():
        own = row["estimates"]
        cells = [at.replace("-", ", "), row["seeds"], f"{row['clear']} of {len(row['slopes'])}"]
        for estimate in ("exact", "damped", "clipped", "6 trainings"):
            cells.append(_share(own[estimate]["right"]) if estimate in own else "not run")
        if {"exact", "damped"} <= own.keys():
            damped = own["damped"]
            trusted = f"{_share(damped['right_of_trusted'])} of {damped['n_trusted']}"
            cells += [f"{own['exact']['growth']:.1f}", _share(damped["damped"]), trusted]
            cells.append(_share(row["same_signs"]))
        lines.append(_row(cells + ["not run"] * (len(SIGNS) - len(cells))))
    return lines


def search_table(searches: dict[str, Any], cost: dict[str, Any] | None) -> list[str]:
    """The searches in Markdown, and the cost."""
    lines = [_row(SEARCHES), _row(["---"] * len(SEARCHES))]
    for name, one in searches.items():
        fresh, losses = one["fresh_test_losses"], one["losses"]
        shown = f"{fmean(fresh):.3f} ({min(fresh):.3f} to {max(fresh):.3f})"
        name = name.removeprefix("search-").replace("-", ", ")
        lines.append(_row([name, f"{losses[0]:.3f}", f"{one['best']:.3f}", shown]))
    if cost is not None:
        ratios = ", ".join(f"{k.replace('-', ' at ')} {v:.2f}" for k, v in cost["ratios"].items())
        lines += ["", f"CPU time of the damped estimate over that of the exact one: {ratios}."]
    return lines


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def write_page(page: Path, mark: str, lines: list[str]) -> None:
    """Replace what stands between two marks of the page."""
    before, rest = page.read_text().split(f"<!-- {mark} -->\n")
    after = rest.split(f"<!-- /{mark} -->")[1]
    body = "\n".join(lines)
    page.write_text(f"{before}<!-- {mark} -->\n{body}\n<!-- /{mark} -->{after}")


def draw(table: dict[str, Any], file: Path) -> None:
    """The share of right signs by job and level, for each estimate."""
    figure, axes = plt.subplots(1, len(JOBS), figsize=(11, 2.6), sharey=True)
    for ax, (name, job) in zip(axes, JOBS.items(), strict=True):
        for estimate, style in (("exact", "o--"), ("damped", "o-")):
            at = [(i, table.get(f"{name}-{c:g}")) for i, c in enumerate(job.levels)]
            points = [
                (i, row["estimates"][estimate]["right"])
                for i, row in at
                if row and row["clear"] and estimate in row["estimates"]
            ]
            ax.plot([i for i, _ in points], [right for _, right in points], style, label=estimate)
        ax.set_xticks(range(len(job.levels)), [f"{c:g}" for c in job.levels])
        ax.set_title(name)
        ax.axhline(0.5, color="gray", linewidth=0.6, linestyle=":")
        ax.set_ylim(0, 1.04)
    axes[0].set_ylabel("right signs\nof clear slopes")
    axes[2].set_xlabel("factor of the learning rates")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=100)


def compared(found: dict[str, Any], job: Job, level: float) -> dict[str, Any] | None:
    """One job at one level: each estimate beside the differences."""
    at, names = f"{job.name}-{level:g}", list(job.scales)
    runs = [found[key] for s in range(SEEDS) if (key := f"differences-{at}-{s}") in found]
    if len(runs) < 2:
        return None
    slopes = np.array([[run["slopes"][name] for name in names] for run in runs])
    mean, error = slopes.mean(0), slopes.std(0, ddof=1) / len(slopes) ** 0.5
    is_clear = np.abs(mean) > 2 * error
    row: dict[str, Any] = {
        "slopes": dict(zip(names, mean.tolist(), strict=True)),
        "standard_errors": dict(zip(names, error.tolist(), strict=True)),
        "seeds": len(runs),
        "clear": int(is_clear.sum()),
        "estimates": {},
    }
    for estimate in ESTIMATES:
        own = [found[key] for s in range(RUNS) if (key := f"{estimate}-{at}-{s}") in found]
        if own:
            row["estimates"][estimate] = judged(own, names, mean, is_clear)
    row["same_signs"] = _same_signs(found, at)
    few = [few_differences(run, job, s) for s, run in enumerate(runs)]
    row["estimates"]["6 trainings"] = judged(few, names, mean, is_clear)
    return row


def _same_signs(found: dict[str, Any], at: str) -> float:
    """The share of all slopes, clear or not, whose sign is that of the exact estimate."""
    same = []
    for seed in range(RUNS):
        pair = [found.get(f"{estimate}-{at}-{seed}") for estimate in ("exact", "damped")]
        if None not in pair:
            exact, damped = (np.array([*one["slopes"].values()]) for one in pair if one)
            same += (np.sign(exact) == np.sign(damped)).tolist()
    return fmean(same) if same else float("nan")


def judged(
    runs: list[dict[str, Any]],
    names: list[str],
    mean: NDArray[np.float64],
    is_clear: NDArray[np.bool_],
) -> dict[str, Any]:
    """Signs, ranks and direction of the slopes of some runs."""
    slopes = np.array([[run["slopes"][name] for name in names] for run in runs])
    right = (np.sign(slopes) == np.sign(mean)) & np.isfinite(slopes)
    trust = np.array([[run["trust"][name] for name in names] for run in runs])
    trusted = (trust >= MIN_TRUST) & is_clear
    middle = np.median(np.nan_to_num(slopes, nan=0.0, posinf=1e30, neginf=-1e30), axis=0)
    norms = np.linalg.norm(mean) * np.linalg.norm(middle)
    clear = right[:, is_clear]
    return {
        "right": float(clear.mean()) if clear.size else float("nan"),
        "right_by_run": clear.mean(1).tolist() if clear.size else [],
        "right_of_trusted": float(right[trusted].mean()) if trusted.any() else float("nan"),
        "n_trusted": int(trusted.sum()),
        "n_clear": int(clear.size),
        "cosine": float(mean @ middle / norms) if norms > 0 else float("nan"),
        "rank_correlation": float(np.nan_to_num(spearmanr(mean, middle)[0])),
        "median_slopes": dict(zip(names, middle.tolist(), strict=True)),
        "growth": fmean(run["growth"] for run in runs),
        "damped": fmean(run["damped"] for run in runs),
        "trust": dict(zip(names, trust.mean(0).tolist(), strict=True)),
    }


def few_differences(run: dict[str, Any], job: Job, seed: int) -> dict[str, Any]:
    """What six plain trainings say: those of one seed's runs, as a design of six runs."""
    names = list(job.scales)
    signs = trust_differences.design(len(names), seed)[:6]
    losses = np.array(run["losses"][:6])
    slopes = (signs - signs.mean(0)).T @ (losses - losses.mean()) / len(losses)
    return {
        "slopes": dict(zip(names, slopes.tolist(), strict=True)),
        "growth": 0.0,
        "damped": 0.0,
        "trust": dict.fromkeys(names, 1.0),
    }


if __name__ == "__main__":
    main()
