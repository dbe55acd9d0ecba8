"""The password of a storage's URL appears nowhere: not in logs, warnings, attributes or errors."""

import ast
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import text

import servers
from optuna_hypergrad import PopulationSampler
from optuna_hypergrad.reports import StoredDataError, attributes
from optuna_hypergrad.reports.attributes import write_decision
from optuna_hypergrad.reports.objective import read_gradient
from samplers.populations import bowl
from security.logs import logged

SECRET = "hunter2"
EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_study_in_trouble_keeps_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "DELAYS", (0.01,))
    with (
        servers.fresh("postgresql") as address,
        warnings.catch_warnings(record=True) as warned,
        logged() as texts,
    ):
        warnings.simplefilter("always")
        url = sqlalchemy.make_url(address.url).set(password=SECRET)
        storage = RDBStorage(url.render_as_string(hide_password=False))
        study = optuna.create_study(storage=storage, sampler=PopulationSampler(seed=0))
        study.optimize(bowl, n_trials=2)
        trial = study.ask()
        trial.set_user_attr("hg:gradient", {"trial": "x"})
        with pytest.raises(StoredDataError) as damaged:
            read_gradient(study.trials[2])
        stored = [[t.user_attrs, t.system_attrs] for t in study.trials]
        storage.engine.dispose()
        close_down(url)
        with pytest.raises(StorageInternalError) as away:
            write_decision(storage, trial._trial_id, "hg:claim", {})
        storage.engine.dispose()
    visible = [*texts, *map(str, warned), str(damaged.value), str(away.value)]
    visible += [json.dumps(stored), repr(study.sampler)]
    assert any("StorageInternalError" in line for line in texts)
    assert not any(SECRET in line or address.url in line for line in visible)


def close_down(url: sqlalchemy.URL) -> None:
    """Let a database refuse all connections."""
    server = url.set(database="postgres")
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false"))
    engine.dispose()


PRINTING = {"print", "sys.exit", "sys.stdout.write", "sys.stderr.write", "parser.error"}


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("**/*.py")), ids=lambda path: str(path.relative_to(EXAMPLES))
)
def test_no_example_prints_the_url_that_it_was_given(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in PRINTING:
            printed = [word for part in (*node.args, *node.keywords) for word in words(part)]
            is_secret = any(secret in word for word in printed for secret in ("storage", "url"))
            assert not is_secret, ast.unparse(node)


def words(tree: ast.AST) -> Iterator[str]:
    """Names, attributes and keys in an expression; what text says beside them is no secret."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id.lower()
        elif isinstance(node, ast.Attribute):
            yield node.attr.lower()
        elif isinstance(node, ast.Subscript):
            yield ast.unparse(node.slice).lower()
