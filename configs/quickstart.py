"""A toy model that is kind only in English learns to be kind in five more languages, with multilingual reward-gap MPO
(arXiv:2505.16869).

    python -m mpo_jax.train --config=configs/quickstart.py     # with mpo_jax installed: --config=quickstart

The toy model (quickstart/model) was made by quickstart/make_model.py; its data are mildly unkind requests, such as one for a
mocking nickname. 114 updates take one and a half minutes on two CPU cores, compilation included. Expect on the held-out rows, in
nats per token (other versions and numbers of devices differ in about the second decimal):

    reward gap   en (dominant)      ar      bn      ko      sw      zh        perplexity of friendly texts      en
    before              +1.025  -0.049  -0.112  -0.090  -0.035  -0.131        before                         1.072
    after               +1.037  +0.970  +0.914  +0.988  +0.977  +0.927        after                          1.078

The target languages close 90 to 97 % of their distance to the dominant gap. Only the dominant language is held in place: the
perplexity of friendly texts in the other languages rises, by 1 % (sw) to 12 % (ar, bn, ko).
"""

from pathlib import Path

from mpo_jax import losses
from mpo_jax.checkpoints.run_state import CheckpointConfig
from mpo_jax.data.dataset import DataConfig
from mpo_jax.telemetry.writers import MetricsConfig
from mpo_jax.training.config import TrainConfig
from mpo_jax.training.optim import OptimConfig
from mpo_jax.training.samples import SamplesConfig
from mpo_jax.training.variants import variant_of

FOLDER = Path(__file__).parent.parent / "quickstart"  # in the repository, and in the installed package


def get_config(variant: str | None = None) -> TrainConfig:
    config = TrainConfig(
        model=str(FOLDER / "model"),
        data=DataConfig(
            path=str(FOLDER / "data" / "train.jsonl"),
            eval_path=str(FOLDER / "data" / "heldout.jsonl"),
            texts=str(FOLDER / "data" / "texts_heldout.jsonl"),
            max_length=256,
        ),
        output="runs/quickstart",
        loss=losses.Mpo(retain_reduction="sum"),  # with a width of only 128 the mean distance would hold nothing in place
        optim=OptimConfig(peak_lr=5e-4),
        epochs=2,
        batch_size=8,
        eval_every=38,
        compute_dtype="float32",
        reference_dtype="float32",
        remat="none",  # for so small a model there is room to keep everything
        checkpoint=CheckpointConfig(every=0),
        metrics=MetricsConfig(every=2),
        samples=SamplesConfig(limit=1, every=38, max_new_tokens=48),
    )
    return variant_of(config, variant)
