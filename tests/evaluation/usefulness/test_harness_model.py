"""The harness gets the same from our engine as from its own `hf` backend, and nothing twice."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import make_small
import numpy as np
import pytest
import toy_chat
import usefulness_tasks

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install -r requirements-utility.txt")

from mpo_jax.data.conversation import Conversation
from mpo_jax.errors import InputError
from mpo_jax.evaluation.usefulness import harness
from mpo_jax.evaluation.usefulness.benchmarks import wanted
from mpo_jax.evaluation.usefulness.harness_model import Asking, decoding_of, harness_model, rendered, shortened
from mpo_jax.generation.base import Decoding
from mpo_jax.generation.engine import load_engine
from mpo_jax.generation.records import read_responses

GREEDY = Decoding(max_new_tokens=8)


def toy(folder: Path) -> Path:
    toy_chat.tokenizer().save_pretrained(folder / "tokenizer")
    make_small.make("llama", folder / "tokenizer", folder / "model", vocab=264)
    ends = {"eos_token_id": toy_chat.tokenizer().eos_token_id}  # without it the hf backend writes on after an end
    (folder / "model" / "generation_config.json").write_text(json.dumps(ends))
    return folder / "model"


def asking_of(model: Path, folder: Path, *, max_length: int = 512, template: str = "hf", **options) -> Asking:
    options = {"dtype": jnp.float32, "batch_size": 8, "tensor": 1} | options
    engine = load_engine(model, Decoding(), template=template, **options)
    assert isinstance(engine.conversation, Conversation)
    return Asking(engine, engine.conversation, folder, max_length)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def asking(model, tmp_path_factory) -> Asking:
    return asking_of(model, tmp_path_factory.mktemp("asking") / "answers")


def loaded(folder: Path, *names: str, num_fewshot: int | None = None):
    return harness.load(wanted(names, ()), include_path=folder, num_fewshot=num_fewshot)


def replies(results) -> dict[tuple, list]:
    """What the model said to each question, by task and question."""
    samples = results["samples"].items()
    return {(task, sample["doc_id"]): sample["resps"] for task, those in samples for sample in those}


def of_hf_backend(model: Path, tasks, *, chat: bool, max_length: int) -> dict[tuple, list]:
    """What the harness gets from its own backend."""
    pytest.importorskip("torch", reason="needs torch: pip install torch")
    pytest.importorskip("accelerate", reason="lm-evaluation-harness's own backend needs accelerate: pip install accelerate")
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=4, max_length=max_length)
    return replies(evaluate(theirs, tasks, apply_chat_template=chat, fewshot_as_multiturn=chat, bootstrap_iters=0))


def assert_same(model: Path, folder: Path, out: Path, names: list[str], *, chat: bool, num_fewshot: int | None, max_length: int):
    """Log-likelihoods to 1e-4, and the same greedy flags and answers. Returns what was compared."""
    tasks = loaded(folder, *names, num_fewshot=num_fewshot)
    theirs = of_hf_backend(model, tasks, chat=chat, max_length=max_length)
    tasks = loaded(folder, *names, num_fewshot=num_fewshot)
    results = harness.measure(asking_of(model, out, max_length=max_length), wanted(names, ()), tasks, limit=None, chat=chat)
    ours = replies(results)
    assert ours.keys() == theirs.keys()
    for question, those in theirs.items():
        for (mine,), (reply,) in zip(ours[question], those, strict=True):
            if isinstance(reply, tuple):
                np.testing.assert_allclose(mine[0], reply[0], atol=1e-4, rtol=1e-5, err_msg=str(question))
                assert mine[1] == reply[1], question
            elif isinstance(reply, float):
                np.testing.assert_allclose(mine, reply, atol=1e-4, rtol=1e-5, err_msg=str(question))
            else:
                assert mine == reply, question
    return ours


@pytest.mark.filterwarnings("ignore")  # those of torch and of the other backend
@pytest.mark.parametrize(("chat", "num_fewshot"), [(False, None), (False, 2), (True, None), (True, 2)])
def test_likelihoods_and_answers_are_those_of_the_hf_backend(model, tmp_path, chat, num_fewshot):
    tasks = tmp_path / "tasks"
    usefulness_tasks.write_choices(tasks)
    usefulness_tasks.write_sums(tasks, "sums", max_gen_toks=24, until=["%", "\n\n"])  # the toy writes % now and then
    usefulness_tasks.write_texts(tasks, "texts", ["hello there", "habari ya leo, rafiki " * 20, ""])
    names = ["toy_choice", "sums", *(["texts"] if num_fewshot is None else [])]
    ours = assert_same(model, tasks, tmp_path / "out", names, chat=chat, num_fewshot=num_fewshot, max_length=512)
    if num_fewshot is None:
        assert any(len(reply[0][0]) < 8 for (task, _), reply in ours.items() if task == "sums"), "a string ended one"
    assert len({json.dumps(reply) for reply in ours.values()}) > len(ours) // 2, "different questions, different replies"


@pytest.mark.filterwarnings("ignore")
def test_contexts_that_are_too_long_are_cut_as_by_the_hf_backend(model, tmp_path):
    tasks = tmp_path / "tasks"
    usefulness_tasks.write_sums(tasks, "sums")
    usefulness_tasks.write_choices(tasks)
    usefulness_tasks.write_texts(tasks, "texts", ["habari ya leo, rafiki " * 20])
    assert_same(model, tasks, tmp_path / "out", ["toy_choice", "sums", "texts"], chat=False, num_fewshot=None, max_length=40)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tokenizer", ["llama-3.1-8b-instruct", "qwen2.5-7b-instruct", "gemma-2-9b-it"])
def test_mgsm_and_choices_with_published_tokenizers(shared, tmp_path, tokenizer):
    """Of MGSM's own files, by its own task, in four languages."""
    sizes = {
        "llama-3.1-8b-instruct": ("llama", 128256),
        "qwen2.5-7b-instruct": ("qwen2", 152064),
        "gemma-2-9b-it": ("gemma2", 256000),
    }
    family, vocab = sizes[tokenizer]
    make_small.make(family, shared / "data" / "tokenizers" / tokenizer, tmp_path / "model", vocab=vocab)
    tasks, names = tmp_path / "tasks", []
    usefulness_tasks.write_choices(tasks)
    for language in ("en", "sw", "bn", "zh"):
        lines = (shared / "data" / "mgsm" / f"mgsm_{language}.tsv").read_text().splitlines()[:3]
        rows = [(question, answer) for question, _, answer in (line.partition("\t") for line in lines)]
        usefulness_tasks.write_sums(tasks, f"mgsm_native_cot_{language}", rows, max_gen_toks=16)
        names.append(f"mgsm_native_cot_{language}")
    for chat in (True, False):
        out = tmp_path / f"out {chat}"
        assert_same(tmp_path / "model", tasks, out, ["toy_choice", *names], chat=chat, num_fewshot=None, max_length=1024)


def test_a_text_has_one_beginning_whatever_stands_in_it(asking):
    text, bos = asking.text, toy_chat.tokenizer().bos_token_id
    assert text.ids("habari").count(bos) == 1
    assert text.ids("habari", special=False).count(bos) == 0
    chat = harness_model(asking).apply_chat_template([{"role": "user", "content": "habari"}])
    assert text.ids(chat).count(bos) == 1
    assert text.ids(chat) == asking.conversation.tokens([harness_message("habari")]).tolist()


def harness_message(content: str):
    from mpo_jax.data.prompts.base import Message

    return Message("user", content)


def test_a_chat_format_without_a_template_of_the_tokenizer(asking):
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}]
    whole = rendered(asking.conversation, turns, answer=True)
    assert whole.endswith("<model>\n") and whole.index("one") < whole.index("two") < whole.index("three")
    begun = rendered(asking.conversation, [*turns, {"role": "assistant", "content": "four"}], answer=False)
    assert begun == whole + "four"


def test_answers_are_kept_and_a_second_run_writes_none(asking, monkeypatch):
    contexts = ["habari", "hello", "habari"]
    first = asking.answers(contexts, GREEDY)
    assert first[0] == first[2] != first[1]
    monkeypatch.setattr(type(asking.engine), "write", lambda *_: pytest.fail("asked again"))
    assert asking.answers(contexts[::-1], GREEDY) == first[::-1]
    assert len(read_responses(asking.folder / "greedy-8")) == 2


def test_samples_of_the_same_context_differ(asking):
    found = asking.answers(["habari", "hello", "habari", "habari"], Decoding(temperature=1.0, max_new_tokens=8))
    assert len(set(found)) == 4
    assert (asking.folder / "t1-p1-k0-8").is_dir()


def test_a_limit_without_room_for_a_question_is_a_sentence(asking):
    with pytest.raises(InputError, match="asks for 512 new tokens, but the model reads at most 512"):
        asking.answers(["habari"], Decoding(max_new_tokens=512))


def test_a_string_ends_an_answer():
    assert shortened("a b\nc. Swali: d", ["Swali:", "\n\n"]) == "a b\nc. "
    assert shortened("a b\nc. Swali: d", ["Swali:", "", "b"]) == "a "
    assert shortened("a b", []) == "a b"


def test_what_a_task_may_ask_of_an_answer():
    known = {"until": [], "max_gen_toks": 9}
    assert decoding_of({**known, "do_sample": False, "temperature": 0.0}) == Decoding(max_new_tokens=9)
    drawn = decoding_of({**known, "do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": -1})
    assert drawn == Decoding(temperature=0.5, top_p=0.9, max_new_tokens=9)
    assert decoding_of({**known, "do_sample": True}).temperature == 1.0
    with pytest.raises(InputError, match="generation option 'num_beams', which the engine does not have"):
        decoding_of({**known, "do_sample": False, "num_beams": 4})


def test_long_contexts_are_counted(model, tmp_path):
    asking = asking_of(model, tmp_path / "answers", max_length=16)
    (whole,) = asking.likelihoods([(list(range(40, 80)), [1, 2])])
    assert asking.cut.contexts == 1
    assert asking.likelihoods([(list(range(65, 80)), [1, 2])]) == [whole], "the last fifteen of them, and two more but the last"
    assert asking.cut.contexts == 1
    asking.answers(["a" * 50, "b"], GREEDY)
    assert asking.cut.contexts == 2


def test_no_mesh_changes_what_is_said(asking, model, tmp_path):
    split = asking_of(model, tmp_path / "answers", tensor=2, width=2)
    assert split.engine.mesh.devices.size == jax.device_count()
    contexts = [f"swali {n}" for n in range(9)]
    assert split.answers(contexts, GREEDY) == asking.answers(contexts, GREEDY)
