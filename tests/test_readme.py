"""The README: CI runs its commands, and the files it names exist."""

import re
from pathlib import Path

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
    times = [row.split("|")[-2] for row in rows] + re.findall(r"^`python .* · (.*)$", index, re.M)
    assert all(re.search(r" s\b|minute|hour|not measured", time) for time in times)


def test_pictures_of_pages_exist_and_are_small() -> None:
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
    assert len(prose(README).split()) < 10 * 200  # words a minute
