from stjax.benchmarks import ridge as bench_ridge


def test_the_ridge_is_timed_beside_scikit_learn_and_agrees(monkeypatch):
    for name, value in (("SAMPLES", 400), ("FEATURES", 20), ("TARGETS", 3)):
        monkeypatch.setattr(bench_ridge, name, value)
    reference, first, again = bench_ridge.rows()
    assert [row["method"] for row in (reference, first, again)] == ["scikit-learn", "stjax, first", "stjax"]
    assert first["speedup"] == reference["seconds"] / first["seconds"]
    assert float(again["note"].split("within ")[1].split(" ")[0]) < 1e-9
