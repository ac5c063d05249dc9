from stjax.benchmarks import hest_bench as bench_hest
from stjax.evaluation import linear_probe


def test_folds_are_as_many_as_the_benchmark_has():
    of = {task: bench_hest.folds(task, list(map(str, range(len(spots))))) for task, spots in bench_hest.SPOTS.items()}
    assert sum(map(len, of.values())) == 29
    assert sum(len(spots) for spots in bench_hest.SPOTS.values()) == 72
    assert sum(map(sum, bench_hest.SPOTS.values())) == 256_060
    assert [len(test) for _, test in of["CCRCC"]] == [4] * 6
    assert [len(test) for _, test in of["PRAD"]] == [8, 15]
    assert all(len({*train, *test}) == len(train) + len(test) for folds in of.values() for train, test in folds)


def test_the_regressions_are_timed_beside_scikit_learn_and_agree(monkeypatch):
    monkeypatch.setattr(bench_hest, "SPOTS", {"SKCM": (300, 200), "PAAD": (150, 150, 150)})
    monkeypatch.setattr(bench_hest, "WIDTH", 40)
    monkeypatch.setattr(bench_hest, "GENES", 3)
    monkeypatch.setattr(linear_probe, "COMPONENTS", 30)
    reference, ours = bench_hest.rows()
    assert [row["method"] for row in (reference, ours)] == ["scikit-learn", "stjax"]
    assert ours["speedup"] == reference["seconds"] / ours["seconds"]
    assert "5 folds" in ours["case"]
    assert float(ours["note"].split("within ")[1]) < 0.01
