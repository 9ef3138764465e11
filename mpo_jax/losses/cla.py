"""Contrastive alignment of translated prompts."""

import dataclasses

import jax
import jax.numpy as jnp

from mpo_jax.errors import InputError, check_choice
from mpo_jax.losses.base import NLL_REDUCTIONS, nll, row_loss
from mpo_jax.losses.mlc import check_layer, unit
from mpo_jax.types import Array, Number, Reads, RowLoss, Rows, Scores, Want

NEVER = -1e30  # the logit of what is no candidate: finite, so that a row of filling has a finite loss


@dataclasses.dataclass
class Cla:
    """Cross-lingual alignment after pre-training: translated prompts are alike in the first layer, and their answers are learnt.

        L = contrastive * L_mcl + instruction * NLL(w)
        L_mcl = -log softmax_j(cos(h(x_i), h(y_j)) / temperature)[i]

    C. Li et al., "Improving In-context Learning of Multilingual Generative Language Models with Cross-lingual Alignment",
    NAACL 2024, arXiv:2311.08089 ("align after pre-training", AFP). x_i is a row's dominant prompt, y_j the target prompt of a row
    of the batch, and h the state of the last token after the first `layer` layers. One direction only, as in the authors' code.
    w is the chosen answer of the target side; rows whose answer is in another language than their prompt, as in half of the
    authors' data, are a matter of the data. `reduction`: see `base.NLL_REDUCTIONS`. The rejected answers are read only for the
    metrics.

    The negatives are the targets of all rows of the batch, on all devices, but those of the same dominant prompt, which are
    translations too (the authors' data has each prompt once). Gradients go through both prompts; the authors' code has none
    through the negatives of other devices.
    """

    contrastive: float = 1.0
    instruction: float = 1.5
    temperature: float = 0.05
    layer: int = 1
    reduction: str = "token_mean"

    def __post_init__(self) -> None:
        check_layer(self.layer)
        check_choice("loss.reduction", self.reduction, NLL_REDUCTIONS)
        if not self.temperature > 0 or self.contrastive < 0 or self.instruction < 0:
            raise InputError(
                f"loss.temperature={self.temperature} must be above 0, and loss.contrastive={self.contrastive} and "
                f"loss.instruction={self.instruction} must not be negative."
            )

    @property
    def policy_reads(self) -> Reads:
        return Reads(source=Want.PROMPT, target=Want.PROMPT | Want.LOGP, layer=self.layer, contrast=True)

    @property
    def reference_reads(self) -> Reads:
        return Reads()

    def __call__(
        self, policy: Scores, reference: Scores, contrastive: Number, instruction: Number, temperature: Number
    ) -> RowLoss:
        """All per row, f32 (B,)."""
        pair, rows = policy.target, policy.rows
        assert pair is not None and rows is not None
        source_BD, target_BD = unit(policy.prompts["source"]), unit(policy.prompts["target"])
        similarity_BB = jnp.matmul(source_BD, target_BD.T, precision=jax.lax.Precision.HIGHEST)
        logits_BB = jnp.where(candidates(rows), similarity_BB / temperature, NEVER)
        contrastive_B = -jnp.diagonal(jax.nn.log_softmax(logits_BB, axis=1))
        nll_B = nll(pair.chosen, self.reduction)
        rewards = (pair.chosen.mean_logp_B, pair.rejected.mean_logp_B)
        found = jnp.argmax(logits_BB, axis=1) == jnp.arange(len(nll_B))
        parts = {"loss/contrastive": contrastive_B, "loss/nll": nll_B, "retrieval": found.astype(jnp.float32)}
        learnt = row_loss(contrastive * contrastive_B + instruction * nll_B, pair, rewards, parts)
        return dataclasses.replace(learnt, by_language_B=learnt.by_language_B | {"cosine": jnp.diagonal(similarity_BB)})


def candidates(rows: Rows) -> Array:
    """Which target prompts each row's dominant prompt is compared with, bool (B, B): its own, and those of other dominant prompts
    in rows that do not only fill up the batch."""
    own_BB = jnp.eye(len(rows.weight_B), dtype=bool)
    return own_BB | ((rows.prompt_B[:, None] != rows.prompt_B[None]) & (rows.weight_B[None] > 0))
