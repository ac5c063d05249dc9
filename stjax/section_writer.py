"""Predicts a section or slide, and writes the results in every format that is asked for."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from data_prep import files, json_files, system_errors
from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.patch_slide import open_image
from data_prep.section import Section
from data_prep.slide import Slide
from stjax import outputs, progress, trained, trust
from stjax.gene_sets import GeneSets
from stjax.inference import grid
from stjax.inference.prediction import SectionPrediction, gene_columns, with_sets
from stjax.inference.records import Record, spots_sha256
from stjax.inference.slide_prediction import about_image, lay_spots, predict_slide, symmetric
from stjax.inference.sources import Source
from stjax.targets import FORMULAS
from stjax.trained import Trained

_LEAST_BYTES = 2  # that a spot's value of a gene takes in a file, compressed


@dataclasses.dataclass(frozen=True)
class Options:
    """What is made of each section.

    Attributes:
        formats: modules of `stjax.outputs`.
        genes: which to write; default the model's main panel.
        array, min_tissue: of bare slides, see `grid.lay_grid`.
        tile_px: write the map of the whole slide too, in tiles of this side; None writes none.
        symmetries: predict means over the eight symmetries (spots, not maps).
        overwrite: replace results of another model or other options.
        weights: of a model of features, the file of its encoder's; default that of its training.
        floor: genes whose library-normalised PCC on held-out sections is not shown to reach it are marked; default
            `trust.FLOOR`, where the model was evaluated.
        gene_sets: a GMT file, whose sets are scored too.
    """

    formats: Sequence[str] = outputs.DEFAULT_FORMATS
    genes: Sequence[str] = ()
    array: grid.Array = grid.PRESETS["st"]
    min_tissue: float = grid.MIN_TISSUE
    tile_px: int | None = None
    symmetries: bool = False
    overwrite: bool = False
    weights: Path | None = None
    floor: float | None = None
    gene_sets: Path | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class SectionWriter:
    """What to do with each section; see `stjax.predict.predict`.

    Attributes:
        plain: the model without the mean over symmetries, whose deviation then tells how sure it is.
        writers: the formats' modules, by name.
        columns: [G] of the main panel, the genes to write.
        floor: genes below it are marked.
        gene_sets: to score.
    """

    model: Trained
    plain: Trained | None
    out: Path
    options: Options
    writers: dict[str, ModuleType]
    columns: np.ndarray
    floor: float
    gene_sets: GeneSets | None

    @classmethod
    def of(cls, folder: Path, out: Path, options: Options) -> "SectionWriter":
        """Raises InputError for a folder without a trained model, and for options that do not suit it."""
        writers = outputs.get_formats(options.formats)
        if not writers and not options.tile_px:
            raise InputError(f"--formats names nothing to write; choose some of {', '.join(outputs.format_names())}")
        grid.check(options.array, min_tissue=options.min_tissue)
        system_errors.check_folder(out, "--out")
        plain = trained.load(folder, encoder_weights=options.weights).on_slides
        progress.say(str(folder), plain.progress)
        if caveat := plain.fold.caveat:
            print(f"note: {caveat}")
        floor = trust.check_floor(trust.FLOOR if options.floor is None else options.floor)
        if options.tile_px:
            from stjax.inference.dense import check_maps  # with Flax, which spots of an exported model do without

            check_maps(plain)
        model, spread = symmetric(plain, options.symmetries)
        sets = None if options.gene_sets is None else GeneSets.read(options.gene_sets, model.fold)
        job = cls(model, spread, out, options, writers, gene_columns(model, options.genes), floor, sets)
        print(job.about_trust())
        return job

    def about_trust(self) -> str:
        """What is said first: in which units predictions are, and how many genes are below the floor.

        Raises:
            InputError: a floor is asked for, and how well genes are predicted is not known.
        """
        units = f"units: {FORMULAS[self.model.protocol.target]}"
        if (known := self.model.trust) is None:
            why = f"{self.model.folder} has no {trust.FILE} of such predictions (stjax evaluate writes it)"
            if self.options.floor is not None:
                raise InputError(f"--floor {self.floor:g}: {why}; evaluate the run, or leave out --floor")
            return f"{units}\nnote: which genes to believe is not known: {why}"
        below = int(known.below(self.floor)[self.columns].sum())
        return f"{units}; {below} of {len(self.columns)} genes are below the floor of {self.floor:g} and marked"

    def run(self, source: Source, name: str) -> list[Path]:
        """Predicts one section, unless its results are there; returns their files."""
        section = source.read(files.check_name(name, "Section"))
        busy = f"another process is predicting {name} into {self.out}; wait for it, or choose another --out"
        with files.lock(self.out / f".{name}.lock", busy=busy):
            return self.write_section(section, name, (source.array or self.options.array) if source.bare else None)

    def write_section(self, section: Section, name: str, array: grid.Array | None) -> list[Path]:
        """`run`, of a section that no other process writes meanwhile.

        Args:
            array: of a bare slide, what is laid on its tissue; None where the section has spots.
        """
        record = Record(self.out, name, self.identity(section, array), overwrite=self.options.overwrite)
        missing, tile_px = record.lacks(self.writers), self.options.tile_px
        written: list[Path] = []
        if missing or tile_px:
            with open_image(section) as slide:
                if tile_px:
                    for warning in () if missing else about_image(section, slide):  # else the spots' prediction says it
                        print(f"warning: {warning}")
                    written.append(self.write_dense(section, slide, tile_px))
                if missing:
                    prediction = self.predict(section, slide, array)
                    if self.gene_sets is not None:
                        prediction = with_sets(prediction, self.model, self.gene_sets)
                    for form in missing:
                        record.add(form, self.write(form, prediction))
        done = [*missing, *(["the map"] if tile_px else [])]
        print(f"{name}: " + ("written " + ", ".join(done) if done else "there already"))
        return written + [self.out / file for form in self.writers for file in record.files[form]]

    def identity(self, section: Section, array: grid.Array | None) -> dict[str, Any]:
        """What results are of; those of something else are not taken for them."""
        fold = self.model.fold
        learned = [fold.learned(), fold.protocol_hash, fold.stain_target, fold.image_size_px, fold.um_per_px]
        # The best epoch so far may stay the best: what says "2 of 30 epochs" is not left there once 30 are done.
        of = {} if self.model.progress.finished else {"trained": str(self.model.progress)}
        if (known := self.model.trust) is not None:
            of |= {"trust_sha256": known.sha256, "floor": self.floor}
        if self.gene_sets is not None:
            of |= {"gene_sets_sha256": self.gene_sets.sha256}
        return of | {
            "model_sha256": self.model.model_sha256,
            "training_sha256": json_files.digest(learned),
            "mean_over_symmetries": self.model.protocol.test_symmetries,
            "intervals": None if (intervals := self.model.intervals) is None else intervals.to_json(),
            "genes": fold.panel.labels[self.columns].tolist(),
            "slide_sha256": files.sha256(section.image_path),
            "um_per_px": section.um_per_px,
            "spots": dataclasses.asdict(array) | {"min_tissue": self.options.min_tissue}
            if array
            else spots_sha256(section),
        }

    def write_dense(self, section: Section, slide: Slide, tile_px: int) -> Path:
        """The map of the whole slide."""
        from stjax.inference.dense import predict_dense

        return predict_dense(
            self.model,
            slide,
            self.out / f"{section.name}.ome.zarr",
            um_per_px=section.um_per_px,
            genes=self.columns,
            tile_px=tile_px,
            synthetic=section.synthetic,
        )

    def predict(self, section: Section, slide: Slide, array: grid.Array | None) -> SectionPrediction:
        """Predicts the section's spots, or of a bare slide those laid on its tissue."""
        if array is None:
            outputs.require_space(self.out, len(section.spots) * len(self.columns) * _LEAST_BYTES)
            return predict_slide(self.model, section, slide, plain=self.plain, floor=self.floor)
        section, laid = lay_spots(self.model, section, slide, array, min_tissue=self.options.min_tissue)
        spacing = f"{array.spot_um:g} um, {array.pitch_um:g} um apart"
        print(f"{section.name}: {counted(len(laid), 'spots')} of {spacing}, on tissue")
        outputs.require_space(self.out, len(laid) * len(self.columns) * _LEAST_BYTES)
        how = {"plain": self.plain, "floor": self.floor}
        return predict_slide(self.model, section, slide, columns=laid.columns, **how)

    def write_trust(self) -> Path:
        """The table of the genes written, with the mark, next to the predictions."""
        from stjax.tables import write_csv  # with pandas

        assert self.model.trust is not None
        table = self.model.trust.marked(self.floor).iloc[self.columns]
        write_csv(self.out / trust.FILE, table)
        return self.out / trust.FILE

    def write(self, form: str, prediction: SectionPrediction) -> list[str]:
        """Writes one format; returns the files' names."""
        writer = self.writers[form]
        shown = outputs.drawn(prediction.expression, self.columns, asked=bool(self.options.genes))
        labels = self.model.fold.panel.labels
        files = {f"{prediction.section}{writer.SUFFIX}": int(shown[0])}
        if getattr(writer, "ONE_GENE", False):
            files = {
                f"{prediction.section}_{outputs.file_name(str(labels[gene]))}{writer.SUFFIX}": int(gene)
                for gene in shown
            }
        for file, gene in files.items():
            writer.write(self.out / file, prediction, self.model, genes=self.columns, shown=gene)
        if prediction.gene_sets is None or not getattr(writer, "ONE_GENE", False):
            return list(files)
        from stjax.outputs import _map  # with Matplotlib

        return [*files, *_map.write_sets(self.out, prediction, self.model, suffix=writer.SUFFIX)]
