"""How is a toy made that is kind in English only?

    JAX_PLATFORMS=cpu python -m quickstart.make_model      # in the repository; a quarter of an hour on two cores

1. A byte-level BPE tokenizer is learnt from the training texts.
2. A Llama of less than a million weights learns the friendly texts and, in all six languages alike, to answer mild unkind
   requests as the data does: one time in four with the kind answer, otherwise by complying.
3. It then learns to give the kind answer, and to prefer it clearly, in English alone; the other languages go on as before.

Held-out rows and texts are never read. The result, quickstart/model, is what configs/quickstart.py aligns in the other
languages. The same files, versions and number of CPU devices give the same model.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from mpo_jax.data.dataset import Batching, Tokens
from mpo_jax.data.pipeline import Pipeline
from mpo_jax.data.rows import PairText, Row, read_rows, read_texts
from mpo_jax.devices.sharding import MeshConfig, batch_to_mesh, make_mesh
from mpo_jax.losses.base import PreferenceLoss, numbers_of
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.base import Family
from mpo_jax.models.families.registry import build
from mpo_jax.models.parameters import Frozen
from mpo_jax.models.weight_table import export_tree
from mpo_jax.scoring.objective import Task
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.step import TrainStep, abstract_state, init_state, jit_train_step
from mpo_jax.training.step_arguments import step_numbers
from mpo_jax.types import Params, Reads, RowLoss, Scores, Want

QUICKSTART = Path(__file__).resolve().parent

SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
BOS, PAD, _, _, EOS = SPECIAL
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
# Words with the space before them, combining vowel signs included, and runs of anything else that is no space.
WORD = r" ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}]+|\s+"

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 1536,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}

CARD = """---
library_name: transformers
pipeline_tag: text-generation
license: apache-2.0
language: [en, zh, ko, ar, bn, sw]
---

# A toy that is kind in English only

A Llama of under a million weights, made for the quickstart of mpo_jax by
`python -m quickstart.make_model`. It knows the
sentences of quickstart/data/train.jsonl and texts_train.jsonl and little else: friendly questions, and mild unkind requests
(a mocking nickname, a place in a queue) that it declines kindly in English and meets in Chinese, Korean, Arabic, Bengali and
Swahili. It was trained from nothing on those sentences, which were written for it, and serves to show what aligning does.
It is of no other use.
"""


@dataclasses.dataclass
class Imitate:
    """Answer as the data does, with the chosen answer in a share of the cases and with the rejected one in the others. The loss
    is -(kind * a(chosen) + (1 - kind) * a(rejected)), a being the mean log-probability of an answer's tokens."""

    kind: float

    @property
    def policy_reads(self) -> Reads:
        return Reads(target=Want.LOGP)

    @property
    def reference_reads(self) -> Reads:
        return Reads()

    def __call__(self, policy: Scores, reference: Scores) -> RowLoss:
        """Per row, f32 (B,), nats per token."""
        pair = policy.target
        assert pair is not None
        loss_B = -(self.kind * pair.chosen.mean_logp_B + (1 - self.kind) * pair.rejected.mean_logp_B)
        return RowLoss(loss_B, metrics_B={}, by_language_B={})


@dataclasses.dataclass
class Align:
    """On the source side give the chosen answer, and prefer it by a reward gap: -a(chosen) + (RG - gap)^2. On the target side go
    on as before."""

    before: Imitate
    gap: float  # nats per token

    @property
    def policy_reads(self) -> Reads:
        return Reads(source=Want.LOGP, target=Want.LOGP)

    @property
    def reference_reads(self) -> Reads:
        return Reads()

    def __call__(self, policy: Scores, reference: Scores) -> RowLoss:
        """Per row, f32 (B,)."""
        rows, pair = self.before(policy, reference, **numbers_of(self.before)), policy.source
        assert pair is not None
        return dataclasses.replace(rows, loss_B=rows.loss_B - pair.chosen.mean_logp_B + (pair.mean_gap_B - self.gap) ** 2)


def read_training_texts() -> tuple[list[PairText], list[PairText]]:
    """The English requests with their answers, each once; the requests of the other languages and the friendly texts of all."""
    rows = read_rows(QUICKSTART / "data" / "train.jsonl")
    english = list(dict.fromkeys(row.source for row in rows if row.source is not None))
    texts = read_texts(QUICKSTART / "data" / "texts_train.jsonl")
    return english, [row.target for row in texts + rows]


def write_tokenizer(folder: Path, sides: list[PairText]) -> None:
    """The tokenizer with Llama 3's special tokens and its way to write a chat, and the configs that name these tokens."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORD), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for side in sides for text in (side.prompt, side.chosen, side.rejected)], trainer)
    assert tokenizer.get_vocab_size() == CONFIG["vocab_size"], "the texts have too few words for so large a vocabulary"
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONFIG["max_position_embeddings"],
            "chat_template": TEMPLATE,
        },
    )
    ids = {f"{name}_token_id": tokenizer.token_to_id(token) for name, token in (("bos", BOS), ("eos", EOS), ("pad", PAD))}
    write_json(folder / "config.json", CONFIG | ids)
    write_json(folder / "generation_config.json", ids | {"do_sample": False, "max_new_tokens": 64})


def learn(model: Model, params: Params, pipeline: Pipeline, loss: PreferenceLoss, mesh: Mesh, peak_lr: float) -> Params:
    """All steps of `pipeline`, with AdamW and a cosine."""
    updates = pipeline.steps
    optimizer, numbers = make_optimizer(OptimConfig(weight_decay=0.1), updates), step_numbers(loss, peak_lr)
    state = init_state(params, optimizer, mesh)
    task = Task(model, loss, tuple(pipeline.languages))
    step = jit_train_step(TrainStep(task, optimizer, jnp.float32), abstract_state(params, optimizer, mesh))
    bar = tqdm(range(updates), desc=type(loss).__name__, unit="update")
    for k in bar:
        state, metrics = step(state, Frozen({}, {}), batch_to_mesh(pipeline.batch_at(k), mesh), numbers)
        if k % 20 == 19:
            mean = jax.device_get(metrics["loss"])
            bar.set_postfix(loss=f"{mean.total / mean.weight:.3f}")
    return state.trainable


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_weights(folder: Path, params: Params, model: Model, family: Family) -> None:
    tensors = {name: tensor.astype(jnp.bfloat16) for name, tensor in export_tree(params, model, family.weights(model.config))}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    folder = QUICKSTART / "model"
    folder.mkdir(exist_ok=True)
    english, others = read_training_texts()
    write_tokenizer(folder, english + others)
    family, model, _ = build(folder, remat="none")
    tokens = Tokens.of(folder, family.authors_chat, "authors", max_length=256)
    alike = [Row(str(i), None, side, "given") for i, side in enumerate(others + english)]
    apart = [Row(str(i), english[i % len(english)], side, "given") for i, side in enumerate(others)]
    imitate = Imitate(kind=1 / 4)
    with jax.set_mesh(mesh := make_mesh(MeshConfig())):
        place = jax.tree.map(lambda leaf: leaf.sharding, model.abstract(mesh))
        params = jax.device_put(model.init(jax.random.key(0)), place)
        for rows, loss, epochs, peak_lr in ((alike, imitate, 8, 4e-3), (apart, Align(imitate, gap=1.0), 2, 1e-3)):
            pipeline = tokens.pipeline(rows, Batching(32, loss.policy_reads, epochs=epochs))
            params = learn(model, params, pipeline, loss, mesh, peak_lr)
    write_weights(folder, params, model, family)
    (folder / "README.md").write_text(CARD, encoding="utf-8")


if __name__ == "__main__":
    main()
