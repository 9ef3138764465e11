"""How does NLLB translate? Sentence by sentence, on a CPU, by CTranslate2.

NLLB was trained on single sentences and leaves some out of longer texts (facebookresearch/fairseq #5108), so a text is cut into
sentences, line breaks and the space between sentences are kept as they are, and the pieces are put together again. The folder is
one of `ct2-transformers-converter`, with tokenizer.json or sentencepiece.bpe.model beside the weights (docs/safety.md).
M. R. Costa-jussà et al., arXiv:2207.04672.
"""

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mpo_jax.clients.languages import LANGUAGES, language
from mpo_jax.clients.translators.base import Translator
from mpo_jax.data.prompts.base import Message
from mpo_jax.errors import InputError
from mpo_jax.files.digests import fingerprint, sampled
from mpo_jax.generation.base import Request, Response

BEAM, LONGEST = 4, 512  # beams; tokens of a sentence
BATCH = 32  # sentences at a time
# After a mark that ends a sentence and what closes it: white space, or nothing where a script writes none.
_ENDS = re.compile(r"(?<=[.!?।؟])[\"'”’)\]]*\s+|(?<=[。！？])[”’」』）]*\s*|\s*\n\s*")

Sentences = Callable[[Sequence[str], str], list[str]]  # (sentences, their NLLB code) -> their translations


def pieces(text: str) -> list[tuple[str, str]]:
    """A text as (sentence, what stands between it and the next); all put together are the text. Either may be empty."""
    found, at = [], 0
    for end in _ENDS.finditer(text):
        if end.start() == end.end():  # no white space after the mark: the next sentence begins here
            found.append((text[at : end.start()], ""))
        else:
            between = end[0]
            closed = len(between) - len(between.lstrip("\"'”’)]」』）"))
            found.append((text[at : end.start() + closed], between[closed:]))
        at = end.end()
    return [*found, (text[at:], "")]


def joined(parts: Sequence[tuple[str, str]], translated: Sequence[str]) -> str:
    """The translations in the places of the sentences. Where a script writes no space between sentences, one is added."""
    text = ""
    for (sentence, between), meaning in zip(parts, translated, strict=True):
        text += (meaning if sentence.strip() else sentence) + (between or (" " if sentence.strip() else ""))
    return text.rstrip(" ") if not parts[-1][0].endswith(" ") else text


class Nllb:
    """A `Responder` whose answer to a text is its translation. `sentences` translates; `known` says which model, as JSON."""

    shared = False

    def __init__(self, sentences: Sentences, target: str, known: dict[str, Any]):
        self._sentences, self._target, self._known = sentences, target, known

    @property
    def settings(self) -> dict[str, Any]:
        return {**self._known, "target": self._target, "beam": BEAM, "longest": LONGEST}

    def respond(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        for request in requests:
            parts = pieces(request.messages[-1].content)
            wanted = [sentence for sentence, _ in parts if sentence.strip()]
            found = iter(self._sentences(wanted, language(request.prompt.language).nllb))
            translated = [next(found) if sentence.strip() else "" for sentence, _ in parts]
            yield request, Response(joined(parts, translated), "end", None, None)


def translator(folder: Path, target: str) -> Translator:
    """Errors: no such folder; CTranslate2 is not installed."""
    known = identity(folder)
    return Translator(
        name=f"nllb-{folder.name}",
        target=target,
        messages=lambda text, source: (Message("user", text),),
        responder=lambda: Nllb(_ctranslate2(folder, language(target).nllb), target, known),
        languages=frozenset(LANGUAGES),
    )


def identity(folder: Path) -> dict[str, str]:
    """Which model is in a folder, as JSON. Errors: none is."""
    if not (folder / "model.bin").is_file():
        raise InputError(
            f"{folder} is no converted NLLB: run `ct2-transformers-converter --model facebook/nllb-200-distilled-600M "
            f"--output_dir {folder} --copy_files tokenizer.json tokenizer_config.json`."
        )
    return {"nllb": fingerprint(sampled(folder, ("model.bin", "*.json")))}


def load(folder: Path) -> tuple[Any, Any]:
    """(ctranslate2.Translator on this machine's CPU, the tokenizer). Errors: CTranslate2 is not installed."""
    try:
        ctranslate2 = importlib.import_module("ctranslate2")
    except ImportError:
        raise InputError("The translator 'nllb' needs the package ctranslate2: run `pip install 'mpo_jax[nllb]'`.") from None
    import transformers

    return ctranslate2.Translator(str(folder), device="cpu"), transformers.AutoTokenizer.from_pretrained(str(folder))


def marked(tokenizer: Any, text: str, code: str) -> list[str]:
    """The tokens of a text after that of its language; at most `LONGEST` of them."""
    ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=LONGEST, split_special_tokens=True)
    return [code, *tokenizer.convert_ids_to_tokens(ids["input_ids"])]


def _ctranslate2(folder: Path, target: str) -> Sentences:
    """The model on this machine's CPU."""
    model, tokenizer = load(folder)

    def translate(sentences: Sequence[str], source: str) -> list[str]:
        tokens = [[*marked(tokenizer, sentence, source), "</s>"] for sentence in sentences]
        prefixes = [[target]] * len(tokens)
        results = model.translate_batch(
            tokens, target_prefix=prefixes, beam_size=BEAM, max_batch_size=BATCH, max_decoding_length=LONGEST
        )
        found = [tokenizer.convert_tokens_to_ids(result.hypotheses[0][1:]) for result in results]
        return [tokenizer.decode(ids, skip_special_tokens=True) for ids in found]

    return translate
