"""How probable are answers to a model, and what reward does a pair of models give them?

    r(x, y) = log p_numerator(y | x) - log p_denominator(y | x)

summed over the tokens of the answer, its end token included: DPO's implicit reward without beta. R. Rafailov et al.,
arXiv:2305.18290. Prompt and answer are tokenised apart and joined, as in training.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from mpo_jax.data.prompts.base import Message
from mpo_jax.errors import InputError
from mpo_jax.evaluation.usefulness.likelihoods import Continuation, Likelihoods
from mpo_jax.recipes import chunks
from mpo_jax.recipes.own_model import OnDevices

Exchange = tuple[str, str]  # a prompt and an answer


def write_logps(path: Path, model: OnDevices, asked: Sequence[Exchange], *, shift: bool) -> int:
    """Writes what the file lacks of log p(answer | prompt), in nats, and returns how many were missing. `shift`: see
    `continuations`."""
    settings = {**model.known, "dtype": model.dtype, "template": model.template, "shift": shift}
    likelihoods = functools.cache(lambda: Likelihoods(model.engine))  # which is loaded only if something is missing
    scores = lambda part: [found.logp for found in likelihoods()(continuations(model, part, shift=shift))]  # noqa: E731
    return chunks.compute(path, settings, asked, scores)


def read_rewards(numerator: Path, denominator: Path) -> Mapping[str, float]:
    """`chunks.key_of` an exchange -> r."""
    over, under = chunks.read(numerator), chunks.read(denominator)
    return {key: over[key] - under[key] for key in over.keys() & under.keys()}


def continuations(model: OnDevices, asked: Sequence[Exchange], *, shift: bool = False) -> list[Continuation]:
    """Each prompt, and the answer whose tokens are scored. `shift` scores all but an answer's first token, as the scorer of
    ZNLP/Implicit-Cross-Lingual-Rewarding does."""
    conversation, continued = model.conversation, []
    for prompt, answer in asked:
        context = tuple(conversation.tokens((Message("user", prompt),)).tolist())
        ids = conversation.tokenizer(conversation.form.response(answer), add_special_tokens=False, verbose=False)["input_ids"]
        skipped = 1 if shift and len(ids) > 1 else 0
        continued.append(Continuation((*context, *ids[:skipped]), tuple(ids[skipped:])))
    return continued


def check_vocabularies(numerator: OnDevices, denominator: OnDevices) -> None:
    """Errors: two models whose tokens are not the same, whose difference is no reward."""
    first, second = (model.conversation.tokenizer.get_vocab() for model in (numerator, denominator))
    if first != second:
        odd = next(token for token in sorted({*first, *second}) if first.get(token) != second.get(token))
        raise InputError(
            f"{numerator.name} and {denominator.name} have different vocabularies (the token {odd!r} is {first.get(odd)} in the "
            f"first and {second.get(odd)} in the second), so the difference of their log-probabilities is no reward: give two "
            "models with one tokenizer."
        )
