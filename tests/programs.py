"""Which operations do the programs of Llama, Gemma 2 and Qwen 2 have? Counts of them show when a change reaches them.

PYTHONPATH=. python tests/programs.py            writes tests/fixtures/programs.json
PYTHONPATH=. python tests/programs.py FOLDER     writes their whole text, to compare two versions of the code with `diff -r`
"""

import collections
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mpo_jax.models.families.registry import build
from mpo_jax.types import Packed

FIXTURES = Path(__file__).resolve().parent / "fixtures"
STORED = FIXTURES / "programs.json"
NAMES = ("llama", "gemma2", "qwen2")


def text(name: str) -> str:
    """StableHLO of a loss of the fixture's hidden states and of its gradient, on one device, before any compiler has seen it."""
    model = build(FIXTURES / name)[1]
    row_ST = np.zeros((2, 24), np.int32)
    packed = Packed(*(row_ST,) * 4, *(np.zeros((2, 0), np.int32),) * 5)

    def loss(params, packed):
        logits_STV = jnp.einsum("STD,VD->STV", model.hidden(params, packed), model.unembedding(params))
        return jnp.mean(jax.nn.logsumexp(logits_STV, axis=-1))

    return jax.jit(jax.value_and_grad(loss)).lower(model.abstract(), packed).as_text()


def counts(name: str) -> dict[str, int]:
    return dict(sorted(collections.Counter(re.findall(r"stablehlo\.[a-z_0-9]+", text(name))).items()))


def main() -> None:
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            (Path(sys.argv[1]) / f"{name}.mlir").write_text(text(name))
        return
    STORED.write_text(json.dumps({"jax": jax.__version__, "counts": {name: counts(name) for name in NAMES}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
