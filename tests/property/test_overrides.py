"""Whatever stands on the command line, it ends in a config or in a sentence."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from outcome import outcome

from mpo_jax.errors import InputError
from mpo_jax.training.config import describe, load, parse
from mpo_jax.training.samples import SamplesConfig

FILE = """
from mpo_jax import losses
from mpo_jax.data.dataset import DataConfig
from mpo_jax.training.config import TrainConfig

def get_config(variant=None):
    both = losses.Sum({"dpo": losses.Dpo(), "nll": losses.Sft()}, weights={"nll": 0.2})
    loss = both if variant == "sum" else losses.Mpo()
    return TrainConfig(model="m", data=DataConfig(path="rows.jsonl"), output="out", loss=loss)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "run.py"
    path.write_text(FILE)
    return path


def leaves(tree: dict, above: str = "") -> dict[str, object]:
    """The settings of a described config, by their paths."""
    found = {}
    for name, value in tree.items():
        if name != "type":
            found |= leaves(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return found


PLAIN = leaves(describe(load("quickstart", None)))
IN_A_SUM = ["loss", "loss.terms", "loss.terms.dpo", "loss.terms.dpo.beta", "loss.terms.nll.side", "loss.weights.nll", "loss.beta"]
NUMBERS = ["0", "1", "-1", "3", "1e-3", "0.5", "nan", "inf", "-inf", "1e999", "9" * 30, "9" * 5000, "0x10", "1_000", "1:3", "3:1"]
WORDS = ["", " ", "True", "None", "cached", "bfloat16", "kl_of_policy", "(1, 2)", "[1]", "{'a': 1}", "'", '"', "a,b", "a\nb"]
value = st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.text(max_size=5)
setting = st.sampled_from([*PLAIN, "data", "optim", "mesh", "metrics", "checkpoint", "samples"])
of_a_number = st.sampled_from([name for name, now in PLAIN.items() if type(now) in (int, float)])
any_number = st.builds("--config.{}={}".format, of_a_number, st.sampled_from(NUMBERS))
any_value = st.builds("--config.{}={}".format, setting | st.sampled_from(IN_A_SUM), value) | any_number
FIT = {bool: ["True", "false"], int: ["1", "2", "64"], float: ["0.25", "1e-3"]}
fitting = st.sampled_from([f"--config.{name}={value}" for name, now in PLAIN.items() for value in FIT.get(type(now), ())])
behind = st.sampled_from([".", ".x", "x", " ", "\n"]) | st.text(max_size=3)
any_name = st.builds("--config.{}{}={}".format, setting, behind, value)
STRAY = ["epochs=3", "--epochs=3", "-x", "--", "--config", "--noconfig.epochs", "--config.epochs", "3", "", "--flagfile=x"]
second = any_value | any_name | st.sampled_from(STRAY)


@given(variant=st.sampled_from(["", ":sum"]), arguments=st.tuples(fitting, second) | st.tuples(any_value))
@example("", ["--config.epochs=many"])
@example("", ["--config.samples.every=3", "--config.samples.limit=-1"])
@example("", ["--config.samples=none", "--config.samples.limit=3"])
@example("", ["--config.samples=build", "--config.samples.limit=3"])
@example("", ["--config.samples=", "--config.samples.limit=3"])
def test_any_command_line_ends_in_a_config_or_in_a_sentence(file, variant, arguments):
    config = outcome(lambda: parse([f"--config={file}{variant}", *arguments]))
    if not isinstance(config, InputError):
        after, before = leaves(describe(config)), leaves(describe(load(str(file), variant[1:])))
        if config.samples is not None:  # which the file does not have
            before |= leaves({"samples": describe(SamplesConfig())})
            del before["samples"]
            assert any(argument.startswith("--config.samples") for argument in arguments)
        assert after.keys() == before.keys()
        given = {argument.removeprefix("--config.").partition("=")[0] for argument in arguments}
        for name, value in before.items():
            assert type(after[name]) is type(value) or value is None, name
            assert after[name] == value or name in given, name
        json.dumps(describe(config))
