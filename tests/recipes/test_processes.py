"""Two processes write answers and scores of a build; the other stages, in one process, make the same rows of them."""

import json
import os
import subprocess
import sys

import pytest
from processes import ROOT, free_port
from recipe_runs import other_model, rows


def run(folder, words, count=1):
    meet = ["--hosts.coordinator", f"127.0.0.1:{free_port()}", "--hosts.count", str(count)]
    command = [sys.executable, "-m", "mpo_jax.build", *words]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    files = [(folder / f"said{index}.txt").open("w") for index in range(count)]
    started = [
        subprocess.Popen(
            command + ([*meet, "--hosts.index", str(index)] if count > 1 else []),
            cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, text=True,
        )
        for index, file in enumerate(files)
    ]  # fmt: skip
    codes = [process.wait(300) for process in started]
    for file in files:
        file.close()
    return codes, (folder / "said0.txt").read_text()


@pytest.mark.slow
def test_two_processes_make_the_rows_of_one(world, tmp_path):
    other = other_model(world, tmp_path / "other")
    texts = {"en": "How do I make tea, question {}?", "sw": "Maneno ya swali hili ni yapi, namba {}?"}
    lines = [{"id": f"q{n}", "language": code, "prompt": text.format(n)} for n in range(4) for code, text in texts.items()]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def words(output, *more):
        given = {
            "--recipe": "icr", "--samples": "2", "--max-new-tokens": "6", "--denominator": other, "--model": world / "model",
            "--template": "hf", "--dtype": "float32", "--prompts": tmp_path / "prompts.jsonl", "--languages": "sw",
            "--output": tmp_path / output,
        }  # fmt: skip
        return [str(part) for pair in given.items() for part in pair] + list(more)

    for stage in ("samples", "scores"):
        codes, said = run(tmp_path, words("two", "--stage", stage), 2)
        assert codes == [0, 0], said
    codes, said = run(tmp_path, words("two", "--stage", "rows"), 2)
    assert codes == [2, 2] and "give --stage with one of samples, scores here" in said
    for output, more in (("two", ["--stage", "rows"]), ("one", [])):
        codes, said = run(tmp_path, words(output, *more))
        assert codes == [0], said
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
