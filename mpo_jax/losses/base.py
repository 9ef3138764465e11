"""What is a method? The contract of all methods, and what those on one side's pairs have in common."""

import dataclasses
import inspect
from typing import Any, ClassVar, Protocol, cast

import jax.numpy as jnp

from mpo_jax.errors import InputError, check_choice
from mpo_jax.types import Array, Numbers, Pair, Reads, RowLoss, Scores, SequenceScores, Want

# How negative log-likelihoods become the loss of a batch: mean over rows of the mean over a row's tokens; mean over all tokens of
# the batch; mean over rows of the sum over a row's tokens.
NLL_REDUCTIONS = ("row_mean", "token_mean", "sum")


class PreferenceLoss(Protocol):
    """Maps the policy's and the reference's scores of B rows to B losses. It never sees parameters, tokens, meshes or reductions;
    what it does not declare in its reads is never computed.

    The further arguments of a call are the numbers of the equation. Each has the name of the field that holds its value. So
    compiled programs can take them as arguments, and runs that differ only in them share a program."""

    @property
    def policy_reads(self) -> Reads: ...

    @property
    def reference_reads(self) -> Reads: ...

    def __call__(self, policy: Scores, reference: Scores, /, *args: Any, **numbers: Any) -> RowLoss: ...


def numbers_of(loss: PreferenceLoss) -> Numbers:
    """The numbers of a method's equation by name, from its fields; a tree where a method contains other methods."""
    _, _, *names = inspect.signature(loss.__call__).parameters
    return {name: _number(getattr(loss, name)) for name in names}


def files_of(loss: PreferenceLoss) -> dict[str, str]:
    """The local files that a call reads, whose contents are part of the method, by the dotted name of the field that holds their
    path, which is declared with the metadata {"file": True}."""
    found = {}
    for field in dataclasses.fields(cast(Any, loss)):
        value = getattr(loss, field.name)
        if field.metadata.get("file"):
            found[field.name] = value
        elif isinstance(value, dict):
            terms = {name: files_of(cast(Any, term)) for name, term in value.items() if dataclasses.is_dataclass(term)}
            found |= {f"{field.name}.{name}.{own}": path for name, of in terms.items() for own, path in of.items()}
    return found


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _number(part) for name, part in value.items()}
    return value if isinstance(value, int | float) else numbers_of(value)


@dataclasses.dataclass
class OneSided:
    """A method on the log-probabilities of one side's pairs: 'target', or 'source' for the dominant language."""

    anchored: ClassVar[bool]  # whether it reads the reference's log-probabilities too
    mismatched: ClassVar[bool] = False  # whether it also reads prompts with the answers of other rows
    side: str = dataclasses.field(default="target", kw_only=True)

    @property
    def policy_reads(self) -> Reads:
        source, target = (Want.LOGP if self.side == side else Want.NOTHING for side in ("source", "target"))
        return Reads(source, target, mismatch=self.side if self.mismatched else "")

    @property
    def reference_reads(self) -> Reads:
        return self.policy_reads if self.anchored else Reads()

    def pair(self, scores: Scores) -> Pair:
        pair = scores.target if self.side == "target" else scores.source
        assert pair is not None
        return pair

    def log_ratios(self, policy: Scores, reference: Scores) -> tuple[Array, Array]:
        """log p_policy - log p_reference of the chosen and of the rejected answers, nats, sums over tokens, (B,) each."""
        ours, theirs = self.pair(policy), self.pair(reference)
        return (
            ours.chosen.sum_logp_B - theirs.chosen.sum_logp_B,
            ours.rejected.sum_logp_B - theirs.rejected.sum_logp_B,
        )

    def check(self, **positive: float) -> None:
        """Refuses an unknown side, and settings that are not above 0."""
        check_choice("loss.side", self.side, ("target", "source"))
        for name, value in positive.items():
            if not value > 0:
                raise InputError(f"loss.{name}={value} must be above 0.")


def nll(answer: SequenceScores, reduction: str) -> Array:
    """The negative log-likelihood of B answers, f32 (B,), scaled so that its mean over rows is the loss under `reduction`
    (`NLL_REDUCTIONS`)."""
    if reduction == "row_mean":
        return -answer.mean_logp_B
    if reduction == "sum":
        return -answer.sum_logp_B
    assert answer.batch_mean_count is not None
    return -answer.sum_logp_B / answer.batch_mean_count


def row_loss(loss_B: Array, pair: Pair, rewards: tuple[Array, Array], parts: dict[str, Array] | None = None) -> RowLoss:
    """A `RowLoss` with TRL's metric names: the method's implicit rewards of the chosen and rejected answers, and its `parts`."""
    chosen_B, rejected_B = rewards
    gap_B = pair.mean_gap_B
    return RowLoss(
        loss_B=loss_B,
        metrics_B={
            "rewards/chosen": chosen_B,
            "rewards/rejected": rejected_B,
            "rewards/accuracies": (chosen_B > rejected_B).astype(jnp.float32),
            "rewards/margins": chosen_B - rejected_B,
            **(parts or {}),
        },
        by_language_B={"gap": gap_B, "accuracy": (gap_B > 0).astype(jnp.float32)},
    )
