"""A variant says how a published run differs from the config."""

from pathlib import Path

import pytest
import tiny

from mpo_jax import losses
from mpo_jax.data.dataset import DataConfig
from mpo_jax.errors import InputError
from mpo_jax.losses import Mpo
from mpo_jax.training.config import TrainConfig, load
from mpo_jax.training.trainable import split
from mpo_jax.training.variants import ABLATIONS, BASELINES, LORA_LR, OTHERS, PRESETS, WITH_VALUE, variant_of
from mpo_jax.types import Want

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
PAPER = ("llama31", "gemma2", "qwen25")


def built(config: str, variant: str) -> TrainConfig:
    return load(str(CONFIGS / f"{config}.py"), variant)


def test_no_variant_is_the_config_itself():
    config = TrainConfig(model="m", data=DataConfig(path="d.jsonl"), output="o")
    assert variant_of(config, None) is config


def test_presets_are_the_code_and_the_paper():
    plain, official, paper = load(str(CONFIGS / "llama31.py"), None), built("llama31", "official"), built("llama31", "paper")
    assert (official.loss.retain_pooling, official.loss.retain_reduction) == ("mean_padded", "mean")
    assert (official.data.truncation, official.data.max_length, official.data.template) == ("official", 1024, "authors")
    assert (paper.loss.retain_pooling, paper.loss.retain_reduction, paper.data.max_length) == ("last_prompt", "sum", 2048)
    assert official.loss.beta == paper.loss.beta == plain.loss.beta, "a variant says differences only"


@pytest.mark.parametrize("config", [*PAPER, "quickstart"])
def test_an_adapter_learns_at_a_higher_rate(config: str):
    plain, run = load(str(CONFIGS / f"{config}.py"), None), built(config, "lora")
    assert (plain.lora.rank, run.lora.rank, run.lora.scale) == (0, 16, 2.0)
    assert run.optim.peak_lr == LORA_LR * plain.optim.peak_lr
    assert (run.loss, run.data, run.epochs) == (plain.loss, plain.data, plain.epochs)


@pytest.mark.parametrize("config", PAPER)
@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_its_method_on_both_sides_pairs(config: str, name: str):
    plain, run = load(str(CONFIGS / f"{config}.py"), None), built(config, name)
    assert type(run.loss) is BASELINES[name]
    assert (run.data.pairs, run.data.path, run.optim, run.model) == ("both", plain.data.path, plain.optim, plain.model)


def test_every_method_has_a_variant():
    every = {kind for kind in vars(losses).values() if isinstance(kind, type)}
    others = {type(built("llama31", name).loss) for name in ("cla", "lens=30")}
    assert {Mpo, losses.Sum, losses.Mlc, *others, *BASELINES.values()} == every


@pytest.mark.parametrize("config", PAPER)
def test_methods_on_states_of_prompts(config: str):
    plain, mlc, lens = load(str(CONFIGS / f"{config}.py"), None), built(config, "mpo_no_ln+mlc"), built(config, "lens=2")
    assert isinstance(mlc.loss, losses.Sum) and mlc.loss.weights == {"mlc": 0.8}
    assert mlc.loss.terms == {"method": built(config, "mpo_no_ln").loss, "mlc": losses.Mlc()}
    assert mlc.loss.policy_reads.groups and mlc.batch_size % 6 == 0, "the authors' data has six rows a prompt"
    assert built(config, "cla").loss.policy_reads.contrast and built(config, "cla").microbatches == 1
    assert (lens.loss, lens.frozen) == (losses.Lens(), "layers:2,embedding,final_norm,unembedding")
    assert (lens.optim.peak_lr, lens.optim.clip_norm) == (1e-5, plain.optim.clip_norm)
    trained, _ = split(tiny.model(layers=4, layer_windows=(None,) * 4, tied=config == "gemma2").abstract(), lens.frozen)
    assert trained.keys() == {"top_layers"}
    sdrrl = built(config, "sdrrl")
    assert (sdrrl.loss, sdrrl.data.pairs) == (losses.Sft(reduction="token_mean"), "both")


@pytest.mark.parametrize("config", PAPER)
def test_ablations_change_what_they_name(config: str):
    plain = load(str(CONFIGS / f"{config}.py"), None)
    assert {name: built(config, name).loss.beta for name in ABLATIONS} == dict.fromkeys(ABLATIONS, plain.loss.beta)
    assert built(config, "mpo_no_ln").loss.rg_normalize is False
    assert built(config, "mpo_policy").loss.policy_reads.source & Want.LOGP
    assert not built(config, "mpo_no_retain").loss.reference_reads.source & Want.HIDDEN
    assert built(config, "mpo_kl_of_policy").loss.policy_reads.source == Want.KL_OF_POLICY
    assert built(config, "mpo_kl_of_reference").loss.policy_reads.source == Want.KL_OF_REFERENCE
    assert built(config, "mpo_constant=1.58").loss.constant == 1.58
    assert built(config, "mpo_language=sw").loss.language == "sw"


def test_the_page_lists_them():
    page = (CONFIGS.parent / "docs" / "objectives.md").read_text(encoding="utf-8")
    names = [*PRESETS, *BASELINES, *ABLATIONS, *OTHERS, *(f"{stem}={example}" for stem, (example, _) in WITH_VALUE.items())]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_variants_join_in_order():
    run = built("llama31", "paper+mpo_no_ln")
    assert (run.loss.retain_pooling, run.loss.rg_normalize, run.data.max_length) == ("last_prompt", False, 2048)
    assert built("llama31", "official+dpo").data.truncation == "official"


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("papr", "variant 'papr' is not known: write one of official, paper, lora, mpo_no_ln"),
        ("paper+", "variant '' is not known"),
        ("dpo=0.1", "variant 'dpo=0.1' is not known"),
        ("mpo_constant", "'mpo_constant' needs a value: write mpo_constant=1.58"),
        ("mpo_constant=big1", "loss.gap_target='big1' is not known"),
        ("dpo+mpo_no_ln", "'mpo_no_ln' sets loss.rg_normalize, which Dpo does not have: leave out 'mpo_no_ln'"),
    ],
)
def test_a_wrong_variant_is_a_sentence(variant: str, words: str):
    with pytest.raises(InputError) as refused:
        built("llama31", variant)
    assert words in str(refused.value)
