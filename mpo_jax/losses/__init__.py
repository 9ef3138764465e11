"""What is the equation of a method? One file for each."""

from mpo_jax.losses.cla import Cla as Cla
from mpo_jax.losses.cpo import Cpo as Cpo
from mpo_jax.losses.dpo import Dpo as Dpo
from mpo_jax.losses.ipo import Ipo as Ipo
from mpo_jax.losses.kto import Kto as Kto
from mpo_jax.losses.length_regularized_dpo import LengthRegularizedDpo as LengthRegularizedDpo
from mpo_jax.losses.lens import Lens as Lens
from mpo_jax.losses.mlc import Mlc as Mlc
from mpo_jax.losses.mpo import Mpo as Mpo
from mpo_jax.losses.orpo import Orpo as Orpo
from mpo_jax.losses.robust_dpo import RobustDpo as RobustDpo
from mpo_jax.losses.sft import Sft as Sft
from mpo_jax.losses.simpo import Simpo as Simpo
from mpo_jax.losses.sum import Sum as Sum
