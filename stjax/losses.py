"""Training losses over measured spots. Arrays are [B, S, G], masks [B, S]; means divide by the mask's sum.

A mask may hold weights instead of ones: sizes of spots then count as asked. Another loss is one entry of `LOSSES`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from data_prep.errors import InputError
from stjax.ops.negative_binomial import negative_binomial

_TINY = 1e-8


def masked_mse(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared error over measured spots and genes, float32.

    Args:
        prediction, target: [B, S, G].
        mask: [B, S], 1 where a spot was measured.
    """
    if prediction.shape[-1] == 0:
        return jnp.zeros((), jnp.float32)
    square = jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32))
    return jnp.sum(jnp.mean(square, axis=-1) * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def main_aux_mse(
    outputs: dict[str, jax.Array], targets: dict[str, jax.Array], mask: jax.Array, *, aux_weight: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """BrST-Net's `L = L_main + lambda L_aux`, each a mean squared error (Sci Rep 2023, Methods; published code).

    Returns:
        The loss, and its parts by name.
    """
    main = masked_mse(outputs["main"], targets["main"], mask)
    parts = {"loss_main": main}
    loss = main
    if "aux" in outputs:
        parts["loss_aux"] = masked_mse(outputs["aux"], targets["aux"], mask)
        loss = loss + aux_weight * parts["loss_aux"]
    return loss, {"loss": loss, **parts}


def masked_pearson(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pearson correlation of each gene over the measured spots of the whole batch.

    Returns:
        [G] correlations, and [G] 1 for a gene whose target varies, 0 for one that has no correlation.
    """
    weight = mask[..., None] / jnp.maximum(jnp.sum(mask), 1.0)

    def centred(values: jax.Array) -> jax.Array:
        values = values.astype(jnp.float32)
        return values - jnp.sum(values * weight, axis=(0, 1), keepdims=True)

    p, t = centred(prediction), centred(target)
    both, of_p, of_t = (jnp.sum(weight * a * b, axis=(0, 1)) for a, b in ((p, t), (p, p), (t, t)))
    varies = (of_t > _TINY).astype(jnp.float32)
    return varies * both * jax.lax.rsqrt((of_p + _TINY) * (of_t + _TINY)), varies


def _less_than_one(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """1 - the mean of `masked_pearson` over the genes that vary."""
    correlation, varies = masked_pearson(prediction, target, mask)
    return 1 - jnp.sum(correlation) / jnp.maximum(jnp.sum(varies), 1.0)


def mse_pcc(
    outputs: dict[str, jax.Array],
    targets: dict[str, jax.Array],
    mask: jax.Array,
    *,
    aux_weight: float = 1.0,
    pcc_weight: float = 0.5,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """PixNet's `L = L_mse + lambda (1 - mean over genes of the batch's PCC)` (equation 6, lambda 0.5 in the text).

    Genes that do not vary over the batch are left out of the mean.

    Returns:
        The loss, and its parts by name.
    """
    mse, parts = main_aux_mse(outputs, targets, mask, aux_weight=aux_weight)
    pcc = _less_than_one(outputs["main"], targets["main"], mask)
    loss = mse + pcc_weight * pcc
    return loss, parts | {"loss": loss, "loss_pcc": pcc}


def additive_nll(
    outputs: dict[str, jax.Array], counts: jax.Array, total: jax.Array, mask: jax.Array, *, total_weight: float = 0.1
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Negative log-likelihood of counts given rates summed over spots: of each gene, and of the spot's total.

    Given the total T, gene g is negative binomial of mean T y_g / sum(y): sums are normalised after aggregation, so
    depth, which says little about tissue, does not touch the genes. The total itself is negative binomial of mean
    sum(y), which gives the rates their scale.

    Args:
        outputs: "rates" [B, S, M + 1], all other genes last, and "dispersion" [M + 2], the totals' last.
        counts: [B, S, M] raw counts of the panel's genes.
        total: [B, S, 1] raw counts of all genes.
        mask: [B, S]; a spot without a pixel has no rate and must be masked.

    Returns:
        The mean over spots of the genes' mean plus `total_weight` times the total's, and its parts by name.
    """
    rates, dispersion = outputs["rates"], outputs["dispersion"]
    every = jnp.concatenate([counts, jnp.maximum(total - jnp.sum(counts, axis=-1, keepdims=True), 0)], axis=-1)
    expected = jnp.sum(rates, axis=-1, keepdims=True)  # [B, S, 1]
    of_genes = negative_binomial(every, total * rates / (expected + _TINY), dispersion[None, None, :-1])
    of_total = negative_binomial(total, expected, dispersion[None, None, -1:])[..., 0]
    spots = jnp.maximum(jnp.sum(mask), 1.0)
    genes, totals = jnp.sum(jnp.mean(of_genes, axis=-1) * mask) / spots, jnp.sum(of_total * mask) / spots
    loss = genes + total_weight * totals
    return loss, {"loss": loss, "loss_main": genes, "loss_total": totals}


def additive_expression(rates: jax.Array, transform: Callable[[Any, Any], jax.Array]) -> jax.Array:
    """Expected counts [..., M + 1] to expression [..., M] in a protocol's units, normalised after aggregation.

    Args:
        transform: the protocol's, of counts [..., M] and totals [..., 1].
    """
    return transform(rates[..., :-1], jnp.sum(rates, axis=-1, keepdims=True))


def triplex(
    outputs: dict[str, jax.Array], targets: dict[str, jax.Array], mask: jax.Array, *, distilled: float = 0.3
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """TRIPLEX's: the fusion's squared error and, of each other head, that to the targets and to the fusion.

    Args:
        outputs: "main", of the fusion, and the other heads, [B, S, M] each; gradients go through both.
        distilled: weight of the error to the fusion; that to the targets has the rest of 1.

    Returns:
        The loss, and its parts by name.

    Raises:
        InputError: the model has one head.
    """
    main = outputs["main"]
    parts = {"loss_main": masked_mse(main, targets["main"], mask)}
    if len(outputs) == 1:
        raise InputError("config.loss is 'triplex', which is of several heads, and this model has one; choose 'mse'")
    for name, head in outputs.items():
        if name != "main":
            own, other = masked_mse(head, targets["main"], mask), masked_mse(main, head, mask)
            parts[f"loss_{name}"] = (1 - distilled) * own + distilled * other
    loss = sum(parts.values(), jnp.zeros(()))
    return loss, {"loss": loss, **parts}


def zero_shot(
    outputs: dict[str, jax.Array], targets: dict[str, jax.Array], mask: jax.Array, *, as_released: bool = False
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """SGN's `L = L_mse + 0.5 (1 - mean PCC)` over some of AuxNet's genes; the main ones are not looked at.

    Targets are standardised over the batch: genes of any level and spread are learnt alike, and what a model says of
    others is in standard deviations.

    Args:
        outputs: "aux" [B, S, K] of the genes "aux_genes" [K] of AuxNet.
        as_released: correlate the predictions with the first K genes, whichever they are of.

    Raises:
        InputError: the model has no such outputs.
    """
    if "aux_genes" not in outputs:
        raise InputError(
            "config.loss is zero_shot, of genes that are not main: give an SGN --config.model.aux=True and "
            "--config.model.options.genes=zero_shot"
        )
    every = targets["aux"].astype(jnp.float32)
    weight = (mask / jnp.maximum(jnp.sum(mask), 1.0))[..., None]
    chosen = jnp.take(every, outputs["aux_genes"], axis=-1)
    centred = chosen - jnp.sum(chosen * weight, axis=(0, 1), keepdims=True)
    chosen = centred * jax.lax.rsqrt(jnp.sum(weight * centred**2, axis=(0, 1), keepdims=True) + _TINY)
    mse = masked_mse(outputs["aux"], chosen, mask)
    beside = every[..., : chosen.shape[-1]] if as_released else chosen
    pcc = _less_than_one(outputs["aux"], beside, mask)
    loss = mse + 0.5 * pcc
    return loss, {"loss": loss, "loss_aux": mse, "loss_pcc": pcc}


def bleep(
    outputs: dict[str, jax.Array], targets: dict[str, jax.Array], mask: jax.Array, *, detach: bool = False
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """BLEEP's contrastive loss of the embeddings v of patches and s of expression of the batch's spots.

    With scores L = s v' and P = softmax((v v' + s s') / 2) of each row, half the mean cross-entropy of L with P plus
    that of L' with P' (Xie et al. 2023, section 3.1; the rows of P' do not sum to 1 in the published code, nor here).
    Without embeddings, when predicting, it is 1 - the mean PCC of what was retrieved: what a checkpoint is chosen by.

    Args:
        outputs: "main" and, when training, "image_embedding" and "expression_embedding" [B, S, D], which hold the
            root of the temperature.
        detach: let no gradient through P.
    """
    if "image_embedding" not in outputs:
        loss = _less_than_one(outputs["main"], targets["main"], mask)
        return loss, {"loss": loss}
    v, s = (outputs[name].astype(jnp.float32) for name in ("image_embedding", "expression_embedding"))
    v, s, weight = v.reshape(-1, v.shape[-1]), s.reshape(-1, s.shape[-1]), mask.reshape(-1)
    there = (weight > 0).astype(jnp.float32)
    unseen = 1e9 * (there - 1)[None]
    scores = s @ v.T
    alike = jax.nn.softmax((v @ v.T + s @ s.T) / 2 + unseen, axis=-1) * there[:, None]
    alike = jax.lax.stop_gradient(alike) if detach else alike
    rows = jnp.sum(alike * jax.nn.log_softmax(scores + unseen, axis=-1), axis=-1)
    columns = jnp.sum(alike.T * jax.nn.log_softmax(scores.T + unseen, axis=-1), axis=-1)
    loss = -jnp.sum((rows + columns) * weight) / (2 * jnp.maximum(jnp.sum(weight), 1.0))
    return loss, {"loss": loss}


Loss = Callable[[dict[str, jax.Array], dict[str, jax.Array], dict[str, Any], float], tuple[jax.Array, dict[str, Any]]]

# {config.loss: function of outputs, targets, batch and the weight of AuxNet}
LOSSES: dict[str, Loss] = {
    "mse": lambda out, targets, batch, aux: main_aux_mse(out, targets, batch["mask"], aux_weight=aux),
    "mse_pcc": lambda out, targets, batch, aux: mse_pcc(out, targets, batch["mask"], aux_weight=aux),
    "triplex": lambda out, targets, batch, _: triplex(out, targets, batch["mask"]),
    "zero_shot": lambda out, targets, batch, _: zero_shot(out, targets, batch["mask"]),
    "zero_shot_as_released": lambda out, targets, batch, _: zero_shot(out, targets, batch["mask"], as_released=True),
    "bleep": lambda out, targets, batch, _: bleep(out, targets, batch["mask"]),
    "bleep_detached": lambda out, targets, batch, _: bleep(out, targets, batch["mask"], detach=True),
    "additive_nll": lambda out, _, batch, __: additive_nll(out, batch["counts"], batch["total"], batch["mask"]),
}


def get_loss(name: str, *, additive: bool) -> Loss:
    """The loss called `name`.

    Args:
        additive: whether the model gives rates, which only "additive_nll" is for.

    Raises:
        InputError: no such loss, or not for this model.
    """
    fitting = [known for known in LOSSES if (known == "additive_nll") == additive]
    if name not in fitting:
        raise InputError(f"config.loss is {name!r}; choose {', '.join(fitting)} for this model")
    return LOSSES[name]
