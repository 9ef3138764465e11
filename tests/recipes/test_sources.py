"""Prompts of every kind become sources: by their ids, by their dominant side, with an unsafe answer where the data have one."""

import json

import pytest

from mpo_jax.errors import InputError
from mpo_jax.recipes.sources import Source, digest, read_sources, selected


@pytest.fixture
def write(tmp_path):
    def written(*values, name="prompts.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(value) + "\n" for value in values))
        return tmp_path / name

    return written


def own(name, language, prompt, **more):
    return {"id": name, "language": language, "prompt": prompt, **more}


def side(language, prompt, rejected="Spill it."):
    return {"language": language, "prompt": prompt, "chosen": "No.", "rejected": rejected}


def test_prompts_belong_together_by_their_ids(write):
    path = write(
        own("a", "en", "Tea?", rejected="Spill it."), own("a", "sw", "Chai?"), own("a", "de", "Tee?"), own("b", "sw", "Nini?"),
        own("c", "en", "Tea?"), own("d", "en", "Milk?"),
    )  # fmt: skip
    assert read_sources(path, "en", ["sw"]) == [
        Source("a", {"en": "Tea?", "sw": "Chai?"}, "Spill it."),
        Source("d", {"en": "Milk?"}),
    ]


def test_rows_belong_together_by_their_dominant_side(write):
    rows = [
        {"id": f"r{i}", "source": side("en", dominant), "target": side(language, prompt)}
        for i, (dominant, language, prompt) in enumerate(
            [("Tea?", "sw", "Chai?"), ("Tea?", "bn", "চা?"), ("Milk?", "sw", "Maziwa?")]
        )
    ]
    assert read_sources(write(*rows), "en", ["sw", "bn"]) == [
        Source("r0", {"en": "Tea?", "sw": "Chai?", "bn": "চা?"}, "Spill it."),
        Source("r2", {"en": "Milk?", "sw": "Maziwa?"}, "Spill it."),
    ]


@pytest.mark.parametrize(
    ("dominant", "languages", "said"),
    [
        ("en", ["xx"], "The language 'xx' is in no table of translators"),
        ("en", ["sw", "en"], "--languages has 'en', the dominant language"),
        ("de", ["sw"], "has no prompts in 'de', the dominant language"),
    ],
)
def test_languages_that_do_not_fit(write, dominant, languages, said):
    with pytest.raises(InputError, match=said):
        read_sources(write(own("a", "en", "Tea?")), dominant, languages)


def test_a_conversation_of_several_turns_is_no_source(write):
    with pytest.raises(InputError, match="the prompt 'a' in 'en' has several messages or turns"):
        read_sources(write(own("a", "en", "Tea?", follow_ups=["Why?"])), "en", ["sw"])


def test_the_limit_counts_what_can_be_used():
    sources = [Source(str(n), {"en": f"{n}?"}, "x" if n % 2 else None) for n in range(6)]
    usable = lambda source: None if source.unsafe else "no unsafe answer in the data"  # noqa: E731
    kept, left_out = selected(sources, usable, 2)
    assert [source.id for source in kept] == ["1", "3"] and left_out == {"no unsafe answer in the data": 2}
    with pytest.raises(InputError, match=r"None of 1 prompts can be used \(1: no unsafe answer in the data\)"):
        selected(sources[:1], usable, None)
    with pytest.raises(InputError, match="--limit 0 must be at least 1"):
        selected(sources, usable, 0)


def test_the_digest_is_of_all_that_prompts_say():
    one = Source("a", {"en": "Tea?"}, "x")
    others = [Source("b", {"en": "Tea?"}, "x"), Source("a", {"en": "Tea"}, "x"), Source("a", {"en": "Tea?"})]
    assert len({digest([source]) for source in (one, *others)}) == 4
