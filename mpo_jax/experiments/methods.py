"""Which methods are compared, and with which settings? One line adds one: `"mine": Method(losses.Mine())`."""

import dataclasses
from collections.abc import Sequence

from mpo_jax import losses
from mpo_jax.data.chat import Example
from mpo_jax.data.pair_views import mismatched
from mpo_jax.experiments.world import DOMINANT, LONGEST, TARGETS
from mpo_jax.losses.base import PreferenceLoss

GRID = (2.5e-5, 5e-5, 1e-4, 2e-4)


@dataclasses.dataclass(frozen=True)
class Method:
    """A loss, and the learning rates from which one is chosen on a seed that is not reported. With `both` it trains on the target
    pairs and the distinct dominant pairs, one row each (`data.pairs=both`, as the paper trains its baselines), otherwise on
    parallel rows. `frozen`: what is not trained, as in `TrainConfig.frozen`."""

    loss: PreferenceLoss
    both: bool = False
    grid: tuple[float, ...] = GRID
    frozen: str = ""

    @property
    def group(self) -> int:
        """How many rows of a dominant prompt come together in a batch."""
        return len(TARGETS) if self.loss.policy_reads.groups else 1

    def rows(self, parallel: Sequence[Example]) -> Sequence[Example]:
        """The rows to train on, from parallel rows in which those of one dominant pair are next to each other."""
        rows = list(parallel)
        if self.both:
            dominant = {row.id.partition(".")[0]: row.source for row in rows}
            rows = [dataclasses.replace(row, source=None) for row in rows]
            rows += [Example(id, DOMINANT, None, pair) for id, pair in dominant.items() if pair is not None]
        if side := self.loss.policy_reads.mismatch:
            rows = mismatched(rows, side, LONGEST)
        if language := self.loss.reference_reads.parallel:
            pairs = {row.id: row.target for row in parallel}
            rows = [dataclasses.replace(row, parallel=pairs[f"{row.id.partition('.')[0]}.{language}"]) for row in rows]
        return rows


METHODS = {
    "sft": Method(losses.Sft(), both=True),
    "dpo": Method(losses.Dpo(), both=True),
    "ipo": Method(losses.Ipo(), both=True),
    "robust_dpo": Method(losses.RobustDpo(), both=True),
    "cpo": Method(losses.Cpo(), both=True),
    "kto": Method(losses.Kto(), both=True),
    "orpo": Method(losses.Orpo(), both=True),
    "length_regularized_dpo": Method(losses.LengthRegularizedDpo(), both=True),
    "simpo": Method(losses.Simpo(), both=True),
    "mpo": Method(losses.Mpo()),
    "mpo_no_retain": Method(losses.Mpo(retain=0.0)),
    "mpo_kl_of_policy": Method(losses.Mpo(retain_by="kl_of_policy")),
    "mpo_kl_of_reference": Method(losses.Mpo(retain_by="kl_of_reference")),
    "mpo_no_ln": Method(losses.Mpo(rg_normalize=False)),
    "mpo_policy": Method(losses.Mpo(gap_target="policy")),
    "mpo_constant_0.7": Method(losses.Mpo(gap_target="0.7")),
    "mpo_constant_1.58": Method(losses.Mpo(gap_target="1.58")),
    "mpo_language_a": Method(losses.Mpo(gap_target="a")),
    "mpo_mlc": Method(losses.Sum({"mpo": losses.Mpo(), "mlc": losses.Mlc()}, weights={"mlc": 0.8})),
    "cla": Method(losses.Cla()),
    "lens": Method(losses.Lens(), frozen="layers:1,embedding,final_norm"),  # the upper of two
}
SWEPT = ("sft", "dpo", "robust_dpo", "simpo", "mpo")  # under noise, unless others are named
