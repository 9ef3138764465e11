"""What a plan of an edit says of the memory of its forward pass."""

import json

import pytest
from slices import needs_compiler

from mpo_jax import plan
from mpo_jax.errors import InputError
from mpo_jax.planning.editing import Reading, plan_reading

SMALL = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip


@pytest.fixture
def model(tmp_path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    return str(tmp_path)


@needs_compiler
def test_the_report_is_arithmetic_and_what_the_compiler_says(model, tpu_compiler, capsys):
    few, many = (plan_reading(Reading(model, prompts=n, prompt_tokens=100), "v5e:2x4") for n in (40, 4000))
    # Five prompts of 100 tokens share a row of 512, eight rows a batch: one batch holds 40.
    assert (few.tokens, many.tokens) == (8 * 512, 100 * 8 * 512)
    matrices = 4 * 256 * 1024 + 3 * 256 * 512
    assert few.layer == pytest.approx(2 * (matrices / 8 + 2 * 256), abs=1), "the norms are on every device"
    states = 512 * (256 * 2 + 4 * 4 + 2 * 4)  # the states, four integers and the pooling of each position of a device's row
    assert few.states == states and many.states == 100 * states
    assert few.peak == few.program.peak and many.peak == many.program.peak + 99 * states
    assert few.fits and few.program.kernels, "attention is a kernel on a TPU"
    plan.main(["--edit", f"--model={model}", "--topology=v5e:2x4", "--prompts=40", "--prompt-tokens=100"])
    assert "40 prompts in 4,096 positions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--edit", "--batch-size=4"], "--batch-size belongs to --generate: add it instead"),
        (["--prompts=4"], "--prompts belongs to --edit: add that"),
        (["--dtype=float32"], "--dtype belongs to --generate or --edit: add that"),
        (["--edit", "--mfu=0.4"], "--mfu belongs to a training run: leave it or --edit out"),
        (["--edit", "--rows=4"], "--rows belongs to a training run: leave it or --edit out"),
        (["--price=1"], "--price=1.0 is the money for a chip-hour, 0 or more: write it with --rows=N"),
        (["--rows=0"], "--rows=0 must be at least 1"),
        (["--edit", "--prompts=0"], "--prompts=0 must be at least 1"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_a_sentence(model, capsys, options, words):
    given = [f"--model={model}"] if "--edit" in options else []
    with pytest.raises(SystemExit):
        plan.main([*given, "--topology=v5e:1x1", *options])
    assert words in capsys.readouterr().err


def test_bad_numbers_are_refused():
    with pytest.raises(InputError, match="--tensor=0"):
        Reading("model", tensor=0)
