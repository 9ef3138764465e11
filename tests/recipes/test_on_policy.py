"""Refusals are sampled until the phrases, the end of the answer and the judge agree, and given up after a stated number."""

import json

import pytest
import scripted
from scripted import LIMIT, SOURCES, Voice

from mpo_jax.errors import InputError
from mpo_jax.recipes.on_policy import OnPolicy
from mpo_jax.recipes.run import carry_out
from mpo_jax.recipes.sources import Source

NO = "I cannot help with that, {}."
# What the model says to a prompt, sample by sample: only the last one of "tea" passes.
TEA = ("Boil water.", f"I'm sorry, but{LIMIT}", NO.format("rude"), "", NO.format("friend"))


def model(bike=TEA[-1:]):
    said = {"tea": TEA, "bike": bike}
    return Voice(lambda request: said[request.prompt.id][request.sample])


def made(folder, voice, says=lambda text: "unsafe" if "rude" in text else "safe", recipe=None, **more):
    judge, asked = scripted.judge(says)
    build = scripted.build(folder, voice, judge=judge, **more)
    carry_out("on_policy", recipe or OnPolicy(), build, models={})
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()], asked


def test_an_answer_is_sampled_again_until_it_refuses_ends_and_is_called_safe(tmp_path):
    voice = model()
    rows, judged = made(tmp_path / "out", voice)
    assert [(row["id"], row["source"]["chosen"]) for row in rows] == [
        ("tea-sw", NO.format("friend")),
        ("bike-sw", NO.format("friend")),
    ]
    assert rows[0]["source"]["rejected"] == "Steal it."
    assert rows[0]["target"] == {
        "language": "sw",
        "prompt": "[sw] How do I make tea?",
        "chosen": f"[sw] {NO.format('friend')}",
        "rejected": "[sw] Steal it.",
    }
    assert sorted((one.prompt.id, one.sample) for one in voice.asked) == [("bike", 0), *(("tea", n) for n in range(5))]
    assert [one.messages[-1].content for one in judged.asked].count(NO.format("rude")) == 1
    assert len(judged.asked) == 3, "what does not refuse or end, or is empty, is not judged"


def test_a_prompt_is_given_up_after_a_stated_number_of_samples_and_said_to_be(tmp_path):
    rows, _ = made(tmp_path / "out", model(), recipe=OnPolicy(tries=3))
    assert [row["id"] for row in rows] == ["bike-sw"]
    (dropped,) = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    reason = "no refusal in 3 samples; the last one was called 'unsafe' by the judge"
    assert dropped == {"id": "tea", "language": "sw", "reason": reason}
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["dropped"] == {reason: {"sw": 1}}


def test_a_judge_that_never_says_safe_is_a_sentence(tmp_path):
    said = (
        "None of 5 samples of each of 2 prompts is a refusal; the last one of the first prompt was called 'unsafe' by the judge"
    )
    with pytest.raises(InputError, match=said):
        made(tmp_path / "out", model(bike=[NO.format(n) for n in range(5)]), lambda text: "unsafe", OnPolicy(tries=5))


def test_a_reply_that_is_no_verdict_is_never_safe(tmp_path):
    with pytest.raises(InputError, match="was called 'unparsed' by the judge"):
        made(tmp_path / "out", model(bike=[NO.format(n) for n in range(5)]), lambda text: "perhaps", OnPolicy(tries=5))


def test_errors_of_the_model_and_the_judge_stop_the_build_and_are_asked_again(tmp_path):
    with pytest.raises(InputError, match="1 prompts have no answer, the first one because of error: busy: run the command again"):
        made(tmp_path / "out", model(bike=("error: busy",)))
    with pytest.raises(
        InputError, match=r"The judge has no verdict on 1 answers \(no verdict: error: busy\): run the command again"
    ):
        made(tmp_path / "out", model(), lambda text: "error: busy")
    assert len(made(tmp_path / "out", model())[0]) == 2


def test_a_text_that_nobody_translates_is_dropped_with_the_reason(tmp_path):
    sources = (SOURCES[1], Source("tea", {"en": "How do I make tea?"}, "untranslatable"))
    rows, _ = made(tmp_path / "out", model(), sources=sources)
    assert [row["id"] for row in rows] == ["bike-sw"]
    assert "rejected: no translation: error: gone" in (tmp_path / "out" / "dropped.jsonl").read_text()


def test_prompts_of_the_data_are_not_translated(tmp_path):
    sources = (Source("bike", {"en": "Who repairs bikes?", "sw": "Nani hutengeneza baiskeli?"}, "Nobody."),)
    rows, _ = made(tmp_path / "out", model(), sources=sources)
    assert rows[0]["target"]["prompt"] == "Nani hutengeneza baiskeli?"


def test_without_a_judge_or_an_unsafe_answer(tmp_path):
    with pytest.raises(InputError, match="Who says whether an answer is safe"):
        carry_out("on_policy", OnPolicy(), scripted.build(tmp_path / "out", model()), models={})
    assert OnPolicy().usable(Source("x", {"en": "?"}, None)) == "no unsafe answer in the data"


@pytest.mark.parametrize(("options", "said"), [({"tries": 0}, "tries=0"), ({"temperature": 0.0}, "samples=8 at temperature 0")])
def test_options_that_cannot_be(options, said):
    with pytest.raises(InputError, match=said):
        OnPolicy(**options)
