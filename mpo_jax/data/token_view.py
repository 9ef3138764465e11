"""What will a model see of these rows? The tokens, marked as template, prompt or scored answer; lengths and noise per language; a
picture of the lengths.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpo_jax.data.audit import Audit, audit, warnings
from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.chat_format import is_one_token
from mpo_jax.data.rows import Row
from mpo_jax.files.paths import path_of, written_locally
from mpo_jax.types import ChatFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Kind of token -> its ANSI colour, and the brackets used where there are no colours.
_STYLES = {"template": ("2", "<", ">"), "prompt": ("36", "", ""), "scored": ("32", "[", "]")}
_MARK = re.compile(r"<[^<>\s]+>|\[[A-Z/_]+\]")


def show_row(example: Example, tokenizer: "PreTrainedTokenizerFast", form: ChatFormat, colour: bool) -> str:
    """The sequences of a row as text: template, prompt and scored answer told apart by colour, or by <...>, ... and [...]."""
    lines = [f"row {example.id} ({example.language})"]
    sides = {"source": example.source, "target": example.target}
    for name, pair in sides.items():
        if pair is not None:
            for answer in ("chosen", "rejected"):
                ids = getattr(pair, answer)
                warning = _count_marks(pair.prompt, ids, tokenizer, form)
                lines.append(f"  {name} {answer}: {len(pair.prompt)} + {len(ids)} tokens{warning}")
                lines.append("    " + _painted(pair.prompt, ids, tokenizer, form, colour))
    return "\n".join(lines)


def _painted(prompt: np.ndarray, answer: np.ndarray, tokenizer: "PreTrainedTokenizerFast", form: ChatFormat, colour: bool) -> str:
    pieces = _pieces(prompt, tokenizer)
    text = "".join(pieces)
    # Truncating the header ("official") can cut into the text around the message; then all of it counts as prompt.
    start = len(form.before) if text.startswith(form.before) else 0
    stop = len(text) - len(form.between) if text.endswith(form.between) else len(text)
    parts: dict[str, list[str]] = {"before": [], "message": [], "between": []}
    at = 0
    for piece in pieces:
        inside = at >= start and at + len(piece) <= stop
        parts["message" if inside else "before" if at < start else "between"].append(piece)
        at += len(piece)
    kinds = {"before": "template", "message": "prompt", "between": "template"}
    painted = [_part(parts[name], kind, colour) for name, kind in kinds.items()]
    return "".join([*painted, _part(_pieces(answer, tokenizer), "scored", colour)])


def _pieces(ids: np.ndarray, tokenizer: "PreTrainedTokenizerFast") -> list[str]:
    """The text of each token; tokens that only make a character together are one piece."""
    pieces, pending = [], []
    for token in ids.tolist():
        pending.append(token)
        if not (text := str(tokenizer.decode(pending))).endswith("\ufffd"):
            pieces.append(text)
            pending = []
    return [*pieces, str(tokenizer.decode(pending))] if pending else pieces


def _part(pieces: Sequence[str], kind: str, colour: bool) -> str:
    """Tokens side by side: every other one underlined, or with bars between them where there are no colours."""
    code, left, right = _STYLES[kind]
    if not colour:
        return left + "|".join(pieces) + right
    return "".join(f"\x1b[{code}{';4' if i % 2 else ''}m{piece}\x1b[0m" for i, piece in enumerate(pieces))


def _count_marks(prompt: np.ndarray, answer: np.ndarray, tokenizer: "PreTrainedTokenizerFast", form: ChatFormat) -> str:
    """A warning where a sequence does not begin once or the answer does not end once; empty otherwise."""
    warnings = []
    ends = int(np.sum(answer == tokenizer(form.end, add_special_tokens=False)["input_ids"][-1]))
    if ends != 1:
        warnings.append(f"{ends} end tokens {form.end!r} in the answer")
    # A tokenizer may name a beginning token that its models do not use: the format says whether they do.
    if tokenizer.bos_token is not None and str(tokenizer.bos_token) in form.before:
        begins = int(np.sum(np.concatenate([prompt, answer]) == tokenizer.bos_token_id))
        if begins != 1:
            warnings.append(f"{begins} beginning tokens {tokenizer.bos_token!r}")
    return "".join(f"  WARNING: {warning}, expected 1" for warning in warnings)


def _warned(example: Example, tokenizer: "PreTrainedTokenizerFast", form: ChatFormat) -> bool:
    pairs = [pair for pair in (example.source, example.target) if pair is not None]
    return any(_count_marks(p.prompt, answer, tokenizer, form) for p in pairs for answer in (p.chosen, p.rejected))


def table(examples: Sequence[Example], findings: dict[str, Audit]) -> str:
    """Per target language: rows, mean / longest length in tokens of the four sequences, and what `audit` found."""
    names = ("source chosen", "source rejected", "target chosen", "target rejected")
    lines = [f"{'language':<10}{'rows':>6}" + "".join(f"{name:>18}" for name in names)]
    for language in findings:
        own = [example for example in examples if example.language == language]
        cells = []
        for name in names:
            lengths = sequence_lengths(own, *name.split())
            cells.append(f"{np.mean(lengths):.0f} / {max(lengths)}" if lengths else "-")
        lines.append(f"{language:<10}{len(own):>6}" + "".join(f"{cell:>18}" for cell in cells))
    kinds = [kind for kind in Audit.__dataclass_fields__ if kind != "rows"]
    lines += ["", f"{'rows with':<34}" + "".join(f"{language:>8}" for language in findings)]
    for kind in kinds:
        counts = [getattr(found, kind) for found in findings.values()]
        lines.append(f"{kind.replace('_', ' '):<34}" + "".join(f"{count:>8}" for count in counts))
    return "\n".join(lines)


def sequence_lengths(examples: Sequence[Example], side: str, answer: str) -> list[int]:
    """Tokens of prompt and answer together; `side` is "source" or "target", `answer` "chosen" or "rejected"."""
    pairs: list[TokenPair | None] = [example.source if side == "source" else example.target for example in examples]
    return [len(p.prompt) + len(p.chosen if answer == "chosen" else p.rejected) for p in pairs if p is not None]


def histogram(examples: Sequence[Example], path: str | Path) -> None:
    """Writes a PNG of the lengths of all target sequences, a line a language."""
    from matplotlib.figure import Figure  # slow to import; a bare figure draws with Agg and needs no display

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    lengths = {
        language: [n for answer in ("chosen", "rejected") for n in sequence_lengths(own, "target", answer)]
        for language in sorted({example.language for example in examples})
        if (own := [example for example in examples if example.language == language])
    }
    bins = np.linspace(0, max(max(values) for values in lengths.values()) + 1, 41).tolist()
    for language, values in lengths.items():
        axes.hist(values, bins=bins, histtype="step", label=f"{language} ({len(values)})")
    axes.set(xlabel="tokens of prompt and answer, target side", ylabel="sequences")
    axes.legend()
    with written_locally(path_of(path)) as here:
        figure.savefig(here, dpi=120)


def report(
    rows: Sequence[Row],
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerFast",
    form: ChatFormat,
    *,
    show: int = 2,
    png: str | Path | None = None,
) -> str:
    """The report as text. `examples` are the same rows, tokenised; `show` of them are printed token by token. The picture goes to
    `png` where that is given."""
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    shown = [show_row(example, tokenizer, form, colour) for example in examples[:show]]
    warned = [example.id for example in examples if _warned(example, tokenizer, form)]
    if png is not None:
        histogram(examples, png)
    counted = f"{len(warned)} of {len(examples)} rows have a sequence that lacks or repeats a beginning or end token"
    counted += f": {', '.join(warned[:20])}" if warned else ""
    cut = [
        f"The chat format contains {text}, which is not one token of this tokenizer: it is split into {n}."
        for text, n in cut_marks(form, tokenizer)
    ]
    found = audit(rows, examples)
    warned_of = "\n".join(f"warning: {warning}" for warning in warnings(found))
    return "\n\n".join([*shown, table(examples, found), *([warned_of] if warned_of else []), counted, *cut])


def cut_marks(form: ChatFormat, tokenizer: "PreTrainedTokenizerFast") -> list[tuple[str, int]]:
    """What looks like a special token in a format but is plain text to this tokenizer, and the number of its tokens. Some models
    were trained like this; others lost their tokens."""
    marks = dict.fromkeys(_MARK.findall(form.before + form.between + form.end))
    cut = [mark for mark in marks if not is_one_token(mark, tokenizer)]
    return [(mark, len(tokenizer(mark, add_special_tokens=False)["input_ids"])) for mark in cut]
