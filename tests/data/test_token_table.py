"""Tokens in arrays are the tokens, and what is computed over all of them at once is what each says."""

import dataclasses

import numpy as np
import pytest
import toy_chat

from mpo_jax.data.chat import TokenPair
from mpo_jax.data.pair_views import mismatched
from mpo_jax.data.token_table import Examples, Pairs, digest
from mpo_jax.types import PAIR_KINDS

EXAMPLES = toy_chat.examples(9, max_length=24)  # some are cut


def same(a, b):
    assert (a is None) == (b is None)
    if a is not None:
        for field in dataclasses.fields(TokenPair):
            assert np.array_equal(getattr(a, field.name), getattr(b, field.name)), field.name


def pairs():
    return [pair for example in EXAMPLES for pair in (example.source, example.target)]


@pytest.mark.parametrize("written", [False, True])
def test_pairs_are_those_that_were_given(tmp_path, written):
    table = Pairs.written(iter(pairs()), tmp_path) if written else Pairs.in_memory(pairs())
    assert len(table) == 18 and table.cut.any()
    for i, pair in enumerate(pairs()):
        same(table[i], pair)
        assert table[i].prompt.dtype == np.int32
        assert bytes(table.digests[i]) == digest(pair)
        assert table.lengths[i].tolist() == [len(pair.prompt), len(pair.chosen), len(pair.rejected)]


def test_examples_are_those_that_were_given():
    views = list(mismatched(EXAMPLES, "target", 24))
    for given in (EXAMPLES, views, [dataclasses.replace(one, source=None) for one in EXAMPLES]):
        table = Examples.of(given)
        for i, example in enumerate(given):
            assert (table[i].id, table[i].language) == (example.id, example.language)
            for kind in PAIR_KINDS:
                same(getattr(table[i], kind), getattr(example, kind))
        assert [one.id for one in table[2:4]] == ["2", "3"]


@pytest.mark.parametrize("again", [False, True])
def test_lengths_and_contents_are_those_of_each(again):
    table = mismatched(EXAMPLES, "source", 24)
    table = Examples.of(list(table)) if again else table
    for kind in PAIR_KINDS:
        for i, lengths in enumerate(table.lengths(kind).tolist()):
            pair = getattr(table[i], kind)
            assert lengths == ([0, 0, 0] if pair is None else [len(pair.prompt), len(pair.chosen), len(pair.rejected)])
    assert table.contents == mismatched(EXAMPLES, "source", 24).contents
    assert table.contents != mismatched(EXAMPLES, "target", 24).contents
    assert table.contents != Examples.of(EXAMPLES).contents


def test_contents_change_with_each_token_language_and_place():
    def other(i, **changes):
        return [dataclasses.replace(one, **changes) if k == i else one for k, one in enumerate(EXAMPLES)]

    target = dataclasses.replace(EXAMPLES[3].target, chosen=EXAMPLES[3].target.chosen[::-1])
    ways = [EXAMPLES, EXAMPLES[::-1], EXAMPLES[1:], other(3, language="zu"), other(3, target=target), other(3, source=None)]
    assert len({Examples.of(way).contents for way in ways}) == len(ways)


def test_prompts_of_the_same_tokens_have_the_same_number():
    table = Examples.of([*EXAMPLES, dataclasses.replace(EXAMPLES[0], source=None)])
    numbers = table.prompts("source").tolist()
    prompts = [one.source.prompt.tobytes() for one in EXAMPLES]
    assert numbers[-1] == -1
    for i in range(9):
        for k in range(9):
            assert (numbers[i] == numbers[k]) == (prompts[i] == prompts[k])
