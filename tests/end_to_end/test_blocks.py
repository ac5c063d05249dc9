"""One section divided in spatial blocks: trained on, validated and scored, of patches, features and tiles."""

import dataclasses
import functools
import json

import anndata
import numpy as np
import pytest

from data_prep import build, demo
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import audit, checkpoint, crossval, evaluate, export, models, predict, protocols, report, train, views
from stjax.config import built_in, resolve
from stjax.data.selection import Selection
from stjax.trained import load
from stjax.training import job
from tests.conftest import command
from tests.small_encoder import embed

pytestmark = pytest.mark.usefixtures("tiny_sections")
CAVEAT = "spatial blocks of one section whose other blocks it was trained on: they say nothing about other sections or"


@pytest.fixture(scope="module")
def slide(tmp_path_factory, small_encoder):
    """One raw Visium HD slide; patches around its bins of 16 um, which overlap, with features of one window and nine;
    and tiles with its bins of 8 and 16 um."""
    folder = tmp_path_factory.mktemp("blocks")
    demo.make_demo(folder / "raw", layout="visium_hd", patients=1, sections_per_patient=1, spots=6)
    options = {"min_counts": 0, "image_format": "raw"}
    build.build(folder / "raw", folder / "patches", patch_size_px=32, bin_um=[16], **options)
    build.build(folder / "raw", folder / "tiles", tile_size_px=64, bin_um=[8, 16], **options)
    embed(folder / "patches", "small", small_encoder)
    embed(folder / "patches", "around", small_encoder, context=3, source=folder / "raw")
    return folder


def settings(name, data, **changed):
    config = built_in(name)
    config.update({"data_dir": str(data), "split": "blocks", "protocol": "pixnet", "num_epochs": 2})
    config.update({"batch_size": 16, "eval_batch_size": 16})
    config.update(changed)
    return config


def of_probe(slide, weights, name="ridge_features", **changed):
    return settings(name, slide / "patches", features="small", encoder_weights=str(weights), **changed)


def of_tiles(slide, **changed):
    return settings("pixnet_tiny", slide / "tiles", batch_size=4, eval_batch_size=4, **changed)


def metrics_of(folder):
    (path,) = folder.glob("evaluation/*/metrics.json")
    return json.loads(path.read_text())


def parts_of(folder):
    (runs,) = load(folder).fold.blocks.parts.values()
    return np.repeat(runs["part"], runs["length"])


@pytest.fixture(scope="module")
def run(slide, tmp_path_factory):
    """A small EfficientNet trained on patches of the one section."""
    folder = tmp_path_factory.mktemp("runs") / "patches"
    train.train(settings("tiny", slide / "patches"), folder)
    return folder


# --------------------------------------------------------------------------------------------------- what is learnt


def begun(config, data):
    """The fold that a run begins with, and its view."""
    protocol = protocols.get_protocol(config.protocol)
    config = resolve(config, protocol, demo=False)
    view = views.get(models.view_of(config.model.module)).of_config(config)
    fold = job.make_fold(config, view, protocol, data)
    chosen = Selection(fold.divided(data), fold.split.train, protocol, train=True)
    opened, val = view.open(chosen, fold.panel), None
    if fold.split.val:
        val = view.open(Selection(chosen.dataset, fold.split.val, protocol, train=False), fold.panel)
    return view.fit(fold, protocol, opened, val), view


class Poisoned(PatchDataset):
    """A data set whose spots that are not trained on have other counts, and their images other colours."""

    def __init__(self, whole, blocks):
        super().__init__(whole.path, whole.manifest, whole.content_hash)
        self.blocks = blocks

    def tables(self, name, *, names=True):
        (table,), runs = super().tables(name, names=names), self.blocks.parts[name]
        other = np.repeat(runs["part"], runs["length"]) > 0
        counts = table.counts.toarray()
        counts[other] = 7 * counts[other, ::-1] + 1
        image = ~np.isin(np.arange(len(table.white_fraction)), table.record_of_spot[~other])
        assert other.any()
        assert image.any()
        mean, square = table.channel_mean.copy(), table.channel_mean_square.copy()
        mean[image], square[image] = 3.0, 5000.0
        total = np.where(other, counts.sum(axis=1), table.total_counts)
        made = {"counts": type(table.counts)(counts), "total_counts": total}
        yield dataclasses.replace(table, **made, channel_mean=mean, channel_mean_square=square)

    spot_tables = tables


@pytest.mark.parametrize("kind", ["patches", "features", "tiles"])
def test_nothing_is_learnt_of_spots_that_are_not_trained_on(kind, slide, small_encoder):
    config = {
        "patches": lambda: settings("tiny", slide / "patches"),
        "features": lambda: of_probe(slide, small_encoder),
        "tiles": lambda: of_tiles(slide),
    }[kind]()
    data = PatchDataset.open(config.data_dir)
    fold, _ = begun(config, data)
    again, _ = begun(config, Poisoned(data, fold.blocks))
    assert again.to_json() == fold.to_json()
    assert fold.blocks.num_spots["dropped"] > 0
    # All that is not trained on does change what is learnt where it is: the poison is one.
    everything = Poisoned(data, fold.blocks).table(data.sections[0]["name"])
    assert (everything.counts != data.table(data.sections[0]["name"]).counts).nnz


def squares(dataset, name, items, windows):
    """[N, 4] of the image that each item is, or of so many windows a side: read from the records."""
    source, scale = dataset.source((name,)), dataset.section(name)["px_scale"] * dataset.size_px
    origin = np.array([source[int(record)]["origin_xy"] for record in np.unique(items.images.record)])
    margin = (windows - 1) / 2 * scale
    return np.concatenate([origin - margin, origin + scale + margin], axis=1)


@pytest.mark.parametrize("kind", ["patches", "features", "windows", "tiles"])
def test_no_image_that_is_trained_on_overlaps_one_that_is_validated_or_tested_on(kind, slide, small_encoder):
    windows = 3 if kind == "windows" else 1
    config = {
        "patches": lambda: settings("tiny", slide / "patches"),
        "features": lambda: of_probe(slide, small_encoder),
        "windows": lambda: of_sections(slide, small_encoder),
        "tiles": lambda: of_tiles(slide),
    }[kind]()
    data, protocol = PatchDataset.open(config.data_dir), protocols.get_protocol(config.protocol)
    fold, view = begun(config, data)
    divided = fold.divided(data)
    shown = {}
    for part in ("train", "val", "test"):
        names = getattr(fold.split, part)
        opened = (view.open(Selection(divided, (name,), protocol, train=part == "train"), fold.panel) for name in names)
        shown[part] = np.concatenate(
            [squares(divided, n, each, windows) for n, each in zip(names, opened, strict=True)]
        )
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        a, b = shown[one][:, None], shown[other][None]
        assert not ((a[..., :2] < b[..., 2:]) & (b[..., :2] < a[..., 2:])).all(axis=-1).any()


def of_sections(slide, weights):
    config = settings("tiny", slide / "patches", features="around", encoder_weights=str(weights), spots_per_item=8)
    del config.model.options["rematerialise"]
    config.model.update({"module": "tiny_sections", "variant": "image+features+near+context", "aux": False})
    return config


# ------------------------------------------------------------------------------------------------ from end to end


def test_one_section_without_a_rule_is_told_of_blocks(slide, tmp_path):
    config = settings("tiny", slide / "patches", split="patients")
    with pytest.raises(InputError, match=r"no section is left to train on: .*--config.split=blocks"):
        train.train(config, tmp_path)


def test_results_say_what_they_are_of(run, capsys):
    metrics = metrics_of(run)
    assert CAVEAT in metrics["caveat"]
    assert metrics["sections"] == ["A1_016um_test"]
    assert metrics["part"] == "held-out"
    assert metrics["resampled"] == "spatial_blocks"
    assert {"model", "ridge_colour", "mean", "nearest_measured"} <= set(metrics["methods"])
    assert metrics["spots"] == np.sum(parts_of(run) == 2)
    capsys.readouterr()
    evaluate.evaluate(run)
    assert f"SPATIAL BLOCKS: the model's held-out results are for {CAVEAT}" in capsys.readouterr().out


def test_the_audit_finds_the_patient_known_by_choice_and_no_leak(run, capsys):
    audit.main([f"--workdir={run}"])  # exit code 0
    said = capsys.readouterr().out
    assert "same patient, by your choice patients: patient A is scored, and in training" in said
    assert "no image or counts of A1_016um_test are shown for spots of A1_016um_train, A1_016um_val" in said
    assert "gene panel: that of A1_016um_train alone" in said
    assert "statistics: that of A1_016um_train alone" in said


def test_the_audit_finds_a_leak_where_blocks_are_too_near(run, monkeypatch):
    """Were spots of a wider field of view dropped, the audit would see that these were not."""
    view, dataset = load(run).view, load(run).open_dataset()
    patch = type(view).field

    def wider(self, dataset, name):
        found = patch(self, dataset, name)
        return found._replace(side_px=6 * found.side_px)

    monkeypatch.setattr(type(view), "field", wider)
    with pytest.raises(SystemExit):
        audit.main([f"--workdir={run}", f"--data-dir={dataset.path}", "--sections=A1_016um_test"])


def test_the_report_the_card_and_predictions_say_so_too(run, slide, tmp_path, capsys):
    report.report([run], tmp_path / "report.html")
    assert CAVEAT in (tmp_path / "report.html").read_text()
    export.export(run, tmp_path / "model")
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert card.count(CAVEAT) == 2
    assert "Gene panel and all statistics are of the training blocks alone." in card
    capsys.readouterr()
    for name, model in (("run", run), ("exported", tmp_path / "model")):
        predict.predict(model, slide / "raw", tmp_path / name, sections=["A1_016um"])
        assert CAVEAT in capsys.readouterr().out
    both = [anndata.read_h5ad(tmp_path / name / "A1_016um.h5ad") for name in ("run", "exported")]
    assert all(CAVEAT in each.uns["stjax"]["caveat"] for each in both)
    np.testing.assert_allclose(both[0].X, both[1].X, atol=1e-5)
    saved = json.loads((tmp_path / "model" / "config.json").read_text())["data"]["blocks"]
    assert saved["parts"] == {}  # which spots were held out says where whose tissue lies
    assert "A1" not in json.dumps(saved)


def test_a_stopped_run_goes_on_with_the_same_blocks_to_the_same_weights(run, slide, tmp_path, monkeypatch):
    save = checkpoint.save

    def then_stop(*given):
        save(*given)
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", then_stop)
        with pytest.raises(SystemExit):
            train.train(settings("tiny", slide / "patches"), tmp_path)
    other = settings("tiny", slide / "patches")
    other.blocks.per_fold = 2
    with pytest.raises(InputError, match=r"blocks.per_fold was 1, is 2"):
        train.train(other, tmp_path)
    train.train(settings("tiny", slide / "patches"), tmp_path)
    assert load(tmp_path).model_sha256 == load(run).model_sha256
    assert load(tmp_path).fold.blocks == load(run).fold.blocks


@pytest.mark.slow
def test_cross_validation_scores_every_spot_once(slide, small_encoder, tmp_path, capsys):
    config = of_probe(slide, small_encoder)
    config.blocks.folds = 3
    found = crossval.crossval(config, tmp_path)
    assert [each["fold"] for each in found["runs"]] == [0, 1, 2]
    assert "each fold is scored on its own blocks; the model's held-out results" in capsys.readouterr().out
    scored = [
        anndata.read_h5ad(tmp_path / f"fold_{fold}/predictions/A1_016um_test.h5ad").obs_names for fold in range(3)
    ]
    every = PatchDataset.open(slide / "patches").table("A1_016um")
    assert sorted(np.concatenate(scored)) == sorted(every.spots.id)
    with pytest.raises(InputError, match="trained on other spatial blocks of these sections"):
        evaluate.evaluate(tmp_path / "fold_0", evaluate.Options(ensemble=[tmp_path / "fold_1"]))
    with pytest.raises(InputError, match="--choice=published trains on all patients"):
        crossval.crossval(config, tmp_path, choice="published")


def test_patients_cannot_be_named_beside_blocks(slide, tmp_path):
    with pytest.raises(InputError, match=r"config.test_patients names what is held out whole"):
        train.train(settings("tiny", slide / "patches", test_patients="A"), tmp_path / "run")
    with pytest.raises(InputError, match=r"config.split is 'spatial'; choose one of patients, blocks"):
        train.train(settings("tiny", slide / "patches", split="spatial"), tmp_path / "run")


def test_a_model_of_sections_sees_the_spots_of_its_part_alone(slide, small_encoder, tmp_path):
    train.train(of_sections(slide, small_encoder), tmp_path)
    fold = load(tmp_path).fold
    assert 0 < fold.blocks.num_spots["dropped"] == np.sum(parts_of(tmp_path) == 3)
    assert fold.blocks.field_um == pytest.approx(3 * 32 * fold.um_per_px)
    assert metrics_of(tmp_path)["sections"] == ["A1_016um_test"]
    config = of_sections(slide, small_encoder)
    config.model.variant += "+bank"
    with pytest.raises(InputError, match="there is one training section, A1_016um_train"):
        train.train(config, tmp_path / "bank")


@pytest.mark.slow
def test_one_visium_hd_section_trains_pixnet(slide, cache, tmp_path):
    options = ["--config.split=blocks", "--config.blocks.folds=4", "--config.batch_size=4", "--config.num_epochs=2"]
    options += ["--config.learning_rate=1e-3", f"--config.data_dir={slide / 'tiles'}", f"--workdir={tmp_path}"]
    said = command("stjax.train", "--config=configs/pixnet_tiny.py", *options, cache=cache).stdout
    assert CAVEAT in said
    metrics, blocks = metrics_of(tmp_path), load(tmp_path).fold.blocks
    assert f"note: {blocks.num_spots['dropped']} of 4630 spots, between the blocks, are dropped" in said
    assert set(metrics["sections"]) == {"A1_008um_test", "A1_016um_test"}
    assert metrics["spots"] == blocks.num_spots["test"]
    assert set(metrics["sizes_um"]) == {"8", "16"}
    assert blocks.slides == 1  # of two sections
    assert {each["verdict"] for each in metrics["audit"]} == {"ok", "same_patient"}


def test_sizes_that_are_made_are_made_of_a_parts_own_bins(slide):
    config = of_tiles(slide, spot_sizes_um="24")
    data, protocol = PatchDataset.open(config.data_dir), protocols.get_protocol(config.protocol)
    fold, view = begun(of_tiles(slide), data)
    divided = fold.divided(data)
    field = functools.partial(view.field, divided)
    bins = {part: divided.table(f"A1_008um_{part}") for part in ("train", "test")}
    for part, other in (("train", "test"), ("test", "train")):
        chosen = Selection(divided, (f"A1_008um_{part}",), protocol, train=False, sizes_um=(24.0,))
        items = view.open(chosen, fold.panel)
        assert items.total.sum() <= bins[part].total_counts.sum()
        scale = data.section("A1_008um")["um_per_px"]
        for xy, total in zip(items.spots.xy, items.total, strict=True):
            inside = (np.abs(bins[part].spots.xy - xy) <= 12.001 / scale).all(axis=1)
            assert total == bins[part].total_counts[inside].sum()
        theirs = field(f"A1_008um_{other}").middle_xy
        side = field(f"A1_008um_{other}").side_px
        source = divided.source((f"A1_008um_{part}",))
        for record in items.images.record:
            middle = source[int(record)]["origin_xy"] + side / 2
            assert (np.abs(theirs - middle).max(axis=1) >= side).all()
