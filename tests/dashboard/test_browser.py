"""optuna-dashboard in a real browser: what people see of a search and of a population."""

import json
import math
import runpy
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore
from optuna_dashboard import get_note
from PIL import Image
from selenium.webdriver import Chrome

from optuna_hypergrad import GradientSampler, best_schedules, publish, report_hypergradient
from optuna_hypergrad.schedules import Schedules
from optuna_hypergrad.visualization.charts.colors import RED

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None,
    reason="needs a browser: chromium and chromedriver are not installed",
)
SCRIPT = Path(__file__).parents[2] / "examples" / "dashboard_screenshots.py"
OF_SEARCHES = {"hg-convergence", "hg-schedules", "hg-hypergradients", "hg-step-sizes"}
OF_POPULATIONS = {"hg-convergence", "hg-lineage", "hg-population", "hg-mutations"}


class Site:
    """The two studies, the dashboard that shows them, and a browser."""

    def __init__(self, folder: Path, example: dict[str, Any]) -> None:
        self.example, self.storage = example, f"sqlite:///{folder}/studies.db"
        self.store = FileSystemArtifactStore(str(folder))
        self.search = example["search"](self.storage, trials=8)
        self.population = example["population"](self.storage, self.store, trials=24)
        for study in (self.search, self.population):
            publish(study, self.store)
        self.driver: Chrome
        self.address: str

    def page(self, path: str, text: str) -> str:
        """The text of a page once it contains this text."""
        found: str = self.example["look"](self.driver, f"{self.address}{path}", text)
        return found

    def script(self, code: str) -> Any:
        return self.driver.execute_script(f"return {code}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    example, folder = runpy.run_path(str(SCRIPT)), tmp_path_factory.mktemp("site")
    site = Site(folder, example)
    with (
        example["serving"](site.storage, folder) as site.address,
        example["browsing"](tmp_path_factory.mktemp("profile")) as site.driver,
    ):
        yield site


def column(site: Site, title: str) -> list[str]:
    """The cells below a title in the table of trials."""
    heads = "[...document.querySelectorAll('th')].map(head => head.innerText.split('\\n')[0])"
    place = site.script(heads).index(title)
    rows = "[...document.querySelectorAll('tbody tr')]"
    cells: list[str] = site.script(f"{rows}.map(row => row.children[{place}].innerText)")
    return cells


def sort(site: Site, title: str) -> None:
    labels = "[...document.querySelectorAll('th .MuiTableSortLabel-root')]"
    site.script(f"{labels}.find(label => label.innerText.startsWith('{title}')).click()")


@pytest.mark.parametrize(("number", "expected"), [(1, OF_SEARCHES), (2, OF_POPULATIONS)])
def test_the_study_page_draws_our_figures(site: Site, number: int, expected: set[str]) -> None:
    text = site.page(f"/dashboard/studies/{number}", "hg:best_trial")
    titles = site.example["figures"](site.driver)
    assert expected <= {*titles} and all(titles.values())
    others = (OF_SEARCHES | OF_POPULATIONS) - expected
    assert not {*titles} & others
    assert f"hg:{'outer_steps' if number == 1 else 'generations'}" in text
    cards = "[...document.querySelectorAll('[id^=\"user-defined-plot:\"]')]"
    for width, height, card in site.script(
        f"{cards}.map(c => [c.querySelector('.main-svg').clientWidth, "
        "c.querySelector('.main-svg').clientHeight, c.clientWidth])"
    ):
        assert width == card and height == 450  # neither cut off nor beyond the card
    severe = [entry for entry in site.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


def test_the_note_shows_the_best_schedule(site: Site) -> None:
    text = site.page("/dashboard/studies/1/note", "optuna_hypergrad.publish")
    assert f"Trial {site.search.best_trial.number} has the best value" in text
    assert "//" not in text  # our marks do not show
    cells = site.script("[...document.querySelectorAll('td')].map(cell => cell.innerText.trim())")
    best = site.search.best_params
    assert cells[:2] == ["0 to 20 %", f"{best['lr_0']:.4g}"]
    assert cells[10:] == [
        *("momentum", f"{best['momentum']:.4g}"),
        *("weight_decay", f"{best['weight_decay']:.4g}"),
    ]


def test_names_are_shown_as_they_are(site: Site) -> None:
    name, choice = r"_a_ *b* $c$ `d`", "<img src=x> [e](f) | ~~g~~ \\\\ &lt;"

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_categorical("choice", [choice])
        value = trial.suggest_float(name, 0, 1)
        report_hypergradient(trial, {name: 1.0})
        return value

    study = optuna.create_study(storage=site.storage, sampler=GradientSampler(seed=0))
    study.optimize(objective, n_trials=1)
    publish(study)
    site.page(f"/dashboard/studies/{study._study_id}/note", "optuna_hypergrad.publish")
    cells = site.script("[...document.querySelectorAll('td')].map(cell => cell.innerText.trim())")
    assert choice in cells and name in cells
    assert site.script("document.querySelectorAll('td :is(img, a, em, del, code)').length") == 0


def test_what_people_write_into_the_note_stays(site: Site) -> None:
    site.page("/dashboard/studies/2/note", "Lineage of the best member")
    body = {"body": "My own words.\n\n" + get_note(site.population), "version": 2}
    request = urllib.request.Request(  # as the dashboard's own editor saves
        f"{site.address}/api/studies/2/note",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method="PUT",
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 204
    publish(site.population)
    text = site.page("/dashboard/studies/2/note", "My own words.")
    assert text.count("Lineage of the best member") == 1


@pytest.mark.parametrize(
    ("number", "names"),
    [(1, ["hg:step", "hg:gradient_norm"]), (2, ["hg:member", "hg:generation", "hg:gradient_norm"])],
)
def test_trials_can_be_sorted_by_our_columns(site: Site, number: int, names: list[str]) -> None:
    site.page(f"/dashboard/studies/{number}/smartSelection", "UserAttribute hg:")
    for name in names:
        title = f"UserAttribute {name}"
        sort(site, title)
        values = [float(cell) for cell in column(site, title)]
        assert values == sorted(values) and len({*values}) > 1
    if number == 2:
        assert "UserAttribute hg:parent" in site.script("document.body.innerText")


def test_a_trial_has_its_checkpoint(site: Site) -> None:
    trial = site.population.best_trial
    text = site.page(f"/dashboard/studies/2/trials?numbers={trial.number}", "student.safetensors")
    assert f"hg:member {trial.user_attrs['hg:member']}" in text
    links = "[...document.querySelectorAll('a')].map(link => link.href)"
    (link,) = {one for one in site.script(links) if "/artifacts/" in one}
    with urllib.request.urlopen(link) as answer:
        assert len(answer.read()) == trial.system_attrs["hg:checkpoint"]["size"]


def test_the_best_schedules_can_be_downloaded(site: Site) -> None:
    name = f"best_schedules_trial_{site.search.best_trial.number}"
    text = site.page("/dashboard/studies/1", f"{name}.json")
    assert f"{name}.csv" in text
    links = "[...document.querySelectorAll('a[download]')].map(link => [link.download, link.href])"
    files = dict(site.script(links))
    with urllib.request.urlopen(files[f"{name}.csv"]) as answer:
        assert Schedules.from_csv(answer.read().decode()) == best_schedules(site.search)


def test_pictures_of_all_pages(site: Site, tmp_path: Path) -> None:
    best = site.population.best_trial.number
    site.example["photograph"](site.driver, site.address, tmp_path, best)
    assert len([*tmp_path.glob("dashboard_*.png")]) == 7
    colors = Image.open(tmp_path / "dashboard_population.png").convert("RGB").getcolors(256)
    red = [int(RED[i : i + 2], 16) for i in (1, 3, 5)]
    assert min(math.dist(color, red) for _, color in colors or ()) < 20  # of the star
