"""All that a small training run needs, made in a second: a toy model, its tokenizer, rows, texts and a config file."""

import json
from pathlib import Path

import make_small
import toy_chat

CONFIG = """
from mpo_jax.training.config import TrainConfig
from mpo_jax.checkpoints.run_state import CheckpointConfig
from mpo_jax.telemetry.writers import MetricsConfig
from mpo_jax.training.optim import OptimConfig
from mpo_jax.data.dataset import DataConfig

def get_config(variant=None):
    return TrainConfig(
        model={model!r},
        data=DataConfig(path={data!r}, eval_fraction=0.2, texts={texts!r}, template="hf", cache=""),
        output={output!r},
        optim=OptimConfig(peak_lr=1e-3, eps=1e-3),  # Adam makes no whole step of a gradient that is rounding alone
        epochs=2,
        batch_size=4,
        compute_dtype="float32",
        reference_dtype="float32",
        eval_every=2,
        checkpoint=CheckpointConfig(every=2),
        metrics=MetricsConfig(tensorboard=False),
        compilation_cache="",  # the tests have one of their own
    )
"""
CLOCK = ("step_seconds", "tokens_per_second", "tflops_per_second")


def make_world(folder: Path) -> Path:
    toy_chat.tokenizer().save_pretrained(folder / "tokenizer")
    make_small.make("llama", folder / "tokenizer", folder / "model", vocab=264)
    side = lambda t: {"language": t.language, "prompt": t.prompt, "chosen": t.chosen, "rejected": t.rejected}  # noqa: E731
    rows = [{"id": f"r{r.id}", "source": side(r.source), "target": side(r.target)} for r in toy_chat.rows(10)]
    write_lines(folder / "rows.jsonl", rows)
    write_lines(folder / "texts.jsonl", [{"language": "en", "prompt": "hi", "answer": "hello"}] * 3)
    return folder


def write_lines(path: Path, rows: list) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def config_file(world: Path, folder: Path) -> Path:
    """A config whose run writes into `folder`/run: 2 updates an epoch, on 8 of the 10 rows."""
    folder.mkdir(exist_ok=True)
    path = folder / "config_of_run.py"
    data, texts = world / "rows.jsonl", world / "texts.jsonl"
    path.write_text(CONFIG.format(model=str(world / "model"), data=str(data), texts=str(texts), output=str(folder / "run")))
    return path


def command(world: Path, folder: Path, *overrides: str) -> Path:
    """Trains; the run's folder where `overrides` name no other."""
    from mpo_jax.training import config, loop  # not before a test has said which devices there are

    loop.train(config.parse([f"--config={config_file(world, folder)}", *overrides]))
    return folder / "run"


def metrics(run: Path) -> list[dict]:
    """The lines of a run's metrics, without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def make_adapter(world: Path, folder: Path) -> Path:
    """A LoRA adapter of the toy model, as after some training."""
    import jax
    import numpy as np

    from mpo_jax.checkpoints.peft_folder import save_adapter
    from mpo_jax.models.adapters import LoraConfig, abstract_adapter
    from mpo_jax.models.families.registry import build

    family, model, _ = build(world / "model")
    config, random = LoraConfig(4, 8.0), np.random.default_rng(0)
    adapter = jax.tree.map(lambda x: (0.3 * random.normal(size=x.shape)).astype(np.float32), abstract_adapter(model, config))
    save_adapter(adapter, folder, model=model, family=family, config=config, base="toy")
    return folder
