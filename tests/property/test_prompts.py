"""Whatever a file of prompts holds, reading it ends in prompts that can be tokenised and written, or in a sentence."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from outcome import outcome

from mpo_jax.data.prompts.multijail import LANGUAGES
from mpo_jax.data.prompts.registry import read_prompts
from mpo_jax.errors import InputError

ODD = ["", " ", "\n", "\r", "\u2028", "\x00", "é", "好", '"', ",", "\t", "7", "[", "{", "'", "\\"]
words = st.lists(st.sampled_from([*ODD, "tea", "en"]), max_size=4).map("".join)
odd = st.sampled_from([*ODD, "\ud83d", None, True, 0, -1.5, 10**20, float("nan"), [], ["x"], [[]], {}, {"role": "user"}])
value = words | odd | st.lists(words | odd, max_size=2)
message = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "x"]), "content": value})
KEYS = ("id", "language", "prompt", "follow_ups", "question_id", "turns", "category", "category_id", "target")
objects = st.dictionaries(st.sampled_from(KEYS), value | st.lists(message, max_size=3))
own = st.fixed_dictionaries({"id": words, "language": words, "prompt": value | st.lists(message, max_size=3)})
json_files = st.lists(objects | own, max_size=3).flatmap(
    lambda found: st.sampled_from([json.dumps(found), "\n".join(map(json.dumps, found))])
)
headers = st.sampled_from(["goal,target", "id,category,en,csrt", f"id,source,tags,{','.join(LANGUAGES)}", "what?\t3"])
tables = st.tuples(headers, st.lists(words, max_size=6)).map(lambda parts: "\n".join([parts[0], *parts[1]]))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("prompts") / "mgsm_sw.tsv"


@given(content=(json_files | tables).map(str.encode) | st.binary(max_size=40))
@example(b"[" * 100_000)
@example(b'{"id": ' + b"1" * 5000 + b"}")
@example(b'goal,target\n"a')
@example(b'{"id": "a", "language": "en", "prompt": "a", "note": "\\ud83d"}')
@example(b"id,category,en,csrt\n1," + b"(" * 5000 + b",a,b")
def test_any_file_ends_in_prompts_or_in_a_sentence(path, content):
    path.write_bytes(content)
    prompts = outcome(lambda: read_prompts(path))
    for prompt in () if isinstance(prompts, InputError) else prompts:
        assert prompt.messages[-1].role == "user"
        assert all(message.content.strip() for message in prompt.messages)
        parts = [prompt.id, prompt.language, [message.content for message in prompt.messages], prompt.follow_ups, prompt.fields]
        json.dumps(parts, ensure_ascii=False).encode()
