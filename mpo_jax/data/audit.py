"""What is noisy in the data? Counts per target language, and warnings; nothing is left out or repaired because of them.

All are approximate where they judge language or meaning (see `data.flaws`).
"""

import concurrent.futures
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from mpo_jax.data.chat import Example
from mpo_jax.data.flaws import findings
from mpo_jax.data.language import forget
from mpo_jax.data.rows import Row


@dataclasses.dataclass(frozen=True)
class Audit:
    """Counts of rows of one target language. Where nothing is said of the side, it is the target's text that is counted."""

    rows: int
    prompt_in_another_language: int  # judged by `detect`; a text it cannot judge is not counted
    chosen_in_another_language: int
    rejected_in_another_language: int
    chosen_mixes_languages: int  # has a sentence of the source's language
    rejected_mixes_languages: int
    chosen_opens_with_refusal: int
    rejected_opens_with_refusal: int
    chosen_lost_refusal: int  # the source's opens with a refusal, and the target's does not
    chosen_ends_early: int  # without a mark that ends a sentence
    rejected_ends_early: int
    chosen_length_unlike_source: int  # characters: less than an eighth, or more than five times
    rejected_length_unlike_source: int
    html_entities: int  # such as &#39; in any of the three texts
    replacement_characters: int  # U+FFFD in any of them
    duplicates: int  # rows whose three texts together occurred in an earlier row
    identical_to_source: int  # chosen or rejected is the source's, word for word
    empty_prompts: int
    one_word_rejected: int
    truncated_source: int  # any of the side's three sequences lost tokens
    truncated_target: int


# Count -> the share of rows from which on it is worth a warning, and what it says of them.
THRESHOLDS: Mapping[str, tuple[float, str]] = {
    "prompt_in_another_language": (0.1, "prompts are in another language"),
    "chosen_in_another_language": (0.2, "chosen answers are in another language"),
    "rejected_in_another_language": (0.5, "rejected answers are in another language"),
    "chosen_mixes_languages": (0.2, "chosen answers have sentences of the dominant language"),
    "rejected_opens_with_refusal": (0.3, "rejected answers open like a refusal"),
    "chosen_lost_refusal": (0.4, "chosen answers do not open like a refusal, though the source's do"),
    "chosen_ends_early": (0.3, "chosen answers stop in the middle of a sentence"),
    "chosen_length_unlike_source": (0.1, "chosen answers are much longer or shorter than the source's"),
    "html_entities": (0.1, "rows have HTML entities"),
    "replacement_characters": (0.05, "rows have characters that were lost (U+FFFD)"),
    "duplicates": (0.05, "rows repeat an earlier one"),
    "identical_to_source": (0.1, "rows repeat an answer of the source side word for word"),
    "one_word_rejected": (0.2, "rejected answers are one word"),
    "truncated_target": (0.2, "rows have a sequence that is cut at max_length"),
}


def never() -> bool:
    return False


def audit(
    rows: Sequence[Row], examples: Sequence[Example] | None = None, given_up: Callable[[], bool] = never
) -> dict[str, Audit]:
    """Per target language, alphabetically. `examples` are the same rows, tokenised; without them nothing counts as truncated.
    Errors: CancelledError as soon as it is `given_up`, which another thread may decide."""
    counts: dict[str, Counter[str]] = {}
    for i, (row, found) in enumerate(zip(rows, findings(rows), strict=True)):
        if given_up():
            raise concurrent.futures.CancelledError
        cut = () if examples is None else _truncated(examples[i])
        counts.setdefault(row.target.language, Counter()).update(["rows", *found, *cut])
    forget()  # a run goes on for hours, and asks for no language again
    names = [field.name for field in dataclasses.fields(Audit)]
    return {language: Audit(**{name: counts[language][name] for name in names}) for language in sorted(counts)}


def warnings(found: Mapping[str, Audit]) -> list[str]:
    """What of an audit is worth a look before training, a sentence each."""
    return [
        f"{language}: {count} of {counts.rows} {what}"
        for language, counts in found.items()
        for name, (share, what) in THRESHOLDS.items()
        if (count := getattr(counts, name)) > share * counts.rows
    ]


def _truncated(example: Example) -> Iterator[str]:
    for name, side in (("source", example.source), ("target", example.target)):
        if side is not None and side.truncated_prompt + side.truncated_chosen + side.truncated_rejected > 0:
            yield f"truncated_{name}"
