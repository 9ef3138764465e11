"""A toy that is kind in English only learns to be so in five more languages, with multilingual reward-gap MPO (arXiv:2505.16869).

    python -m mpo_jax.train --config=configs/quickstart.py

The toy (quickstart/model) was made by quickstart/make_model.py; its data are mild unkind requests, such as a mocking nickname.
"""

from mpo_jax import losses
from mpo_jax.checkpoint import CheckpointConfig
from mpo_jax.config import DataConfig, TrainConfig, variant_of
from mpo_jax.metrics import MetricsConfig
from mpo_jax.optim import OptimConfig


def get_config(variant: str | None = None) -> TrainConfig:
    config = TrainConfig(
        model="quickstart/model",
        data=DataConfig(
            path="quickstart/data/train.jsonl",
            eval_path="quickstart/data/heldout.jsonl",
            texts="quickstart/data/texts_heldout.jsonl",
            max_length=256,
        ),
        output="runs/quickstart",
        loss=losses.Mpo(retain_reduction="sum"),  # 128 states, not 4096: their mean distance would hold nothing in place
        optim=OptimConfig(peak_lr=5e-4),
        epochs=2,
        batch_size=8,
        eval_every=38,
        compute_dtype="float32",
        reference_dtype="float32",
        remat="none",  # so small a model has room to keep everything
        checkpoint=CheckpointConfig(every=0),
        metrics=MetricsConfig(every=2),
    )
    return variant_of(config, variant)
