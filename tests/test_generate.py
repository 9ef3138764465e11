"""The command on this run's own devices: one process = two = a killed one that goes on; what is wrong is one sentence."""

import json
import time
from pathlib import Path

import pytest
from processes import finish, start_command
from world import make_adapter

from mpo_jax import generate as command
from mpo_jax.generation.records import read_responses

WORDS = ["habari", "swali fupi sana", "jina lako ni nani", "a question " * 6]


@pytest.fixture
def given(world, tmp_path) -> dict[str, str]:
    prompts = [{"id": f"p{n}", "language": ("sw", "en")[n % 2], "prompt": f"{WORDS[n % len(WORDS)]} {n}"} for n in range(24)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return {
        "--model": str(world / "model"), "--prompts": str(path), "--output": str(tmp_path / "out"), "--template": "hf",
        "--dtype": "float32", "--max-new-tokens": "12", "--temperature": "1", "--batch-size": "8",
    }  # fmt: skip


def words(given: dict[str, str], *more: str) -> list[str]:
    return [part for pair in given.items() for part in pair] + list(more)


def lines(folder: Path) -> list[bytes]:
    return sorted((folder / "responses.jsonl").read_bytes().splitlines())


@pytest.fixture
def alone(given, tmp_path) -> list[bytes]:
    command.main(words(given | {"--output": str(tmp_path / "alone")}))
    return lines(tmp_path / "alone")


def test_the_command_answers_every_prompt_and_says_what_it_cost(given, tmp_path, capsys):
    command.main(words(given, "--tokens"))
    records = read_responses(tmp_path / "out")
    assert {record.id for record in records} == {f"p{n}" for n in range(24)}
    assert all(record.tokens and len(record.tokens) == record.new_tokens <= 12 for record in records)
    said = capsys.readouterr().out
    assert f"{tmp_path / 'out'}: 24 answers" in said and "rows that had ended" in said
    command.main(words(given, "--tokens"))
    assert "This run: 0 new tokens" in capsys.readouterr().out, "what is there is not written again"
    assert len(read_responses(tmp_path / "out")) == 24
    command.main(words(given | {"--samples": "2", "--languages": "en", "--limit": "3"}, "--tokens"))
    assert len(read_responses(tmp_path / "out")) == 27, "the folder grows by second samples of three prompts"


@pytest.mark.parametrize("mesh", [{"--tensor": "8"}, {"--tensor": "2", "--width": "2"}, {"--batch-size": "3"}], ids=str)
def test_an_answer_is_the_same_on_any_mesh(given, alone, tmp_path, mesh):
    command.main(words(given | mesh))
    assert lines(tmp_path / "out") == alone


def test_an_adapter_is_part_of_the_model(given, alone, world, tmp_path, capsys):
    adapter = make_adapter(world, tmp_path / "adapter")
    command.main(words(given | {"--adapter": str(adapter)}))
    assert len(lines(tmp_path / "out")) == 24 and lines(tmp_path / "out") != alone
    with pytest.raises(SystemExit):
        command.main(words(given))
    assert "adapter was" in capsys.readouterr().err, "a folder has answers of one model"


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{}, {"--tensor": "8"}], ids=["a share each", "one mesh"])
def test_two_processes_write_what_one_does(given, alone, tmp_path, mesh):
    ends = finish(start_command("mpo_jax.generate", words(given | mesh), 2, "--hosts"))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "24 answers" in ends[0][1] and "answers" not in ends[1][1]
    assert lines(tmp_path / "out") == alone
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"responses.jsonl", "generation.json"}


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2], ids=["one, then two", "two, then one"])
def test_a_killed_command_goes_on_with_another_number_of_processes(given, alone, tmp_path, first):
    few = given | {"--batch-size": "1"}
    out = tmp_path / "out"
    running = start_command("mpo_jax.generate", words(few), first, "--hosts")
    patience = time.monotonic() + 120
    while not any(path.read_bytes().count(b"\n") >= 3 for path in out.glob("responses*.jsonl")):
        assert time.monotonic() < patience and running[0].poll() is None, running[0].communicate()
        time.sleep(0.02)
    for process in running:
        process.kill()
    finish(running)
    there = sum(path.read_bytes().count(b"\n") for path in out.glob("responses*.jsonl"))
    assert 3 <= there < 24, "killed in the middle"
    ends = finish(start_command("mpo_jax.generate", words(given), 3 - first, "--hosts"))
    assert [code for code, _, _ in ends] == [0] * (3 - first), ends
    assert lines(out) == alone


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--model": "no/such/folder"}, "no/such/folder is not a folder: give the folder of a model"),
        ({"--languages": "sw,xx"}, "has no prompts in the language 'xx': choose among sw, en"),
        ({"--tensor": "3"}, "width=1 times tensor=3 devices hold one copy of the weights, but that does not divide"),
        ({"--tensor": "4", "--width": "4"}, "does not divide the number of devices, 8"),
        ({"--batch-size": "0"}, "batch_size=0 must be at least 1"),
        ({"--temperature": "-1"}, "temperature=-1.0 must be 0"),
        ({"--top-p": "0"}, "top_p=0.0 must be above 0"),
        ({"--concurrency": "4"}, "--concurrency is for a served model"),
    ],
    ids=str,
)
def test_bad_input_is_one_sentence(given, capsys, change, said):
    with pytest.raises(SystemExit) as end:
        command.main(words(given | change))
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_an_empty_prompt_names_its_place(given, tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text('{"id": "a", "language": "en", "prompt": " "}\n')
    with pytest.raises(SystemExit):
        command.main(words(given))
    assert "the prompt 'a' in the language 'en' is empty" in capsys.readouterr().err


def test_a_prompt_longer_than_the_models_positions_is_named(given, tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"id": "long", "language": "en", "prompt": "word " * 1000}) + "\n")
    with pytest.raises(SystemExit):
        command.main(words(given))
    assert (
        "Prompt 'long' in 'en' has 5006 tokens with its chat format, but the model reads at most 4096" in capsys.readouterr().err
    )


def test_a_folder_of_another_run_is_refused_with_what_differs(given, capsys):
    command.main(words(given, "--limit", "1"))
    with pytest.raises(SystemExit):
        command.main(words(given | {"--temperature": "0.5"}, "--limit", "1"))
    assert "decoding.temperature was 1.0 and is now 0.5" in capsys.readouterr().err
