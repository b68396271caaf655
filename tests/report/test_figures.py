"""The numbers of the run page: the best of a column and its ties, the agreement of metrics."""

import numpy as np
import pytest
import scipy.stats

from pipeline.report import figures


@pytest.fixture(scope="module")
def table(run):
    with run.connect() as connection:
        return figures.table(connection, "label")


def marked(table, metric, mark) -> set[str]:
    return {method for method, cells in table.cells.items() if metric in cells and cells[metric].mark == mark}


def test_controls_come_last_and_are_never_the_best(table):
    assert set(table.methods[-2:]) == {"random", "fake_cam"}
    for metric in table.metrics:
        assert not (marked(table, metric, "best") | marked(table, metric, "tied")) & {"random", "fake_cam"}


@pytest.mark.parametrize("metric", ["energy", "complexity", "deletion"])
def test_ties_are_the_methods_whose_paired_difference_to_the_best_may_be_zero(table, run, metric):
    """By hand: mean difference and its standard error over the images that both have."""
    rows = run.sql(f"SELECT image_id, method, {metric} AS value FROM metrics WHERE target IN ('none', 'label')").to_pylist()
    values: dict = {}
    for row in rows:
        if row["value"] is not None:
            values.setdefault(row["method"], {})[row["image_id"]] = row["value"]
    (best,) = marked(table, metric, "best")
    means = {method: np.mean(list(of.values())) for method, of in values.items() if method not in figures.CONTROLS}
    assert best == (max if table.better[metric] == "higher" else min)(means, key=means.get)
    for method in means.keys() - {best}:
        both = values[method].keys() & values[best].keys()
        differences = np.array([values[method][name] - values[best][name] for name in both])
        tied = abs(differences.mean()) <= 1.96 * scipy.stats.sem(differences)
        assert (method in marked(table, metric, "tied")) == tied, method


def test_agreement_is_spearmans_over_the_methods(table):
    for one, row in table.agreement.items():
        for other, value in row.items():
            methods = [method for method, cells in table.cells.items() if {one, other} <= cells.keys()]
            signs = [1 if table.better[metric] == "higher" else -1 for metric in (one, other)]
            means = [
                [sign * table.cells[method][metric].row["mean"] for method in methods]
                for metric, sign in zip((one, other), signs, strict=True)
            ]
            assert value == pytest.approx(scipy.stats.spearmanr(*means).statistic)
    assert table.agreement["energy"]["energy"] == pytest.approx(1)


def test_facts_name_the_network_and_count_what_is_missing(run):
    with run.connect() as connection:
        facts = dict(figures.facts(run, connection))
    assert facts["Images"] == "40 of 40 explained; 0 failed" and "tests.tiny:sharp" in facts["Network"]
    right = run.sql("SELECT 100 * avg((label = predicted)::INT) FROM predictions").column(0)[0].as_py()
    assert facts["Accuracy"] == f"{right:.1f} % of 40 labelled images are predicted as labelled"


def test_where_all_methods_are_equal_none_is_the_best():
    rows = [{"method": name, "mean": 0.0, "better": "higher"} for name in ("a", "b")]
    assert figures._best(rows) is None and figures._best([*rows, {"method": "c", "mean": 0.1, "better": "higher"}])["method"] == "c"
    assert figures._best([{"method": name, "mean": mean, "better": None} for name, mean in (("a", 1), ("b", 2))]) is None


def test_classes_are_counted_as_in_the_predictions(run):
    with run.connect() as connection:
        rows = figures.classes(connection, run.tables)
    assert sum(row["images"] for row in rows) == 40 and [row["accuracy"] for row in rows] == sorted(row["accuracy"] for row in rows)
    predictions = run.table("predictions").to_pylist()
    for row in rows:
        of_class = [prediction["predicted"] for prediction in predictions if prediction["label"] == row["class_id"]]
        wrong = [predicted for predicted in of_class if predicted != row["class_id"]]
        assert row["accuracy"] == pytest.approx(1 - len(wrong) / len(of_class)) and row["wrong"] == len(wrong)
        assert (row["taken_for"] is None) == (not wrong)
