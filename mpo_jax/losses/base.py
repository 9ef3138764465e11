"""What is a method?"""

from typing import Protocol

from mpo_jax.types import Reads, RowLoss, Scores


class PreferenceLoss(Protocol):
    """Maps what the policy and the reference say of B rows to B losses. It never sees parameters, tokens, meshes or
    reductions; what it does not declare in its reads is never computed."""

    @property
    def policy_reads(self) -> Reads: ...

    @property
    def reference_reads(self) -> Reads: ...

    def __call__(self, policy: Scores, reference: Scores) -> RowLoss: ...
