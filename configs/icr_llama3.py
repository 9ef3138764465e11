"""Implicit Cross-Lingual Rewarding (arXiv:2503.04647): two rounds from a Llama-3-8B aligned in English.

    python -m mpo_jax.rounds --config=configs/icr_llama3.py            # M0 and M1 from a DPO model, 5 languages
    python -m mpo_jax.rounds --config=configs/icr_llama3.py:kto        # the start is the KTO model instead

The prompts are a file of English prompts with their translations (`ultrafeedback_{round}.jsonl` would be one file a round). The
learning rate, beta, the weight of the likelihood and the batch size are not published: these are our defaults. So is the choice
that the reward's denominator is the model before preference training, and the training's reference the round's start
(docs/recipes.md). Needs one host with room for 8B parameters in training, such as a TPU v6e:2x4.
"""

from mpo_jax import losses
from mpo_jax.data.dataset import DataConfig
from mpo_jax.recipes.rounds import RoundsConfig
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.optim import OptimConfig

STARTS = {"dpo": "princeton-nlp/Llama-3-Base-8B-SFT-DPO", "kto": "princeton-nlp/Llama-3-Base-8B-SFT-KTO"}


def get_config(variant: str | None = None) -> RoundsConfig:
    start = STARTS[variant or "dpo"]
    return RoundsConfig(
        model=start,
        output=f"runs/icr_{variant or 'dpo'}",
        build=(
            "--recipe=icr",
            "--prompts=ultrafeedback.jsonl",
            "--languages=es,ru,de,fr",
            "--denominator=princeton-nlp/Llama-3-Base-8B-SFT",
        ),
        train=TrainConfig(
            model=start,
            data=DataConfig(path="rows.jsonl"),
            output="",
            loss=losses.Sum({"dpo": losses.Dpo(beta=0.1), "nll": losses.Sft(reduction="token_mean")}),
            optim=OptimConfig(peak_lr=5e-7),
            epochs=1,
            batch_size=128,
            microbatches=16,
        ),
    )
