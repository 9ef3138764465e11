"""What can be kept of a forward pass for its backward pass? The choices by name; what is not kept is recomputed."""

from collections.abc import Callable
from typing import Any

import jax

from mpo_jax.models.attention.api import SAVED_AS

_policies = jax.checkpoint_policies
# What the backward pass keeps of a layer beside its input; the rest is recomputed.
REMAT: dict[str, Callable[..., Any]] = {
    "none": _policies.everything_saveable,
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(SAVED_AS)
    ),
    "attention": _policies.save_only_these_names(SAVED_AS),
    "offload": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=[SAVED_AS], offload_src="device", offload_dst="pinned_host"
    ),
    "full": _policies.nothing_saveable,
}

LOGITS = ("recompute", "keep")  # in the backward pass: each block is computed a second time, or all are kept, in float32
