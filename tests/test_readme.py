"""What the README promises: its commands are those that CI runs, and its code works."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *(ROOT / "docs").glob("*.md")]


def prose(page: str) -> str:
    """A page without its code."""
    return re.sub(r"```.*?```", "", page, flags=re.DOTALL)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_two_commands_of_which_continuous_integration_runs_the_second() -> None:
    main, tests = (block.strip() for block in blocks("sh"))
    assert main.endswith(".venv/bin/python examples/digits.py")
    assert (ROOT / "examples" / "digits.py").exists()
    assert tests in (ROOT / ".ci" / "run").read_text().splitlines()


def test_what_the_readme_names_exists() -> None:
    named = re.findall(r"`(?:examples|optuna_hypergrad|tests)/[\w/.]+", README)
    named += re.findall(r"\]\(((?:examples|docs)/\w+\.\w+)\)", README)
    assert named
    for path in named:
        assert (ROOT / path.strip("`")).exists(), path


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What the samplers log."""
    lines: list[str] = []

    def kept(record: logging.LogRecord) -> bool:
        lines.append(record.getMessage())
        return True

    logger, verbosity = logging.getLogger("optuna.hypergrad"), optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    logger.addFilter(kept)
    yield lines
    logger.removeFilter(kept)
    optuna.logging.set_verbosity(verbosity)


def test_the_objectives_in_the_readme_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, optuna.Study] = {}
    for code in blocks("python"):
        exec(code, names)  # the blocks are this repository's own text
    study, population = names["study"], names["population"]
    assert len(study.trials) == 12
    assert study.trials[0].value == pytest.approx(0.69, abs=0.05)  # chance, from all zeros
    assert study.best_value < 0.3
    assert population.best_value < 0.3
    (shown,) = blocks("text")
    for line in shown.splitlines():
        assert any(as_shown(line).fullmatch(told) for told in logged), line


def as_shown(line: str) -> re.Pattern[str]:
    """A logged line as the README prints it: losses may differ in the last digit, … is the rest."""
    rounded = re.sub(r"\\\(0\\\.\d+\\\)", r"\\(0\\.\\d+\\)", re.escape(line))
    return re.compile(rounded.replace("…", ".*"))


def test_an_objective_takes_at_most_fifteen_lines_beside_its_model_and_data() -> None:
    code = blocks("python")[0]
    body = code.split("def objective(trial):\n")[1].split("\n\n")[0].splitlines()
    assert len([line for line in body if "model = " not in line]) <= 15


def test_every_example_is_indexed_with_its_command_and_run_time() -> None:
    index = (ROOT / "examples" / "README.md").read_text()
    for path in (ROOT / "examples").rglob("*.py"):
        started_by_another = path.name == "engine_run.py"
        if '__name__ == "__main__"' in path.read_text() and not started_by_another:
            assert re.search(rf"^.*python (\S+/)?{path.name}\b.*$", index, re.MULTILINE), path
    rows = re.findall(r"^\| `.*$", index, re.MULTILINE)
    told = [row.split("|")[-2] for row in rows] + re.findall(r"^`python .* · (.*)$", index, re.M)
    assert all(re.search(r" s\b|minute|hour|not measured", time) for time in told)


def test_pictures_of_the_pages_are_there_and_small() -> None:
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r'!\[[^]]*\]\(([^)]+)\)|<img src="([^"]+)"', text):
            picture = page.parent / "".join(name)
            assert picture.stat().st_size < 800_000, picture


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", prose(page.read_text())):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_is_read_in_ten_minutes() -> None:
    assert len(prose(README).split()) < 10 * 200  # words a minute, of a text to be thought about
