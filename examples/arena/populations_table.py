"""The table of the populations on real trainings, from the studies that populations.py stored.

    python examples/arena/populations_table.py --storage sqlite:///populations.db

Prints it, and writes results/populations.json and the table of docs/population.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

import optuna
from populations import METHODS, RESULT
from results import standard_error
from table import DOCS, plus_minus, row, write_page

OUT = Path(__file__).parent / "results" / "populations.json"
Results = dict[str, dict[str, list[dict[str, float]]]]  # by job and method, one for each seed


def main() -> None:
    """Read, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--storage", default="sqlite:///populations.db")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where population.md is")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results = read(args.storage)
    lines = table(results)
    print("\n".join(lines))
    write_page(args.docs / "population.md", "populations", lines)
    args.out.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")


def read(storage: str) -> Results:
    """The results of all studies."""
    results: Results = {}
    for name in sorted(optuna.get_all_study_names(storage)):
        job, method, _ = name.split("/")
        found = optuna.load_study(study_name=name, storage=storage).user_attrs.get(RESULT)
        if found is not None:
            results.setdefault(job, {}).setdefault(method, []).append(found)
    return results


def table(results: Results) -> list[str]:
    """Test loss of the trained model, and in brackets that of fresh seeds, ± standard errors."""
    names = [name for name in METHODS if any(name in of_job for of_job in results.values())]
    lines = [row(["job", *names]), row(["---"] * (len(names) + 1))]
    for job, of_job in results.items():
        means = {name: fmean(one["test"] for one in found) for name, found in of_job.items()}
        cells = [job]
        for name in names:
            if name not in of_job:
                cells.append("–")
                continue
            trained, fresh = (_mean(of_job[name], key) for key in ("test", "fresh"))
            is_best = means[name] == min(means.values())
            cells.append(f"{f'**{trained}**' if is_best else trained} ({fresh})")
        lines.append(row(cells))
    return lines


def _mean(found: list[dict[str, float]], key: str) -> str:
    losses = [one[key] for one in found]
    return f"{fmean(losses):.4g}{plus_minus(standard_error(losses))}"


if __name__ == "__main__":
    main()
