"""Both published forms are read, and what is wrong with a file is a sentence."""

import json

import pytest

from mpo_jax.data.prompts.x_alpaca_eval import read_instructions
from mpo_jax.errors import InputError


def write(path, rows):
    path.write_text(json.dumps(rows))
    return path


def test_instructions_with_and_without_outputs(tmp_path):
    alone = write(tmp_path / "sw.json", [{"id": 7, "dataset": "koala", "instruction": "Chai ni nini?"}])
    (prompt,) = read_instructions(alone, "sw")
    assert (prompt.id, prompt.language, prompt.messages[0].content, prompt.fields) == ("7", "sw", "Chai ni nini?", {})
    rows = [
        {"instruction": "What is tea?", "output": "", "generator": "gpt"},
        {"instruction": "And coffee?", "output": "A bean."},
    ]
    found = read_instructions(write(tmp_path / "model_outputs.json", rows), "en")
    assert [(one.id, one.fields["output"]) for one in found] == [("1", ""), ("2", "A bean.")], "an empty output is one"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "has no instructions"),
        (["What is tea?"], "row 0: there must be an object with an instruction, not a string"),
        ([{"prompt": "What is tea?"}], "'instruction' must be a string, not null"),
        ([{"instruction": " "}], "row 0: the instruction is empty"),
        ([{"instruction": "a", "output": 3}], "'output' must be a string, not a number"),
        ([{"instruction": "a", "output": "b"}, {"instruction": "c"}], "row 1: it has no 'output', unlike the rows before"),
        ([{"instruction": "a"}, {"instruction": "c", "output": "b"}], "row 1: it has an 'output', unlike the rows before"),
        ([{"id": 1, "instruction": "a"}, {"id": "1", "instruction": "c"}], "row 1: the id 1 is already taken"),
    ],
)
def test_bad_files_are_a_sentence(tmp_path, rows, said):
    with pytest.raises(InputError, match=said):
        read_instructions(write(tmp_path / "en.json", rows), "en")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"none\.json does not exist: give a file of X-AlpacaEval"):
        read_instructions(tmp_path / "none.json", "en")
