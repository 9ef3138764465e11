"""How is one answer asked for over OpenAI's interface, and what did the server say?"""

import asyncio
import hashlib
import json
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mpo_jax.errors import InputError
from mpo_jax.generation.base import Decoding, Request, Response, Stopped
from mpo_jax.generation.patience import retry_after

if TYPE_CHECKING:
    from openai import AsyncOpenAI

STOPPED: dict[Any, Stopped] = {"stop": "end", "length": "length"}  # what servers call it, and what we do
SHOWN = 300  # characters of what a server says that are kept


class Failed(Exception):
    """There is no answer. `again`: whether the same request may succeed. `busy`: whether the server has too many. `wait`: seconds
    that it asked for. `status`: of its reply, if there was one."""

    def __init__(self, reason: str, *, again: bool = True, busy: bool = False, wait: float | None = None, status: int = 0):
        super().__init__(reason)
        self.again, self.busy, self.wait, self.status = again, busy, wait, status


def package() -> ModuleType:
    """openai, which is slow to import. Errors: it is not installed."""
    try:
        import openai
    except ImportError:
        raise InputError("A served model needs the package openai: run `pip install openai`.") from None
    return openai


def fields(model: str, decoding: Decoding, request: Request) -> dict[str, Any]:
    """What a request says beside its conversation."""
    facts = json.dumps([decoding.seed, request.prompt.id, request.sample, request.turn])
    seed = int.from_bytes(hashlib.blake2b(facts.encode(), digest_size=4).digest()) % 2**31  # some servers hold it in 32 bits
    return {
        "model": model,
        "max_tokens": decoding.max_new_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "seed": seed,
        **({"extra_body": {"top_k": decoding.top_k}} if decoding.top_k else {}),
    }


async def send(client: "AsyncOpenAI", asked: dict[str, Any], timeout: float) -> Response:
    """Asks once, within `timeout` seconds: the chat endpoint where there are messages, the other where there is a prompt.
    Errors: `Failed`."""
    endpoint = client.chat.completions if "messages" in asked else client.completions
    openai = package()
    try:
        async with asyncio.timeout(timeout):
            raw = await endpoint.with_raw_response.create(**asked)
    except (openai.APIStatusError, openai.APIConnectionError, TimeoutError) as error:
        raise failure(error, timeout) from None
    except UnicodeEncodeError as error:
        raise Failed(f"the conversation is not text: {error}", again=False) from None
    response = read(raw.content)
    if "top_logprobs" in asked and response.stopped != "error" and response.top_logprobs is None:
        return Response("", "error", None, None, error="a reply without log-probabilities")
    return response


def failure(error: Any, timeout: float) -> Failed:
    """What an error of the client means."""
    openai = package()
    if isinstance(error, openai.APIStatusError):
        status, headers = error.status_code, error.response.headers
        again = status in (408, 429) or status >= 500
        if status == 429 and error.code == "insufficient_quota":
            again = False  # no wait will pay the bill
        reason = f"HTTP {status}: {_line(error.response.text)}"
        return Failed(reason, again=again, busy=status == 429, wait=retry_after(headers), status=status)
    if isinstance(error, TimeoutError):
        return Failed(f"no answer within {timeout:g} s")
    return Failed(f"no connection: {_line(str(error.__cause__ or error)) or type(error.__cause__).__name__}")


def read(body: bytes) -> Response:
    """A reply with a status of success. Errors: `Failed` where it is none of either endpoint."""
    try:
        reply = json.loads(body)
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        finish, counts = choice["finish_reason"], [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Failed(f"a reply that is no answer: {_line(body.decode(errors='replace')) or 'nothing'}") from None
    prompt_tokens, new_tokens = (count if isinstance(count, int) else None for count in counts)
    written = _text(text) if isinstance(text, str) else ""
    stopped, error = STOPPED.get(finish) if isinstance(finish, str) else None, None
    if stopped is None:
        stopped, error = "error", f"finish_reason {finish!r}"
    elif not isinstance(text, str):
        stopped, error = "error", "a reply without text"
    return Response(written, stopped, prompt_tokens, new_tokens, error=error, top_logprobs=_top_logprobs(choice))


def _top_logprobs(choice: dict[str, Any]) -> dict[str, float] | None:
    """Those of the first token, in the chat endpoint's form, most probable first. Of tokens with the same text only the first:
    pieces of a character look alike."""
    try:
        those = [(_text(one["token"]), float(one["logprob"])) for one in choice["logprobs"]["content"][0]["top_logprobs"]]
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
    found: dict[str, float] = {}
    for token, logprob in sorted(those, key=lambda one: -one[1]):
        found.setdefault(token, logprob)
    return found or None


def _text(text: str) -> str:
    """JSON can hold half a surrogate pair, which no file and no further request could."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _line(text: str) -> str:
    return " ".join(text.split())[:SHOWN]
