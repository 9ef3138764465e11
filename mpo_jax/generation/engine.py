"""How are requests answered on a mesh? Batch by batch: prompts become tokens, two programs write, tokens become text.

Made for thousands of prompts at a time, as in evaluation and in making data, not for serving.
"""

import contextlib
import dataclasses
import functools
import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mpo_jax.checkpoints.peft_folder import ADAPTER_FILES, load_with_adapter
from mpo_jax.data.conversation import Conversation
from mpo_jax.devices.sharding import everywhere, host_to_global, shards
from mpo_jax.errors import InputError
from mpo_jax.files import hub
from mpo_jax.files.digests import digests, fingerprint, sampled
from mpo_jax.files.paths import path_of
from mpo_jax.generation import programs
from mpo_jax.generation.base import Chat, Decoding, Request, Response
from mpo_jax.generation.mesh_choice import generation_mesh
from mpo_jax.generation.sampling import Draw
from mpo_jax.generation.shapes import Asked, batches, groups, rounded, row_of, stacked
from mpo_jax.generation.weights import placed
from mpo_jax.models.decoder import Model
from mpo_jax.models.families.registry import build
from mpo_jax.types import Params


@dataclasses.dataclass
class Spent:
    """What the answers so far have cost. `slots`: rows times steps of the loop; `tokens` of them were wanted."""

    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    slots: int = 0
    tokens: int = 0

    def __str__(self) -> str:
        idle = 1 - self.tokens / max(self.slots, 1)
        read, wrote = self.prefill_seconds, self.decode_seconds
        return f"{read:.1f} s reading prompts, {wrote:.1f} s writing answers, of which {idle:.0%} went to rows that had ended"


class Engine:
    """A `Responder` of parameters on a mesh.

    `params` are those of `weights.placed`, in the dtype of the computation, or their shapes where `holding` will give them;
    `mesh` is one of `make_generation_mesh`. `known` says which model this is, as JSON. `positions`: how many tokens the model can
    read, or None. `shared`: the mesh spans several processes, which then all must ask for the same.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        mesh: Mesh,
        conversation: Chat,
        decoding: Decoding,
        *,
        batch_size: int,
        known: dict[str, Any],
        positions: int | None = None,
        shared: bool = False,
    ):
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} must be at least 1: the number of answers written together.")
        self.model, self.params, self.mesh, self.conversation, self.decoding = model, params, mesh, conversation, decoding
        self.batch_size, self.positions, self.shared = batch_size, positions, shared
        self.dtype = params["final_norm"].dtype
        self.known, self.spent = known, Spent()
        self._copies = shards(mesh, "batch")
        self._draw = jax.tree.map(lambda x: host_to_global(np.asarray(x), mesh, ()), Draw.of(decoding))
        self._stop_E = host_to_global(np.asarray(conversation.stop_ids, np.int32), mesh, ())
        self._programs: dict[tuple[int, int, int], Any] = {}
        self._cache: programs.Cache | None = None

    @property
    def settings(self) -> dict[str, Any]:
        decoding = {name: value for name, value in dataclasses.asdict(self.decoding).items() if name != "samples"}
        return {**self.known, "dtype": jnp.dtype(self.dtype).name, "chat": self.conversation.settings, "decoding": decoding}

    def respond(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        """Errors: a prompt that is longer than the model's positions, before anything is written."""
        asked = [self.asked(request) for request in requests]
        for part, rows, prompt_slots in batches(asked, self.batch_size, self._copies):
            tokens_BN, count_B, ended_B = self.write(part, rows, prompt_slots)
            for number, one in enumerate(part):
                row = row_of(number, rows, self._copies)
                ids = tokens_BN[row, : count_B[row]]
                yield (
                    one.request,
                    Response(
                        text=self.conversation.decode(ids),
                        stopped="end" if ended_B[row] else "length",
                        prompt_tokens=len(one.tokens),
                        new_tokens=len(ids),
                        tokens=tuple(map(int, ids)),
                    ),
                )

    @contextlib.contextmanager
    def holding(self, params: Params) -> Iterator[None]:
        """Within, answers are those of these parameters, which have the form and places of the engine's own. Afterwards the
        engine keeps neither them nor a cache."""
        own, self.params = self.params, params
        try:
            yield
        finally:
            self.params, self._cache = own, None

    @property
    def held(self) -> tuple[Params, programs.Cache | None]:
        """What it keeps on the devices: the weights, and the cache of the last batch."""
        return self.params, self._cache

    def otherwise(self, decoding: Decoding, conversation: Chat | None = None) -> "Engine":
        """An engine of the same weights, which are not copied, that draws or renders otherwise."""
        return Engine(
            self.model,
            self.params,
            self.mesh,
            self.conversation if conversation is None else conversation,
            decoding,
            batch_size=self.batch_size,
            known=self.known,
            positions=self.positions,
            shared=self.shared,
        )

    def write(self, part: Sequence[Asked], rows: int, prompt_slots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The answers to one batch: token ids int32 [B, N], their number int32 [B], whether they ended bool [B]."""
        arrays = stacked(part, rows, prompt_slots, self._copies)
        key_B2 = np.zeros((rows, 2), np.uint32)
        for number, one in enumerate(part):
            key_B2[row_of(number, rows, self._copies)] = answer_key(self.decoding.seed, one.request)
        with jax.set_mesh(self.mesh):
            prefill, decode, cache, logits_BV = self._compiled(rows, prompt_slots, rounded(self.decoding.max_new_tokens))
            begin = time.perf_counter()
            for first, tokens_GT, length_G in groups(arrays, self._copies):
                read = (*self._rows(tokens_GT, length_G), host_to_global(np.int32(first), self.mesh, ()))
                cache, logits_BV = prefill(self.params, cache, logits_BV, *read)
            jax.block_until_ready(logits_BV)
            middle = time.perf_counter()
            rest = (*self._rows(arrays["length_B"], arrays["limit_B"], key_B2), self._stop_E, self._draw)
            self._cache, answers = decode(self.params, cache, logits_BV, *rest)
            tokens_BN, count_B, ended_B, steps = jax.device_get(answers)
        self.spent.prefill_seconds += middle - begin
        self.spent.decode_seconds += time.perf_counter() - middle
        self.spent.slots += rows * int(steps)
        self.spent.tokens += int(count_B.sum())
        return tokens_BN, count_B, ended_B

    def asked(self, request: Request) -> Asked:
        """Errors: a prompt that is longer than the model's positions."""
        tokens = self.conversation.tokens(request.messages)
        limit = self.decoding.max_new_tokens
        if self.positions is not None:
            if len(tokens) >= self.positions:
                raise InputError(
                    f"Prompt '{request.prompt.id}' in '{request.prompt.language}' has {len(tokens)} tokens with its chat format, "
                    f"but the model reads at most {self.positions}, its answer included: shorten it or take it out."
                )
            limit = min(limit, self.positions - len(tokens))
        return Asked(request, tokens, limit)

    def _rows(self, *arrays: np.ndarray) -> list[jax.Array]:
        return [host_to_global(x, self.mesh, ("batch",)) for x in arrays]

    def _compiled(self, rows: int, prompt_slots: int, new_slots: int) -> tuple[Any, Any, programs.Cache, jax.Array]:
        """(prefill, decode, a cache and logits for them), whose buffers the programs take over and give back."""
        abstract = programs.abstract_cache(self.model, rows, prompt_slots + new_slots, self.dtype, self.mesh)
        logits = programs.abstract_logits(self.model, rows, self.mesh)
        if (shape := (rows, prompt_slots, new_slots)) not in self._programs:
            self._programs[shape] = jitted(self.model, abstract, logits, new_slots)
        if self._cache is None or self._cache[0].k_BKUH.shape != abstract[0].k_BKUH.shape:
            self._cache = None  # before the next one takes its place
            self._cache = _zeros(abstract)
        assert self._cache is not None
        return *self._programs[shape], self._cache, _zeros(logits)


def load_engine(
    model_dir: Path,
    decoding: Decoding,
    *,
    template: str,
    dtype: Any,
    batch_size: int,
    tensor: int | None = None,
    width: int | None = None,
    adapter: str | None = None,
    chat: Chat | None = None,
) -> Engine:
    """The engine of a folder in Hugging Face's layout, and of an adapter's as PEFT saves it. `chat` takes the place of the chat
    format that `template` names. Errors: those of the model, the adapter, the tokenizer, the chat format and the mesh."""
    family, model, raw = build(model_dir)
    conversation = Conversation.of(model_dir, family.authors_chat, template) if chat is None else chat
    mesh, shared = generation_mesh(model, dtype, tensor=tensor, width=width)
    known = {"model": fingerprint(sampled(model_dir, hub.ALL_FILES))}
    if adapter is not None:
        known["adapter"] = fingerprint(digests(path_of(adapter), ADAPTER_FILES))
    loaded = load_with_adapter(model_dir, model, family, mesh, dtype, adapter)
    params = placed(model, loaded, mesh, dtype, consume=True)
    positions = raw.get("max_position_embeddings")
    return Engine(
        model, params, mesh, conversation, decoding, batch_size=batch_size, known=known, positions=positions, shared=shared
    )


def jitted(model: Model, cache: programs.Cache, logits_BV: jax.ShapeDtypeStruct, new_slots: int) -> tuple[Any, Any]:
    """(prefill, decode) for caches and logits of these abstract shapes. Answers are replicated, so that every process can read
    them."""
    places = _places(cache)

    def decode(*args: Any) -> tuple[programs.Cache, programs.Answers]:
        cache, answers = programs.decode(model, *args, new_slots=new_slots)
        return cache, jax.tree.map(everywhere, answers)

    prefill = functools.partial(programs.prefill, model)
    return (
        jax.jit(prefill, donate_argnums=(1, 2), out_shardings=(places, logits_BV.sharding)),
        jax.jit(decode, donate_argnums=1, out_shardings=(places, None)),
    )


def answer_key(seed: int, request: Request) -> np.ndarray:
    """The random key of an answer, uint32 [2]: of the seed, the prompt, the sample and the turn, and of nothing else."""
    name = "\0".join((str(seed), request.prompt.language, request.prompt.id, str(request.sample), str(request.turn)))
    return np.frombuffer(hashlib.blake2b(name.encode(), digest_size=8).digest(), np.uint32)


def _places(abstract: Any) -> Any:
    return jax.tree.map(lambda x: x.sharding, abstract)


def _zeros(abstract: Any) -> Any:
    return jax.jit(lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract), out_shardings=_places(abstract))()
