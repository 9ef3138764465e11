"""A byte-level tokenizer of some 260 tokens with a chat template, and rows of many lengths, for tests."""

import functools

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mpo_jax.data.chat import Example, tokenize
from mpo_jax.data.rows import PairText, Row
from mpo_jax.types import ChatFormat

SPECIAL_TOKENS = ("<bos>", "<user>", "<end>", "<model>")
FORMAT = ChatFormat("<bos><user>\n", "<end>\n<model>\n", "<end>", strip=True, special_tokens=SPECIAL_TOKENS)
HEADER = 7  # tokens of the format around a message
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<user>' if m.role == 'user' else '<model>' }}\n"
    "{{ m.content | trim }}<end>\n{% endfor %}{% if add_generation_prompt %}<model>\n{% endif %}"
)


@functools.cache
def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    # pad = end, as many published tokenizers are used: a mask made from pad ids would lose the real end token
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token="<end>", pad_token="<end>")
    fast.add_special_tokens({"additional_special_tokens": ["<user>", "<model>"]})
    # as Llama's does, it puts a beginning token before any text unless told not to: formats bring their own
    bos = ("<bos>", fast.bos_token_id)
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    fast.chat_template = template
    return fast


def rows(count: int = 10, source: bool = True) -> list[Row]:
    """Two target languages share each dominant prompt; lengths vary."""
    made = []
    for i in range(count):
        dominant = PairText("en", f"question {i // 2}", "no " * (1 + i % 3), "yes" * (1 + i % 5))
        target = PairText(("sw", "ko")[i % 2], f"swali {i} {'x' * (7 * i % 23)}", "hapana" + "a" * (i % 4), "ndiyo" * (1 + i % 2))
        made.append(Row(str(i), dominant if source else None, target, "given"))
    return made


def examples(count: int = 10, source: bool = True, max_length: int = 1024) -> list[Example]:
    return tokenize(rows(count, source), tokenizer(), FORMAT, max_length=max_length)
