"""What publish leaves in a study, and what it leaves alone."""

import builtins
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState
from optuna_dashboard import get_note, save_note
from security.logs import logged
from security.stores import MemoryStore

from optuna_hypergrad import (
    GradientSampler,
    PublishCallback,
    best_schedules,
    dashboard,
    lineage,
    lineage_schedules,
    publish,
    report_hypergradient,
    suggest_array,
    suggest_schedule,
)
from optuna_hypergrad.dashboard import figures
from optuna_hypergrad.dashboard.note import BEGIN, END, MAX_ROWS, merge, table
from optuna_hypergrad.reports import StoredDataError
from optuna_hypergrad.schedules import Schedules
from samplers import populations
from samplers.studies import create, quadratic

pytestmark = pytest.mark.usefixtures("sign_descent")


def search(n_trials: int = 5, **options: Any) -> optuna.Study:
    study = create(**options)
    study.optimize(quadratic, n_trials=n_trials)
    return study


def population(n_trials: int = 20) -> optuna.Study:
    study = populations.create(mutation="perturb")
    study.optimize(populations.bowl, n_trials=n_trials)
    return study


def stored(study: optuna.Study) -> dict[str, Any]:
    attributes: dict[str, Any] = study._storage.get_study_system_attrs(study._study_id)
    return attributes


def published(study: optuna.Study) -> dict[str, Any]:
    """The figures of a study as a dashboard reads them, by id."""
    ids = {key.split(":")[2] for key in stored(study) if key.startswith(figures.PREFIX)}
    return {id_: json.loads(figures.stored_figure(study, id_)) for id_ in ids}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (search, {"convergence", "schedules", "hypergradients", "step-sizes"}),
        (population, {"convergence", "lineage", "population", "mutations"}),
    ],
)
def test_figures_that_have_something_to_show(
    make: Callable[[], optuna.Study], expected: set[str]
) -> None:
    study = make()
    publish(study)
    found = published(study)
    assert {f"hg-{name}" for name in expected} <= {*found}
    for figure in found.values():
        assert figure["data"] and "width" not in figure["layout"]
        assert figure["layout"]["height"] == figures.HEIGHT
        assert len(json.dumps(figure)) < 30_000


def test_a_card_without_shades_has_no_colour_bar() -> None:
    def objective(trial: optuna.Trial) -> float:
        names = suggest_schedule(trial, "lr", 0, 1, windows=3).names
        values = {name: trial.suggest_float(name, 0, 1) for name in ("a", "b", "c")}
        report_hypergradient(trial, {name: 1.0 for name in (*names, *values)})
        return sum(values.values())

    study = create()
    study.optimize(objective, n_trials=3)
    publish(study)
    bars = {
        id_: sum("colorbar" in trace.get("marker", ()) for trace in figure["data"])
        for id_, figure in published(study).items()
    }
    assert bars["hg-hypergradients"] == bars["hg-step-sizes"] == 1
    assert bars["hg-hypergradients-2"] == bars["hg-step-sizes-2"] == 0


def test_a_second_call_changes_nothing() -> None:
    study, store = search(), MemoryStore()
    publish(study, store)
    before, files = stored(study), dict(store.files)
    publish(study, store)
    assert stored(study) == before and store.files == files


def test_a_later_call_replaces_what_was_there() -> None:
    study, store = search(2), MemoryStore()
    publish(study, store)
    ids = {*published(study)}
    assert study.user_attrs["hg:outer_steps"] == 2
    study.optimize(quadratic, n_trials=6)
    publish(study, store)
    assert {*published(study)} == ids
    assert study.user_attrs["hg:outer_steps"] == 8
    assert study.user_attrs["hg:best_trial"] == study.best_trial.number
    assert get_note(study).count("### Best schedule") == 1
    assert f"Trial **{study.best_trial.number}**" in get_note(study)
    assert len(store.files) == 4  # two files for each of two best trials


def test_files_hold_the_schedules() -> None:
    for study, expected in ((search(), best_schedules), (population(), lineage_schedules)):
        store = MemoryStore()
        publish(study, store)
        metas = get_all_artifact_meta(study)
        texts = {meta.mimetype: store.files[meta.artifact_id].decode() for meta in metas}
        assert {*texts} == {"text/csv", "application/json"}
        assert Schedules.from_csv(texts["text/csv"]) == expected(study)
        assert Schedules.from_json(texts["application/json"]) == expected(study)
        number = study.best_trial.number
        assert all(Path(meta.filename).stem.endswith(f"_trial_{number}") for meta in metas)


def test_the_note_has_a_column_for_each_schedule_and_the_rest_below() -> None:
    def objective(trial: optuna.Trial) -> float:
        names = ("lr", "noise")
        for name in names:
            suggest_schedule(trial, name, 0, 1, windows=2)
        suggest_schedule(trial, "warmup", 0, 1, windows=1, form="linear")
        suggest_schedule(trial, "fine", 0, 1, windows=MAX_ROWS + 2)
        trial.suggest_categorical("kind", ["a|b"])
        trial.suggest_int("depth", 3, 3)
        report_hypergradient(trial, {"lr_0": 1.0})
        return 1.5

    study = create()
    study.optimize(objective, n_trials=1)
    publish(study)
    rows = get_note(study).replace("\N{EM SPACE}", "").splitlines()
    assert "Trial **0** has the best value, **1.5**." in rows
    at = rows.index("| part | lr | noise |")
    assert rows[at + 2 : at + 4] == ["| 0 to 50 % | 0 | 0 |", "| 50 to 100 % | 0 | 0 |"]
    assert "| at 100 % | 0 |" in rows[rows.index("| part | warmup |") :]
    assert "… and 2 more rows." in rows
    at = rows.index("| hyperparameter | value |")
    assert rows[at + 2 : at + 4] == ["| kind | a\\|b |", "| depth | 3 |"]


def test_the_note_shows_the_lineage_of_the_best_member() -> None:
    study = population()
    publish(study)
    rows = [line.split("|")[1].strip() for line in get_note(study).splitlines() if line[:1] == "|"]
    assert rows[2:] == [str(one.trial) for one in reversed(lineage(study))]
    assert study.user_attrs["hg:members"] == 4 and study.user_attrs["hg:generations"] == 5


@pytest.mark.parametrize(
    "words", ["My own words.", "# A\n\n| my | table |\n| --- | --- |\n| 1 | 2 |"]
)
def test_what_people_wrote_stays(words: str) -> None:
    study = search(2)
    save_note(study, words)
    publish(study)
    save_note(study, get_note(study) + "\n\nAnd below.")
    study.optimize(quadratic, n_trials=5)
    publish(study)
    note = get_note(study)
    assert note.startswith(words) and note.endswith("And below.")
    assert note.count("### Best schedule") == 1


PARTS = [f"{BEGIN}\n\nOld table {i}.\n\n{END}" for i in range(2)]


@pytest.mark.parametrize(
    ("note", "stays"),
    [
        (PARTS[0].replace(END, "") + "Mine.", ["Old table 0.", "Mine."]),
        ("Mine.\n\n" + PARTS[0].replace(BEGIN, ""), ["Mine.", "Old table 0."]),
        (f"One.\n\n{PARTS[0]}\n\nTwo.\n\n{PARTS[1]}\n\nThree.", ["One.", "Two.", "Three."]),
        (f"{BEGIN}\n\nOne.\n\n{PARTS[0]}\n\nTwo.", ["One.", "Two."]),
        (f"{PARTS[0]}\n\nOne.\n\n{END}\n\nTwo.", ["One.", "Two."]),
        ("", []),
        (" \n", []),
    ],
)
def test_no_text_is_lost_with_the_marks(note: str, stays: list[str]) -> None:
    found = merge(note, "A table.")
    assert found.count(BEGIN) == found.count(END) == found.count("A table.") == 1
    words = [line for line in found.splitlines() if line and line not in (BEGIN, END, "A table.")]
    assert words == stays
    assert merge(found, "A table.") == found


def test_names_are_no_markup() -> None:
    name = r"a*b_c<img src=x>`d`$e$[f](g)|h\i~~j~~&lt;"
    cell = table([name], []).splitlines()[0]
    escaped = r"a\*b\_c\<img src=x\>\`d\`\$e\$\[f\](g)\|h\\i\~\~j\~\~\&lt;"
    assert cell == f"| {escaped}\N{EM SPACE} |"
    assert table(["a\r\nb"], []).startswith("| a b")


def test_an_empty_study_and_one_that_runs() -> None:
    study = create()
    publish(study, MemoryStore())
    assert stored(study) == {} and study.user_attrs == {}
    quadratic(study.ask())
    publish(study, MemoryStore())
    assert study.user_attrs == {}
    study.optimize(quadratic, n_trials=2)
    study.ask()
    publish(study)
    assert study.user_attrs["hg:best_trial"] == 2


def test_a_study_of_another_sampler_gets_its_convergence_only() -> None:
    study, store = search(3, sampler=optuna.samplers.RandomSampler(seed=0)), MemoryStore()
    publish(study, store)
    assert {*published(study)} == {"hg-convergence"}
    assert study.user_attrs == {} and get_note(study) == "" and store.files == {}


def test_a_population_that_failed() -> None:
    study = populations.create()
    for _ in range(6):
        populations.run(study, None, TrialState.FAIL)
    publish(study)
    assert get_note(study) == ""


def test_segments_that_differ_in_their_hyperparameters_have_no_schedules() -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x" if trial.number < 4 else "y", 0, 1)
        return -float(trial.number)

    study, store = populations.create(), MemoryStore()
    study.optimize(objective, n_trials=8)
    publish(study, store)
    assert "### Lineage" in get_note(study) and store.files == {}


def test_damaged_data_is_an_error() -> None:
    study = search(3)
    trial = study.get_trials(deepcopy=False)[1]
    trial.system_attrs["hg:claim"] = {"trial": 1, "chain": "x"}
    with pytest.raises(StoredDataError, match="hg:claim is damaged"):
        publish(study)


def test_a_figure_torn_by_two_workers_is_repaired() -> None:
    study = search()
    publish(study)
    figures_before = published(study)
    key = f"{figures.PREFIX}hg-schedules:0"
    study._storage.set_study_system_attr(study._study_id, key, "torn")
    with pytest.raises(ValueError):
        published(study)
    publish(study)
    assert published(study) == figures_before


def test_a_figure_that_another_worker_tears_meanwhile_is_saved_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save, saved = optuna_dashboard.save_plotly_graph_object, []

    def torn(study: optuna.Study, figure: Any, *, graph_object_id: str) -> None:
        save(study, figure, graph_object_id=graph_object_id)
        saved.append(graph_object_id)
        if saved.count(graph_object_id) <= 2:
            key = f"{figures.PREFIX}{graph_object_id}:0"
            study._storage.set_study_system_attr(study._study_id, key, "torn")

    monkeypatch.setattr(optuna_dashboard, "save_plotly_graph_object", torn)
    study = search()
    publish(study)
    assert saved.count("hg-schedules") == 3
    assert published(study)["hg-schedules"]["data"]


def test_workers_that_publish_at_once_leave_complete_figures(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    search(6, study_name="study", storage=storage)
    errors: list[Exception] = []

    def worker() -> None:
        try:
            publish(optuna.load_study(study_name="study", storage=storage))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    study = optuna.load_study(study_name="study", storage=storage)
    assert errors == [] and len(published(study)) >= 4
    assert get_note(study).count("### Best schedule") == 1


def test_several_objectives() -> None:
    study = optuna.create_study(directions=["minimize"] * 2)
    with pytest.raises(ValueError, match=r"study: .* it has several"):
        publish(study)


@pytest.mark.parametrize("call", [lambda: publish(create()), PublishCallback])
def test_without_the_dashboard_the_extra_is_named(
    call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def lacking(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "optuna_dashboard":
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(ImportError, match=r"optuna-dashboard is needed: .* 'dashboard'"):
        call()


def test_the_callback_publishes_after_every_few_trials() -> None:
    study, seen = create(), []

    def look(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        seen.append(study.user_attrs.get("hg:outer_steps"))

    study.optimize(quadratic, n_trials=7, callbacks=[PublishCallback(every=3), look])
    assert seen == [None, None, 3, 3, 3, 6, 6]


def test_of_several_threads_one_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[optuna.Study] = []

    def counted(study: optuna.Study, store: Any) -> None:
        seen.append(study)
        publish(study, store)

    monkeypatch.setattr(dashboard, "publish", counted)
    study = create(GradientSampler(seed=0, n_replicates=2))
    study.optimize(quadratic, n_trials=8, n_jobs=2, callbacks=[PublishCallback(every=4)])
    assert len(seen) == 2  # of eight trials
    assert study.user_attrs["hg:outer_steps"] >= 1
    assert get_note(study).count("### Best schedule") == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [(OSError("at host with password"), "builtins.OSError"), (ValueError("no"), "ValueError: no")],
)
def test_a_search_continues_if_publishing_fails(error: Exception, text: str) -> None:
    store = MemoryStore()
    store.error = error
    study = create()
    with logged() as texts:
        study.optimize(quadratic, n_trials=3, callbacks=[PublishCallback(1, store)])
    assert len(study.trials) == 3
    warnings = [one for one in texts if "was not published" in one]
    assert len(warnings) == 3 and all(text in warning for warning in warnings)
    assert not any("password" in warning for warning in warnings)


def test_files_whose_upload_failed_are_uploaded_the_next_time() -> None:
    store, study = MemoryStore(), create()
    study.optimize(quadratic, n_trials=3)
    store.error = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        publish(study, store)
    store.error = None
    publish(study, store)
    publish(study, store)
    assert len(store.files) == 2
    assert Schedules.from_csv(next(b for b in store.files.values() if b[:4] == b"name").decode())


def test_arrays_are_shown() -> None:
    study = optuna.create_study()

    def objective(trial: optuna.Trial) -> float:
        x = suggest_array(trial, "x", 0.0, 1.0, 10_000)
        report_hypergradient(trial, {"x": x - 0.3})
        return float(((x - 0.3) ** 2).sum())

    study.optimize(objective, n_trials=4)
    publish(study)
    figure = json.loads(figures.stored_figure(study, "hg-arrays"))
    cells = figure["data"][0]["z"]
    assert len(cells) == 100 and len(cells[0]) == 4
