"""A data set through an encoder: batches of one size through one compiled program, each on disk before the next."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_prep import cli, files
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import distributed, encoders, parallel
from stjax.data.items import filled
from stjax.features.embedder import MOMENTS, Embedder, check_scale, seen_px
from stjax.features.images import Images, SlideWindows, Windows, find_slides, items_of
from stjax.features.store import FOLDER, MAPS, MASK, VECTORS, Features, Writer, patches_sha256
from stjax.inference import stream


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled encoder, as `stream.in_turn` takes it."""

    mesh: Mesh
    predict: Callable[[np.ndarray], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Options:
    """What features to make.

    Attributes:
        encoder, weights, seed, pooling, compute: see `Embedder.open`.
        dtype: of the vectors as they are kept.
        batch_size: images of a step; 0: 8 a device, on GPUs 128, and of tiles as many pixels.
        maps: of tiles, keep the maps of tokens too.
        context: windows a side around each record's place, cut from the raw images below `source`.
        fields: sides of the windows around each record's place, in patches, see `images.fields_of`: what the encoder
            sees of each is one vector, of those that cover a patch the mean; they are cut from the raw images too.
        any_scale: see `check_scale`.
    """

    encoder: str
    weights: Path | None = None
    seed: int | None = None
    pooling: str = ""
    compute: str = "float32"
    dtype: str = "float32"
    batch_size: int = 0
    maps: bool = False
    context: int = 1
    fields: tuple[float, ...] = (1,)
    source: Path | None = None
    any_scale: bool = False


def embed(dataset: PatchDataset, name: str, options: Options, *, mesh: Mesh) -> Features:
    """Makes the features `name` of a data set, goes on with them, or finds them there.

    Raises:
        InputError: data set, weights, scale or folder do not fit.
    """
    path = dataset.path / FOLDER / files.check_name(name, "Features")
    scale = _seen_scale(dataset, options)
    slides = find_slides(options.source, dataset) if options.source else {}
    of_encoder = {key: getattr(options, key) for key in ("pooling", "seed")}
    embedder = Embedder.open(options.encoder, options.weights, dtype=options.compute, mesh=mesh, **of_encoder)
    platform = mesh.devices.flat[0].platform
    size = parallel.round_up(options.batch_size or _batch_size(dataset, embedder), mesh)
    of_data: dict[str, Any] = {"um_per_px": scale, "patches": patches_sha256(dataset)}
    if len(options.fields) > 1:
        of_data |= {"fields": list(options.fields), "width": len(options.fields) * embedder.width}
    key = embedder.key() | {key: getattr(options, key) for key in ("dtype", "context", "maps")} | of_data
    run = {"batch_size": size, "devices": mesh.size, "platform": platform}
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(Writer(path, key, run)) if distributed.is_writer() else None
        if distributed.any_process(writer is not None and writer.finished):
            print(f"{path}: there already")
        else:
            go_on = f"what is done is kept in {path}; the same command goes on with it"
            stack.enter_context(cli.when_interrupted(lambda: go_on))
            program = Program(mesh, embedder.compiled(tiles=dataset.kind == "tiles", maps=options.maps))
            shapes = _shapes(dataset, embedder, options)
            for section in dataset.sections:
                images = Images(dataset, section["name"])
                if slides:
                    layout = {"context": options.context, "fields": options.fields}
                    images = Windows(dataset, section["name"], slides[section["name"]], **layout)
                _write_section(program, section, images, writer, shapes=shapes, batch_size=size)
            if writer is not None:
                writer.finish()
        distributed.barrier("features are written")
    return Features.open(dataset, name)


def vectors_of(
    embedder: Embedder, images: SlideWindows, *, description: str, watch: Callable[[np.ndarray], None]
) -> np.ndarray:
    """[N, W, D] float32 of windows around N places of a slide, or of their fields; zeros of those that leave it.

    Args:
        description: for the progress bar.
        watch: is shown the patch of each place.
    """
    program, size, places = Program(embedder.mesh, embedder.of_patches), embedder.batch_size, len(images.inside)
    found = [images.joined(np.zeros((0, images.inside.shape[1], embedder.width), np.float32))]
    with cli.progress(total=places, description=description, unit="spot") as bar:
        for block, outputs in _blocks(program, images, range(places), batch_size=size, watch=watch):
            found.append(outputs[VECTORS])
            bar.update(len(block))
    return np.concatenate(found)


def _batch_size(dataset: PatchDataset, embedder: Embedder) -> int:
    """Images of a step: of tiles no more pixels than of patches, as attention grows with the square of a tile's."""
    encoder, most = embedder.encoder, embedder.batch_size
    return max(1, most * encoder.px**2 // dataset.size_px**2) if dataset.kind == "tiles" else most


def _seen_scale(dataset: PatchDataset, options: Options) -> dict[str, float]:
    """{section: um per px} as the encoder sees the data set's images; says what is done to them on the way.

    Raises:
        InputError: the wrong kind of data set, or a scale that does not match.
    """
    tiles, size = dataset.kind == "tiles", dataset.size_px
    if tiles and options.context > 1:
        raise InputError(f"--context is for patches, {dataset.path} holds tiles")
    if tiles and (len(options.fields) > 1 or options.pooling == MOMENTS):
        raise InputError(f"--fields and --pooling={MOMENTS} are for patches, {dataset.path} holds tiles")
    if options.maps and not tiles:
        raise InputError(f"--maps is for tiles, {dataset.path} holds patches; build one with --tile-size-px")
    encoder = encoders.find(options.encoder)
    seen = seen_px(encoder, size, tiles=tiles)
    ratio = size / seen
    scale = {section["name"]: section["um_per_px"] * section["px_scale"] * ratio for section in dataset.sections}
    if seen != size:
        cut = f", of which the middle {encoder.px} px count" if not tiles and seen != encoder.px else ""
        print(f"{dataset.path}: {dataset.kind} of {size} px are resized to {seen} px for {encoder.title}{cut}")
    check_scale(options.encoder, scale, any_scale=options.any_scale, remedy=_rebuild(encoder, ratio))
    return scale


def _rebuild(encoder: encoders.Encoder, ratio: float) -> str:
    """How to make a data set of the encoder's scale."""
    if encoder.um_per_px is None:
        return ""
    low, high = (each / ratio for each in encoder.um_per_px)
    return f"build the data set with --target-um-per-px {low:.3g}" + ("" if low == high else f" to {high:.3g}")


def _shapes(dataset: PatchDataset, embedder: Embedder, options: Options) -> dict[str, tuple[tuple[int, ...], Any]]:
    """{kind: shape of one record, dtype} of what is kept."""
    windows = (options.context**2,) if options.context > 1 else ()
    width = embedder.width * len(options.fields)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {VECTORS: ((*windows, width), options.dtype)}
    if windows:
        shapes[MASK] = (windows, bool)
    if options.maps:
        tile = jax.ShapeDtypeStruct((1, dataset.size_px, dataset.size_px, 3), np.uint8)
        shapes[MAPS] = (jax.eval_shape(embedder.maps, embedder.state, tile).shape[1:], options.dtype)
    return shapes


def _write_section(
    program: Program,
    section: dict[str, Any],
    images: Images,
    writer: Writer | None,
    *,
    shapes: dict[str, tuple[tuple[int, ...], Any]],
    batch_size: int,
) -> None:
    """Embeds the records of a section that are not yet there, a block of `batch_size` records after the other."""
    records = len(images.inside)
    done = 0 if writer is None else writer.begin(section, shapes, block=batch_size)
    done = int(distributed.gather(np.array([done]))[0])  # the writer is the first process
    with cli.progress(total=records, description=section["name"], unit="record") as bar, images.opened():
        bar.update(done)
        for block, found in _blocks(program, images, range(done, records), batch_size=batch_size):
            arrays = {name: as_kept(values, shapes[name][1], section["name"]) for name, values in found.items()}
            if MASK in shapes:
                arrays[MASK] = images.inside[block]
            if writer is not None:
                writer.write({name: values.reshape(len(block), *shapes[name][0]) for name, values in arrays.items()})
            bar.update(len(block))


def _blocks(
    program: Program,
    images: Images | SlideWindows,
    records: range,
    *,
    batch_size: int,
    watch: Callable[[np.ndarray], None] | None = None,
) -> Iterator[tuple[range, dict[str, np.ndarray]]]:
    """Blocks of records and what the encoder says of their images, {name: [n, W, ...], or of fields [n, F, ...]}; zeros
    where there is none.

    Args:
        watch: is shown the patch of each record.
    """
    windows = images.inside.shape[1]  # W
    blocks = [records[start : start + batch_size] for start in range(0, len(records), batch_size)]
    pixels = stream.ahead(
        lambda item: images.image(*item),
        (tuple(item) for block in blocks for item in items_of(images.inside, block).tolist()),
        most=batch_size + stream.THREADS,
    )

    def batches() -> Iterator[tuple[np.ndarray, tuple[range, np.ndarray]]]:
        for block in blocks:
            items = items_of(images.inside, block)
            for start in range(0, len(items), batch_size):
                part = items[start : start + batch_size]
                batch = np.stack(list(itertools.islice(pixels, len(part))))
                if watch is not None:
                    for image in batch[part[:, 1] == images.own]:
                        watch(image)
                yield filled(batch, batch_size), (block, part)

    results = stream.in_turn(program, batches())
    for block, parts in itertools.groupby(results, key=lambda result: result[1][0]):
        found: dict[str, np.ndarray] = {}
        for outputs, (_, items) in parts:
            for name, values in outputs.items():
                shape = (len(block), windows, *values.shape[1:])
                found.setdefault(name, np.zeros(shape, np.float32))
                found[name][items[:, 0] - block.start, items[:, 1]] = values[: len(items)]
        yield block, {name: images.joined(values) for name, values in found.items()}


def as_kept(values: np.ndarray, dtype: str, section: str) -> np.ndarray:
    """Values in the dtype that they are kept in. Raises InputError for what is no number in it."""
    if not np.isfinite(values).all():
        raise InputError(f"Section {section!r}: the encoder's features are not finite; use other weights")
    with np.errstate(over="ignore"):
        kept = values.astype(dtype)
    if not np.isfinite(kept).all():
        raise InputError(
            f"Section {section!r}: a feature of {np.abs(values).max():.3g} is none in {dtype}; use float32"
        )
    return kept
