"""Which rows does a run train on, and which are measured?"""

import concurrent.futures
import json
import shutil
from collections import Counter

import jax
import numpy as np
import pytest
import toy_chat

from mpo_jax.data import dataset, row_file
from mpo_jax.data.dataset import Batching, Data, DataConfig, divide, prepare
from mpo_jax.errors import InputError
from mpo_jax.losses import Dpo, Kto, Mlc, Mpo
from mpo_jax.types import Reads


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer, and ten rows: five questions in two languages."""
    folder = tmp_path_factory.mktemp("data")
    toy_chat.tokenizer().save_pretrained(folder)
    side = lambda t: {"language": t.language, "prompt": t.prompt, "chosen": t.chosen, "rejected": t.rejected}  # noqa: E731
    lines = [json.dumps({"id": row.id, "source": side(row.source), "target": side(row.target)}) for row in toy_chat.rows(10)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder


def prepared(folder, loss=Mpo(), cache="", **settings) -> Data:  # noqa: B008
    batching = Batching(4, loss.policy_reads, loss.reference_reads)
    return prepare(DataConfig(str(folder / "rows.jsonl"), template="hf", cache=cache, **settings), folder, None, batching)


def test_what_is_measured_is_even_over_languages_and_says_what_it_is(folder, monkeypatch):
    assert prepared(folder).measured_rows == "10 of 10 training rows"
    monkeypatch.setattr("mpo_jax.data.dataset.GAP_SAMPLE", 4)
    data = prepared(folder, pairs="both")
    assert data.measured_rows == "4 of 10 training rows"
    assert sorted(row.target.language for row in data.measured) == ["ko", "ko", "sw", "sw"]
    assert len({row.source.prompt for row in data.measured}) == 2
    assert data.gaps is not None and [example.id for example in data.gaps.examples] == [row.id for row in data.measured]
    assert len(data.train.examples) == 10 + 10, "the distinct dominant pairs are trained on too"


def test_held_out_rows_are_those_that_are_measured(folder):
    data = prepared(folder, eval_fraction=0.3)
    assert data.measured_rows == "4 held-out rows"
    assert data.held_out is not None
    assert [row.id for row in data.measured] == [example.id for example in data.held_out.examples]
    assert data.gaps is None, "one pass gives their metrics and their gaps"
    assert data.held_out.policy == Mpo().policy_reads | Reads.answers(source=True) != data.train.policy
    assert len(data.train.examples) == 6


def test_a_loss_that_reads_all_languages_of_a_prompt_gets_them_together(folder):
    data = prepared(folder, Mlc(), eval_fraction=0.3)
    assert data.train.group == 2
    assert data.held_out is not None and data.held_out.group == 2
    for step in range(data.train.steps):
        batch = data.train.batch_at(step)
        assert all(first in (i, i - 1) for i, first in enumerate(batch.prompt_B[0].tolist()))
    with pytest.raises(InputError, match=r"row '.*' has no 'source': give rows with one, and leave data\.pairs out"):
        prepared(folder, Mlc(), pairs="both")


def test_fewer_prompts_are_trained_on_and_the_held_out_ones_stay(folder):
    """Of the five questions one is held out, and the world's two languages share the rest."""
    at = str(folder / "rows.jsonl")
    whole, few = (divide(DataConfig(at, eval_fraction=0.2, per_language=count, cache=""), seed=0) for count in (0, 1))
    assert few.held_out == whole.held_out and set(few.train) < set(whole.train)
    assert len({row.target.language for row in few.train}) == len({row.target.language for row in whole.train})
    with pytest.raises(InputError, match=r"data\.per_language=-1"):
        DataConfig("p", per_language=-1)


def batches(data: Data) -> list:
    """Everything that a run reads of its data."""
    pipelines = [data.train, data.held_out, data.gaps]
    leaves = [np.asarray(x) for one in pipelines if one for step in range(one.steps) for x in jax.tree.leaves(one.batch_at(step))]
    rest = [(one.contents, one.shapes, one.tokens_before(one.steps - 1), list(one.languages)) for one in pipelines if one]
    return [*((x.shape, x.dtype, x.tobytes()) for x in leaves), *rest, data.findings(), list(data.rows), list(data.measured)]


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        (Mpo(), {"eval_fraction": 0.3}),
        (Mpo(gap_target="ko"), {"per_language": 3}),
        (Mpo(), {"max_length": 24}),
        (Mpo(), {"max_length": 24, "truncation": "official"}),
        (Mlc(), {"eval_fraction": 0.3}),
        (Kto(), {"eval_path": True}),
        (Dpo(), {"pairs": "both"}),
        (Dpo(), {"pairs": "source"}),
    ],
)
def test_what_is_kept_is_what_is_made(folder, tmp_path, monkeypatch, loss, settings):
    settings = settings | ({"eval_path": str(folder / "rows.jsonl")} if "eval_path" in settings else {})
    fresh = batches(prepared(folder, loss, **settings))
    assert batches(prepared(folder, loss, cache=str(tmp_path), **settings)) == fresh
    monkeypatch.setattr(dataset, "token_pairs", None)
    monkeypatch.setattr(dataset, "audit", None)
    monkeypatch.setattr(row_file, "checked", None)
    assert batches(prepared(folder, loss, cache=str(tmp_path), **settings)) == fresh, "nothing is made again"


def test_another_tokenizer_limit_or_seed_finds_its_own(folder, tmp_path):
    """A split by another seed has the same tokens; other tokens are never taken for them."""
    cache, made = str(tmp_path / "cache"), tmp_path / "other"
    shutil.copytree(folder, made)
    longer = toy_chat.TEMPLATE.replace("<end>\n{% endfor %}", "<end>\n\n{% endfor %}")
    toy_chat.tokenizer(longer).save_pretrained(made)
    short = {"max_length": 20}
    runs = [
        (folder, {}),
        (made, {}),
        (folder, short),
        (folder, short | {"truncation": "official"}),
        (folder, {"eval_fraction": 0.3}),
    ]
    for at, settings in runs:
        assert batches(prepared(at, cache=cache, **settings)) == batches(prepared(at, **settings))
    kinds = Counter(path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir())
    assert kinds == {"rows": 1, "tokens": 4, "audit": 5}


@pytest.mark.parametrize("name", ["tokens", "ends.npy", "cut.npy", "digests.npy", "places.npy", "target_pair.npy"])
def test_a_damaged_file_is_made_again(folder, tmp_path, name):
    fresh = batches(prepared(folder, cache=str(tmp_path)))
    (path,) = tmp_path.glob(f"*/{name}")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert batches(prepared(folder, cache=str(tmp_path))) == fresh


def test_one_core_or_all_make_the_same_tokens(folder, monkeypatch):
    fresh = batches(prepared(folder))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr("mpo_jax.data.chat.AT_ONCE", 1)
    assert batches(prepared(folder)) == fresh


def test_an_audit_that_is_given_up_leaves_nothing_and_is_made_when_it_is_asked_for_again(folder, tmp_path):
    data, asked = prepared(folder, Mpo(), cache=str(tmp_path)), []
    with pytest.raises(concurrent.futures.CancelledError):
        data.findings(lambda: asked.append(0) or len(asked) > 3)
    assert len(asked) == 4
    assert not list(tmp_path.glob("audit-*"))
    assert data.findings() == prepared(folder, Mpo()).findings()
    assert list(tmp_path.glob("audit-*"))
