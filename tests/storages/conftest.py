"""Storages for a session, and the table of storages and scenarios at its end."""

from collections.abc import Iterator

import optuna
import pytest

import databases
import servers
from storages.scenes import Place

KINDS = ("memory", *databases.KINDS)
SCENARIOS = "storages/test_scenarios.py::test_"


@pytest.fixture(scope="session", params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A storage of each kind that holds nothing at first."""
    if request.param == "memory":
        yield Place(None, optuna.storages.InMemoryStorage())
        return
    with servers.fresh(request.param) as address:
        storage = databases.connect(address)
        yield Place(address, storage)
        databases.disconnect(storage)


def outcomes(reporter: pytest.TerminalReporter) -> dict[tuple[str, str], dict[str, str]]:
    """By scenario and sampler, how it ended on each storage."""
    table: dict[tuple[str, str], dict[str, str]] = {}
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in reporter.stats.get(outcome, []):
            _, _, test = report.nodeid.partition(SCENARIOS)
            scenario, _, parameters = test.rstrip("]").partition("[")
            if parameters:
                sampler, kind = sorted(parameters.split("-"), key=KINDS.__contains__)
                table.setdefault((scenario, sampler), {})[kind] = outcome
    return table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    table = outcomes(terminalreporter)
    if not table:
        return
    terminalreporter.section("storages × scenarios")
    terminalreporter.write_line(f"{'':59}" + "".join(f"{kind:>11}" for kind in KINDS))
    for (scenario, sampler), row in sorted(table.items()):
        cells = "".join(f"{row.get(kind, '-'):>11}" for kind in KINDS)
        terminalreporter.write_line(f"{scenario.replace('_', ' '):42} {sampler:16}" + cells)
