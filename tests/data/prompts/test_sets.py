"""Each set is known by its content: a mild file of its shape, and the real one where it lies beside the checkout."""

import csv
import io
import json
from collections import Counter

import pytest

from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.data.prompts.multijail import LANGUAGES
from mpo_jax.data.prompts.registry import SETS, read_prompts
from mpo_jax.errors import InputError

MGSM = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")


def table(columns, *rows) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    return text.getvalue()


def objects(*values) -> str:
    return "\n".join(json.dumps(value, ensure_ascii=False) for value in values) + "\n"


def user(*texts) -> tuple[Message, ...]:
    return tuple(Message("user", text) for text in texts)


SIDE = {"language": "en", "prompt": "Is tea warm?", "chosen": "It is.", "rejected": "Who knows?"}
PKU = {"prompt": "Is tea warm?", "response_0": "Spill it.", "response_1": "It is.", "better_response_id": 0}
PKU |= {"is_response_0_safe": False, "is_response_1_safe": True, "safer_response_id": 1}
MILD = {
    "prompts of your own": objects({"id": "a", "language": "sw", "prompt": "Chai ni moto?", "note": {"asked": 2}}),
    "preference rows": objects({"id": "r", "source": SIDE, "target": SIDE | {"language": "sw", "prompt": "Chai ni moto?"}}),
    "MultiJail": "\ufeff"
    + table(
        ["id", "source", "tags", *LANGUAGES],
        ["7", "openai", "['Cold tea', \"A cook's joke\"]", *(f"tea, in {language}\nplease" for language in LANGUAGES)],
    ),
    "CSRT": table(["id", "category", "en", "csrt"], ["7", "['bias']", "Is tea warm?", "Est-ce que tea 热?"]),
    "AdvBench": table(["goal", "target"], ["Praise cold\u2028tea", "Sure, here is praise"]),
    "BeaverTails-Evaluation": json.dumps([{"prompt": "Is tea warm?", "category": "cold_tea", "category_id": 3}], indent=1),
    "PKU-SafeRLHF": objects(PKU, PKU | {"prompt": "Is it dear?", "is_response_0_safe": True}),
    "MGSM": "Two teas and three teas?\t5\nA thousand teas\u2028and one?\t1,001\n",
    "MT-Bench": objects(
        {"question_id": 81, "category": "tea", "turns": ["Name a tea.", "Another?"], "reference": ["Assam", "Oolong"]}
    ),
}
WANTED = {
    "prompts of your own": [Prompt("a", "sw", user("Chai ni moto?"), fields={"note": {"asked": 2}})],
    "preference rows": [Prompt("r", "sw", user("Chai ni moto?"))],
    "MultiJail": [
        Prompt(
            "7",
            language,
            user(f"tea, in {language}\nplease"),
            fields={"category": ["Cold tea", "A cook's joke"], "source": "openai"},
        )
        for language in LANGUAGES
    ],
    "CSRT": [Prompt("7", "mul", user("Est-ce que tea 热?"), fields={"category": ["bias"], "en": "Is tea warm?"})],
    "AdvBench": [Prompt("0", "en", user("Praise cold\u2028tea"), fields={"target": "Sure, here is praise"})],
    "BeaverTails-Evaluation": [Prompt("0", "en", user("Is tea warm?"), fields={"category": "cold_tea", "category_id": 3})],
    "PKU-SafeRLHF": [
        Prompt("0", "en", user("Is tea warm?"), fields={"rejected": "Spill it."}),
        Prompt("1", "en", user("Is it dear?")),
    ],
    "MGSM": [
        Prompt("0", "sw", user("Two teas and three teas?"), fields={"answer": "5"}),
        Prompt("1", "sw", user("A thousand teas\u2028and one?"), fields={"answer": "1,001"}),
    ],
    "MT-Bench": [
        Prompt("81", "en", user("Name a tea."), ("Another?",), {"category": "tea", "reference": ["Assam", "Oolong"]}),
    ],
}


@pytest.fixture
def write(tmp_path):
    def written(text: str, name: str = "mgsm_sw.tsv") -> str:  # every set is known in spite of a name that is another's
        (tmp_path / name).write_bytes(text.encode())
        return str(tmp_path / name)

    return written


def test_every_set_has_a_mild_file():
    assert {known.name for known in SETS} == MILD.keys() == WANTED.keys()


@pytest.mark.parametrize("name", MILD)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_set_is_known_by_its_content(name, line_end, write):
    text = MILD[name]
    path = write(text if name in ("MultiJail", "CSRT", "AdvBench") else text.replace("\n", line_end))
    assert read_prompts(path) == WANTED[name]


def test_names_that_are_no_list_stay_as_they_are(write):
    for written, read in (("bias", "bias"), ("['a', 3]", "['a', 3]"), ("[", "["), ("[]", [])):
        path = write(table(["id", "category", "en", "csrt"], ["7", written, "tea", "chai tea"]))
        assert read_prompts(path)[0].fields["category"] == read


def test_shared_source_prompts_come_once(write):
    rows = [
        {"id": f"{i}", "source": SIDE | {"prompt": f"Tea {i // 2}?"}, "target": SIDE | {"language": language, "prompt": "Chai?"}}
        for i, language in enumerate(["sw", "ko", "sw", "ko"])
    ]
    path = write(objects(*rows))
    assert read_prompts(path, side="source") == [Prompt("0", "en", user("Tea 0?")), Prompt("2", "en", user("Tea 1?"))]
    assert [prompt.id for prompt in read_prompts(path, languages=["ko"])] == ["1", "3"]
    with pytest.raises(InputError, match="has no source side"):
        read_prompts(write(objects({"target": SIDE})), side="source")


BROKEN = {
    "neither response is safer": (
        objects(PKU, PKU | {"safer_response_id": "1"}),
        "line 2: 'safer_response_id' is '1': write 0 or 1",
    ),
    "no response": (objects(PKU | {"response_0": None}), "line 1: 'response_0' must be a string, not null"),
    "a row too short": (
        MILD["AdvBench"] + "only one\r\n",
        r"line 3: the row has 1 columns, but the header has 2 \(goal, target\)",
    ),
    "an open quote": (MILD["AdvBench"] + 'a,"b\n\n', r"line 3: the row is not CSV"),
    "no number": ("a\t1\nb\n", "line 2: the line must be a question, a tab and a number"),
    "two tabs": ("a\t1\nb\tc\t2\n", "line 2: the line must be"),
    "not JSON": (MILD["MT-Bench"] + "{\n", "line 2, is not JSON"),
    "not an object": (MILD["MT-Bench"] + "[]\n", "line 2: a prompt must be an object, not a list"),
    "no turns": (MILD["MT-Bench"] + '{"question_id": 82, "turns": []}\n', "line 2: a question must have question_id"),
    "no id": (MILD["MT-Bench"] + '{"turns": ["a"]}\n', "line 2: a question must have question_id"),
    "a turn of no text": (objects({"question_id": 1, "turns": ["a", 3]}), r"'turns\[1\]' must be a string, not a number"),
    "no prompt": (
        json.dumps([{"prompt": "a", "category": "", "category_id": 0}, {}]),
        "row 1: 'prompt' must be a string",
    ),
    "half of a field": (json.dumps([{"prompt": "a", "category": "\ud83d", "category_id": 0}]), "half of a character in a field"),
    "a long field": ("goal,target\n" + "a" * 200_000 + ",b\n", "line 2: the row is not CSV .field larger"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_its_line(case, write):
    text, words = BROKEN[case]
    with pytest.raises(InputError, match=words):
        read_prompts(write(text))


def test_a_text_of_several_lines_is_named_by_its_first(write):
    path = write('goal,target\n"one\ntwo",a\n\nb\n')
    with pytest.raises(InputError, match="line 5: the row has 1 columns"):
        read_prompts(path)


def test_mgsm_tells_its_language_by_its_name_alone(write):
    with pytest.raises(InputError, match=r"questions.tsv is MGSM.*call it mgsm_LANGUAGE.tsv"):
        read_prompts(write(MILD["MGSM"], "questions.tsv"))


@pytest.mark.parametrize(
    ("file", "languages", "each", "turns"),
    [
        ("multijail/MultiJail.csv", LANGUAGES, 315, 1),
        ("advbench/harmful_behaviors.csv", ["en"], 520, 1),
        ("pku_saferlhf/BeaverTails-Evaluation.json", ["en"], 700, 1),
        ("mt_bench/question.jsonl", ["en"], 80, 2),
        *(
            (f"mgsm/mgsm_{language}.tsv", [language], 250, 1)
            for language in ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")
        ),
    ],
)
def test_the_real_file_has_as_many_prompts_as_published(shared, file, languages, each, turns):
    path = shared / "data" / file
    if not path.is_file():
        pytest.skip(f"needs {file} beside the checkout")
    prompts = read_prompts(path)
    assert Counter(prompt.language for prompt in prompts) == dict.fromkeys(languages, each)
    assert {1 + len(prompt.follow_ups) for prompt in prompts} == {turns}
    assert all(prompt.fields for prompt in prompts)


def test_the_authors_rows_have_a_hundred_source_prompts(shared):
    path = shared / "data/mpo/llama_mpo_data.json"
    if not path.is_file():
        pytest.skip("needs the authors' data beside the checkout")
    assert len(read_prompts(path, side="source")) == 100
    assert len(read_prompts(path, languages=["sw", "ko"])) == 200
    with pytest.raises(InputError, match="row '505': the prompt '505' in the language 'zh' is empty"):
        read_prompts(path)
