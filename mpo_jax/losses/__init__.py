"""The methods, one file each."""

from mpo_jax.losses.mpo import Mpo as Mpo
