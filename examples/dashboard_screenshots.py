"""Take screenshots of two small studies in optuna-dashboard.

    python examples/dashboard_screenshots.py --output docs

runs a search and a population (a few seconds each), publishes them, starts optuna-dashboard,
drives Chromium through it and writes dashboard_*.png. Needs Chromium and its chromedriver:
apt-get install chromium chromium-driver.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError

import optuna
import torch
import torch.nn.functional as F
from optuna.artifacts import FileSystemArtifactStore
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from optuna_hypergrad import (
    GradientSampler,
    PopulationSampler,
    members,
    publish,
    report_hypergradient,
    suggest_schedule,
    trial_seed,
)
from optuna_hypergrad.autodiff import SGD, hypergradient

OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
SIZE = (1500, 1200)  # of the window, in pixels
WAIT = 30  # seconds, for a page
HASHES = "966"  # orders the figures: with Python 3.11, parts of one figure are side by side
FIGURE = '[id^="user-defined-plot:"]'
ATTRIBUTES = ".MuiCard-root:has(table)"

torch.manual_seed(1)
x = torch.randn(600, 8)
y = (x[:, 0] + x[:, 1] > x[:, 2] ** 2).long()
train, validation = (x[:400], y[:400]), (x[400:], y[400:])


def new_model(trial: optuna.Trial) -> torch.nn.Module:
    torch.manual_seed(trial_seed(trial))
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))


def trained(trial: optuna.Trial, model: torch.nn.Module, update: SGD, steps: int) -> float:
    """Train for some steps, report the hypergradient, and return the validation loss."""
    result = hypergradient(
        model,
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        update,
        lambda step: tuple(part[step % 4 :: 4] for part in train),
        validation,
        steps=steps,
    )
    report_hypergradient(trial, result)
    return result.loss


def search(storage: str, trials: int = 12) -> optuna.Study:
    """A schedule of learning rates, momentum and weight decay, from zero."""

    def objective(trial: optuna.Trial) -> float:
        lr = suggest_schedule(trial, "lr", -4.0, 4.0, windows=5)
        momentum = suggest_schedule(trial, "momentum", 0.0, 0.99)
        decay = suggest_schedule(trial, "weight_decay", 0.0, 4e-3)
        return trained(trial, new_model(trial), SGD(lr, momentum, decay), steps=40)

    sampler = GradientSampler(seed=0, strategy="sign_descent")  # whose step sizes are shown, too
    study = optuna.create_study(study_name="search", storage=storage, sampler=sampler)
    study.optimize(objective, n_trials=trials)
    return study


def population(storage: str, store: FileSystemArtifactStore, trials: int = 60) -> optuna.Study:
    """Six members, whose learning rate and momentum follow hypergradients during training."""

    def segment(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        lr = suggest_schedule(trial, "lr", 1e-3, 1.0, log=True)
        momentum = suggest_schedule(trial, "momentum", 0.0, 0.95)
        model = new_model(trial)
        member.restore(model=model)
        loss = trained(trial, model, SGD(lr, momentum), steps=8)
        member.save(model=model)
        return loss

    sampler = PopulationSampler(seed=0, population_size=6, burn_in=2)
    study = optuna.create_study(study_name="population", storage=storage, sampler=sampler)
    study.optimize(segment, n_trials=trials)
    return study


@contextmanager
def serving(storage: str, artifacts: Path) -> Iterator[str]:
    """Run optuna-dashboard on a storage; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = str(Path(sys.executable).with_name("optuna-dashboard"))
    options = ["--port", str(port), "--host", "127.0.0.1", "--artifact-dir", str(artifacts)]
    server = subprocess.Popen(
        [command, storage, *options, "--quiet", "--server", "wsgiref"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONHASHSEED": HASHES},
    )
    try:
        address = f"http://127.0.0.1:{port}"
        _answer(server, address)
        yield address
    finally:
        server.terminate()
        server.wait(WAIT)


def _answer(server: subprocess.Popen[bytes], address: str) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/api/studies"):
                return
        except URLError:
            time.sleep(0.1)
    raise RuntimeError(f"optuna-dashboard does not answer at {address}: {server.poll()}.")


@contextmanager
def browsing(folder: Path) -> Iterator[webdriver.Chrome]:
    """A headless Chromium with a fresh profile in the folder."""
    options = webdriver.ChromeOptions()
    for option in (*OPTIONS, *QUIET, f"--window-size={SIZE[0]},{SIZE[1]}"):
        options.add_argument(option)
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def look(driver: webdriver.Chrome, address: str, text: str) -> str:
    """Open a page, wait until it contains a text, and return all of its text."""
    driver.get(address)
    WebDriverWait(driver, WAIT).until(lambda page: text in said(page))
    return said(driver)


def said(driver: webdriver.Chrome) -> str:
    return str(driver.execute_script("return document.body.innerText"))


def figures(driver: webdriver.Chrome) -> dict[str, str]:
    """The titles of our figures on a study's page, by id, once all are drawn."""
    cards = "[...document.querySelectorAll('[id^=\"user-defined-plot:hg-\"]')]"
    entry = "[card.id.split(':')[1], card.querySelector('.gtitle')?.textContent]"
    script = f"return Object.fromEntries({cards}.map(card => {entry}))"
    found: dict[str, str | None] = {}

    def drawn(page: webdriver.Chrome) -> bool:
        found.clear()
        found.update(page.execute_script(script))
        return bool(found) and None not in found.values()

    WebDriverWait(driver, WAIT).until(drawn)
    return {id_: str(title) for id_, title in found.items()}


def picture(driver: webdriver.Chrome, path: Path, of: str = "body", to: str = "") -> None:
    """Store a screenshot from one element to another, or to the end of the window."""
    driver.execute_script(f"document.querySelector('{of}').scrollIntoView(); scrollBy(0, -100)")
    time.sleep(1)  # figures are drawn again when the window changes
    shown = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    if to:
        corners = f"{edge(of)}.left, {edge(of)}.top, document.body.clientWidth, {edge(to)}.bottom"
        shown = shown.crop([int(place) for place in driver.execute_script(f"return [{corners}]")])
    # Other methods of Pillow give small spots, such as stars, the colour of something else.
    shown.quantize(128, method=Image.Quantize.FASTOCTREE).save(path, optimize=True)


def edge(of: str) -> str:
    """JavaScript for the position of an element in the window."""
    return f"document.querySelector('{of}').getBoundingClientRect()"


def photograph(driver: webdriver.Chrome, address: str, folder: Path, best: int) -> None:
    """Store all pages with our results; the search is study 1, the population study 2."""
    for number, name in enumerate(("search", "population"), start=1):
        page = f"{address}/dashboard/studies/{number}"
        driver.set_window_size(SIZE[0], 2700)
        look(driver, page, "hg:best_trial")
        figures(driver)
        picture(driver, folder / f"dashboard_{name}.png", FIGURE, ATTRIBUTES)
        driver.set_window_size(SIZE[0], 850)
        look(driver, f"{page}/note", "optuna_hypergrad.publish")
        picture(driver, folder / f"dashboard_{name}_note.png")
        driver.set_window_size(2600, 1200)
        look(driver, f"{page}/smartSelection", "UserAttribute hg:")
        picture(driver, folder / f"dashboard_{name}_trials.png", "table")
    driver.set_window_size(*SIZE)
    trial = f"{address}/dashboard/studies/2/trials?numbers={best}"
    look(driver, trial, "student.safetensors")
    picture(driver, folder / "dashboard_trial.png")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--output", type=Path, default=Path(), help="folder of the pictures")
    output = arguments.parse_args().output
    with TemporaryDirectory() as name:
        folder = Path(name)
        storage, store = f"sqlite:///{folder}/studies.db", folder / "artifacts"
        store.mkdir()
        artifacts = FileSystemArtifactStore(str(store))
        studies = search(storage), population(storage, artifacts)
        for study in studies:
            publish(study, artifacts)
        with serving(storage, store) as address, browsing(folder) as driver:
            photograph(driver, address, output, studies[1].best_trial.number)


if __name__ == "__main__":
    main()
