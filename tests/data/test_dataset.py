"""Which rows does a run train on, and which are measured?"""

import json

import pytest
import toy_chat

from mpo_jax.data.dataset import Batching, Data, DataConfig, divide, prepare
from mpo_jax.errors import InputError
from mpo_jax.losses import Mlc, Mpo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer, and ten rows: five questions in two languages."""
    folder = tmp_path_factory.mktemp("data")
    toy_chat.tokenizer().save_pretrained(folder)
    side = lambda t: {"language": t.language, "prompt": t.prompt, "chosen": t.chosen, "rejected": t.rejected}  # noqa: E731
    lines = [json.dumps({"id": row.id, "source": side(row.source), "target": side(row.target)}) for row in toy_chat.rows(10)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder


def prepared(folder, loss=Mpo(), **settings) -> Data:  # noqa: B008
    batching = Batching(4, loss.policy_reads, loss.reference_reads)
    return prepare(DataConfig(str(folder / "rows.jsonl"), template="hf", **settings), folder, None, batching)


def test_what_is_measured_is_even_over_languages_and_says_what_it_is(folder, monkeypatch):
    assert prepared(folder).measured_rows == "10 of 10 training rows"
    monkeypatch.setattr("mpo_jax.data.dataset.GAP_SAMPLE", 4)
    data = prepared(folder, pairs="both")
    assert data.measured_rows == "4 of 10 training rows"
    assert sorted(row.target.language for row in data.measured) == ["ko", "ko", "sw", "sw"]
    assert len({row.source.prompt for row in data.measured}) == 2
    assert [example.id for example in data.gaps.examples] == [row.id for row in data.measured]
    assert len(data.train.examples) == 10 + 10, "the distinct dominant pairs are trained on too"


def test_held_out_rows_are_those_that_are_measured(folder):
    data = prepared(folder, eval_fraction=0.3)
    assert data.measured_rows == "4 held-out rows"
    assert data.held_out is not None
    assert [row.id for row in data.measured] == [example.id for example in data.held_out.examples]
    assert len(data.train.examples) == 6


def test_a_loss_that_reads_all_languages_of_a_prompt_gets_them_together(folder):
    data = prepared(folder, Mlc(), eval_fraction=0.3)
    assert data.train.group == 2
    assert data.held_out is not None and data.held_out.group == 2
    assert data.gaps.group == 1, "gaps are of answers"
    for step in range(data.train.steps):
        batch = data.train.batch_at(step)
        assert all(first in (i, i - 1) for i, first in enumerate(batch.prompt_B[0].tolist()))
    with pytest.raises(InputError, match=r"row '.*' has no 'source': give rows with one, and leave data\.pairs out"):
        prepared(folder, Mlc(), pairs="both")


def test_fewer_prompts_are_trained_on_and_the_held_out_ones_stay(folder):
    """Of the five questions one is held out, and the world's two languages share the rest."""
    at = str(folder / "rows.jsonl")
    whole, few = (divide(DataConfig(at, eval_fraction=0.2, per_language=count), seed=0) for count in (0, 1))
    assert few.held_out == whole.held_out and set(few.train) < set(whole.train)
    assert len({row.target.language for row in few.train}) == len({row.target.language for row in whole.train})
    with pytest.raises(InputError, match=r"data\.per_language=-1"):
        DataConfig("p", per_language=-1)
