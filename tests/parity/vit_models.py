"""Published encoders as timm, transformers and torchvision make them: what stjax's are compared with."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from stjax.encoders import DINOV2, HF_DINOV2, HF_VIT, TIMM, TORCHVISION
from tests.models.small_vits import HEADS, LAYERS

_LARGE = "vit_large_patch16_224"
_SCALED = {"init_values": 1e-5}
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
_UNI2 = {"img_size": 224, "embed_dim": 1536, "depth": 24, "num_heads": 24, "mlp_ratio": 2.66667 * 2, **_SCALED}
_VIRCHOW = {"mlp_ratio": 5.3375, **_SCALED, **_SWIGLU}
_H0_MINI = {"img_size": 224, "mlp_ratio": 5.33334, **_SWIGLU}
_GIANT = "vit_giant_patch14_reg4_dinov2"
_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}

# What the publishers' model cards give to timm.create_model.
TIMM_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "uni": (_LARGE, _SCALED),
    "uni2_h": ("vit_giant_patch14_224", {**_UNI2, **_SWIGLU, "reg_tokens": 8, "no_embed_class": True}),
    "virchow": ("vit_huge_patch14_224", _VIRCHOW),
    "virchow2": ("vit_huge_patch14_224", {**_VIRCHOW, "reg_tokens": 4}),
    "gigapath": ("vit_giant_patch14_dinov2", {"patch_size": 16, "img_size": 224, "mlp_ratio": 5.33334}),
    "h_optimus_0": (_GIANT, {"img_size": 224}),
    "h_optimus_1": (_GIANT, {"img_size": 224}),
    "h0_mini": ("vit_base_patch14_reg4_dinov2", _H0_MINI),
    "kaiko_s16": ("vit_small_patch16_224", {}),
    "kaiko_s8": ("vit_small_patch8_224", {}),
    "kaiko_b16": ("vit_base_patch16_224", {}),
    "kaiko_b8": ("vit_base_patch8_224", {}),
    "kaiko_l14": ("vit_large_patch14_reg4_dinov2", {"img_size": 518}),
    "lunit_s8": ("vit_small_patch8_224", {}),
    "lunit_s16": ("vit_small_patch16_224", {}),
    "gpfm": ("vit_large_patch14_dinov2", {"img_size": 224}),
    **{f"dinov2_{letter}": (f"vit_{size}_patch14_dinov2", {}) for letter, size in _SIZES.items()},
    **{f"dinov2_{letter}_reg": (f"vit_{size}_patch14_reg4_dinov2", {}) for letter, size in _SIZES.items()},
}
_WIDTHS = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "g": (1536, 40, 24)}
# Width, layers, heads, side of a patch and of the image, registers, SwiGLU: their config.json.
TRANSFORMERS_MODELS: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "phikon": (768, 12, 12, 16, 224, 0, False),
    "phikon_v2": (1024, 24, 16, 16, 224, 0, False),
    "hibou_b": (768, 12, 12, 14, 224, 4, True),
    "hibou_l": (1024, 24, 16, 14, 224, 4, True),
    "midnight_12k": (1536, 40, 24, 14, 518, 0, True),
    **{f"dinov2_{letter}": (*sizes, 14, 518, 0, letter == "g") for letter, sizes in _WIDTHS.items()},
    **{f"dinov2_{letter}_reg": (*sizes, 14, 518, 4, letter == "g") for letter, sizes in _WIDTHS.items()},
}


def build(name: str, family: str, *, small: bool) -> torch.nn.Module:
    """An encoder's network without a head, or of a shrunken copy of it (`small_vits.shrunken`)."""
    if family in (TIMM, DINOV2):
        return _timm(name, small=small)
    if family == TORCHVISION:
        return _torchvision(int(name.removeprefix("vit_b")), small=small)
    return _transformers(name, family, small=small)


def _timm(name: str, *, small: bool) -> torch.nn.Module:
    import timm

    kind, given = TIMM_MODELS[name]
    options: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True, **given}
    if "mlp_layer" in given:
        options |= {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    if small:
        with torch.device("meta"):
            whole = timm.create_model(kind, **options)
        width = HEADS * whole.embed_dim // whole.blocks[0].attn.num_heads
        options |= {"embed_dim": width, "depth": LAYERS, "num_heads": HEADS}
    return timm.create_model(kind, **options)


def _transformers(name: str, family: str, *, small: bool) -> torch.nn.Module:
    import transformers

    width, layers, heads, patch, px, registers, gated = TRANSFORMERS_MODELS[name]
    if small:
        width, layers, heads = HEADS * width // heads, LAYERS, HEADS
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "layer_norm_eps": 1e-6}
    sizes |= {"patch_size": patch, "image_size": px, "attn_implementation": "sdpa"}  # the other rounds to float32
    if family == HF_VIT:
        config = transformers.ViTConfig(**sizes, intermediate_size=4 * width)
        return transformers.ViTModel(config, add_pooling_layer=False)
    assert family == HF_DINOV2
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**sizes, use_swiglu_ffn=gated, num_register_tokens=registers)
        return transformers.Dinov2WithRegistersModel(config)
    return transformers.Dinov2Model(transformers.Dinov2Config(**sizes, use_swiglu_ffn=gated))


def _torchvision(patch: int, *, small: bool) -> torch.nn.Module:
    from stjax.benchmarks import pytorch

    network = pytorch.import_torchvision().models.VisionTransformer
    width, layers, heads = (64 * HEADS, LAYERS, HEADS) if small else (768, 12, 12)
    model = network(224, patch, layers, heads, width, 4 * width)
    model.heads = torch.nn.Identity()
    return model


def published(model: torch.nn.Module, family: str) -> dict[str, torch.Tensor]:
    """A network's arrays as its publisher's file has them."""
    if family in (HF_VIT, HF_DINOV2):
        from transformers.core_model_loading import revert_weight_conversion

        return dict(revert_weight_conversion(model, model.state_dict()))
    state = dict(model.state_dict())
    return _dinov2(state, gated="fc_norm" not in state and _gated(model)) if family == DINOV2 else state


def _gated(model: Any) -> bool:
    return type(model.blocks[0].mlp).__name__ == "GluMlp"


def _dinov2(state: dict[str, torch.Tensor], *, gated: bool) -> dict[str, torch.Tensor]:
    """timm's names as DINOv2 has them, of which timm's own conversion is the inverse."""
    found = {}
    for name, tensor in state.items():
        if gated:
            name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        found[name.replace("reg_token", "register_tokens")] = tensor
    token = state["cls_token"]
    if "reg_token" in state:
        found["pos_embed"] = torch.cat([token, state["pos_embed"]], dim=1)
    return {**found, "mask_token": token[0]}


def fill(model: Any, tensors: Mapping[str, np.ndarray], family: str) -> None:
    """Gives a network the numbers of a file, strictly, as its library reads it."""
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    if family in (HF_VIT, HF_DINOV2):
        import tempfile

        from safetensors.torch import save_file

        with tempfile.TemporaryDirectory() as folder:
            model.config.save_pretrained(folder)
            save_file(state, f"{folder}/model.safetensors", metadata={"format": "pt"})
            options = {"add_pooling_layer": False} if family == HF_VIT else {}
            read, said = type(model).from_pretrained(folder, output_loading_info=True, **options)
        assert not any(said[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), said
        state = read.state_dict()
    elif family == DINOV2:
        from timm.models.vision_transformer import checkpoint_filter_fn

        state = checkpoint_filter_fn(state, model)
    model.load_state_dict(state, strict=True)


@torch.no_grad()
def run(model: Any, images: np.ndarray, family: str, *, precision: str) -> np.ndarray:
    """[B, px, px, 3] to every token at the end, [B, 1 + R + N, D]."""
    model = model.to(getattr(torch, precision)).eval()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(getattr(torch, precision))
    if family in (TIMM, DINOV2):
        return model.forward_features(x).numpy()
    if family == TORCHVISION:
        tokens = torch.cat([model.class_token.expand(len(x), -1, -1), model._process_input(x)], dim=1)
        return model.encoder(tokens).numpy()
    native = family != HF_VIT or images.shape[1] == model.config.image_size
    options = {} if native else {"interpolate_pos_encoding": True}
    return model(x, **options).last_hidden_state.numpy()
