"""Which directions of a model's states are one for all languages, and which tell them apart?

From the mean state of each language, by linear algebra in float64; and the file that keeps the result for a run: safetensors,
with the languages in its metadata.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mpo_jax.errors import InputError

LEAST = 1e-6  # of the means' lengths: what is shorter is rounding


@dataclasses.dataclass(frozen=True)
class Subspaces:
    """What LENS knows of a model's K languages, the dominant one first. Float64; K languages, q = K - 1 directions, width D.

    `agnostic_D`: the point of the affine hull of the means that is nearest to 0; its direction is what all languages share.
    `specific_qD`: orthonormal, the directions within that hull; the agnostic point is orthogonal to them. `shift_KD`: from the
    dominant language's mean to each one's, within the hull; the first is 0."""

    languages: tuple[str, ...]
    agnostic_D: np.ndarray
    specific_qD: np.ndarray
    shift_KD: np.ndarray

    @classmethod
    def of(cls, means: Mapping[str, np.ndarray], rank: int | None = None) -> "Subspaces":
        """From the mean state of each language, (D,), the dominant language first. `rank`: q, at most K - 1, the default; the
        means are then replaced by the nearest ones that lie in q dimensions around their centre.

        W. Zhao et al., "Lens: Rethinking Multilingual Enhancement for Large Language Models", arXiv:2410.04407, with the
        decomposition of Z. Xie et al., "Discovering Low-rank Subspaces for Language-agnostic Multilingual Representations", EMNLP
        2022, arXiv:2401.05792. Errors: fewer than two languages; a rank that is not among 1 ... K - 1; means that are dependent.
        """
        means_DK = np.stack([np.asarray(mean, np.float64) for mean in means.values()], axis=1)
        K = means_DK.shape[1]
        q = K - 1 if rank is None else rank
        if K < 2 or not 1 <= q < K:
            raise InputError(f"{K} languages have subspaces of rank 1 to {K - 1}, not {q}: give at least two languages.")
        centre_D1 = means_DK.mean(axis=1, keepdims=True)
        u_DK, s_K, vt_KK = np.linalg.svd(means_DK - centre_D1, full_matrices=False)
        near_DK = centre_D1 + u_DK[:, :q] * s_K[:q] @ vt_KK[:q]
        smallest = np.linalg.svd(near_DK, compute_uv=False)[q]
        if min(smallest, s_K[q - 1]) < LEAST * np.linalg.norm(means_DK):
            raise InputError(
                f"The mean states of {', '.join(means)} are dependent, so they span no {q} directions beside a common one: leave "
                "out a language whose prompts repeat another's."
            )
        # Of minimal length among the points x with near_DK^T x = 1; divided by its squared length it lies in the hull.
        normal_D = np.linalg.pinv(near_DK).T @ np.ones(K)
        agnostic_D = normal_D / (normal_D @ normal_D)
        specific_qD = np.linalg.svd(near_DK - agnostic_D[:, None], full_matrices=False)[0][:, :q].T
        shift_KD = (means_DK - means_DK[:, :1]).T @ specific_qD.T @ specific_qD
        return cls(tuple(means), agnostic_D, specific_qD, shift_KD)

    def encoded(self) -> bytes:
        """The bytes of the file that `read` reads."""
        arrays = {"agnostic": self.agnostic_D, "specific": self.specific_qD, "shift": self.shift_KD}
        described = {"languages": json.dumps(self.languages)}
        return save({name: np.ascontiguousarray(x) for name, x in arrays.items()}, described)

    @classmethod
    def read(cls, path: str | Path) -> "Subspaces":
        """From a local file. Errors: no such file; a file that `write` did not make."""
        if not Path(path).is_file():
            raise InputError(f"The probe {path} does not exist: make it with python -m mpo_jax.probe (docs/objectives.md).")
        try:
            with safe_open(path, framework="np") as file:
                languages = tuple(json.loads(file.metadata()["languages"]))
                return cls(languages, *(file.get_tensor(name) for name in ("agnostic", "specific", "shift")))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is no probe of a model's languages ({error}): make it anew.") from None
