"""What does a served model answer? Any server with OpenAI's interface: vLLM, SGLang, llama.cpp, a provider."""

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mpo_jax.data.prompts.base import Message
from mpo_jax.errors import InputError
from mpo_jax.generation import completions
from mpo_jax.generation.base import Decoding, Request, Response
from mpo_jax.generation.completions import Failed
from mpo_jax.generation.patience import Limit, Patience

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

NO_KEY = "none"  # for servers that ask for none, since the client insists on one
HOPELESS = (401, 404, 405)  # the key, the address or the model is wrong, and not the request


@dataclasses.dataclass(frozen=True)
class Rendering:
    """A conversation as a completions endpoint reads it. `render` gives its text or its ids: a server may put another
    beginning-of-text token before a text. `stop_ids`: tokens that end an answer, beside those that the server knows of.
    `settings`, as JSON: the chat format."""

    render: Callable[[tuple[Message, ...]], str | list[int]]
    settings: dict[str, Any]
    stop_ids: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model at the address `url`, under the name that the server gives it. Without a `rendering` its chat endpoint renders the
    conversations.

    At most `concurrency` requests are under way. What fails is asked again, with `patience`, and in the end is a response that
    says so. `key`: what the server knows us by; it is written nowhere. `top_logprobs`: of how many of the most probable first
    tokens the log-probabilities are asked for, which the chat endpoint alone tells. Errors: an address that is none.
    """

    url: str
    model: str
    decoding: Decoding
    rendering: Rendering | None = None
    concurrency: int = 32
    key: str = dataclasses.field(default=NO_KEY, repr=False)
    patience: Patience = dataclasses.field(default_factory=Patience)
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        assert self.rendering is None or not self.top_logprobs, "a completions endpoint tells them in another form"
        if self.concurrency < 1:
            raise InputError(f"concurrency={self.concurrency} must be at least 1.")
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"{self.url} is not the address of a server: write one like http://localhost:8000/v1.")

    @property
    def shared(self) -> bool:
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """Not the address: the same model may be served elsewhere tomorrow."""
        decoding = {name: value for name, value in vars(self.decoding).items() if name != "samples"}
        facts: dict[str, Any] = {"served model": self.model, "decoding": decoding}
        if self.top_logprobs:
            facts["top_logprobs"] = self.top_logprobs
        if self.rendering is None:
            return {**facts, "rendered": "by the server"}
        form = {"format": self.rendering.settings, "stop_ids": list(self.rendering.stop_ids)}
        return {**facts, "rendered": "here", **form}

    def check(self) -> None:
        """Errors: nobody answers at this address, the key is refused, the server has other models. A server that does not tell
        its models is believed."""
        asyncio.run(self._check())

    def respond(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
        """See `Responder`. Errors: the first reply says that no request can succeed."""
        return _in_step(self._answers(requests))

    async def _check(self) -> None:
        openai = completions.package()
        try:
            async with self._client() as client, asyncio.timeout(self.patience.timeout):
                raw = await client.models.with_raw_response.list()
        except (openai.APIStatusError, openai.APIConnectionError, TimeoutError) as error:
            failed = completions.failure(error, self.patience.timeout)
            if failed.status in (401, 403):
                raise self.refused(failed) from None
            if failed.status >= 500 or not failed.status:
                raise InputError(
                    f"The server {self.url} cannot be reached ({self.hidden(failed)}): start it, or write its address like "
                    "http://localhost:8000/v1."
                ) from None
            return
        try:
            names = [model["id"] for model in json.loads(raw.content)["data"]]
        except (ValueError, LookupError, TypeError):
            return  # whatever this is, it is no list of models
        if names and self.model not in names:
            known = ", ".join(map(str, names[:10]))
            raise InputError(f"The server {self.url} has no model '{self.model}': write one of those it has, {known}.")

    def _client(self) -> "AsyncOpenAI":
        """Without retries and limits of time of its own, so that one policy holds."""
        return completions.package().AsyncOpenAI(base_url=self.url, api_key=self.key, max_retries=0, timeout=None)

    async def _answers(self, requests: Sequence[Request]) -> AsyncIterator[tuple[Request, Response]]:
        """There is a task for each of `concurrency` requests, including those that wait to be sent again."""
        todo = iter(requests)
        async with self._client() as client:
            asking = _Asking(self, client, Limit(self.concurrency))
            tasks: set[asyncio.Task[tuple[Request, Response]]] = set()
            try:
                while True:
                    while len(tasks) < self.concurrency and (request := next(todo, None)):
                        tasks.add(asyncio.create_task(asking.until_answered(request)))
                    if not tasks:
                        return
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        yield task.result()
                    tasks -= done
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def asked(self, request: Request) -> dict[str, Any]:
        """A request in the words of OpenAI's interface."""
        asked = completions.fields(self.model, self.decoding, request)
        if self.top_logprobs:
            asked |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        if self.rendering is None:
            return {**asked, "messages": [vars(message) for message in request.messages]}
        if stop_ids := list(self.rendering.stop_ids):
            asked["extra_body"] = {**asked.get("extra_body", {}), "stop_token_ids": stop_ids}
        return {**asked, "prompt": self.rendering.render(request.messages)}

    def refused(self, failed: Failed) -> InputError:
        """Where every request would fail like this one."""
        return InputError(
            f"The server {self.url} refuses what it is asked ({self.hidden(failed)}): check its address, the name of the model, "
            "and the key in the environment."
        )

    def hidden(self, failed: Failed) -> str:
        """A reason without the key, which a server may quote."""
        return str(failed) if self.key == NO_KEY else str(failed).replace(self.key, "***")


class _Asking:
    """One call of `respond`: which requests may be sent, and whether any has succeeded."""

    def __init__(self, served: ServedModel, client: "AsyncOpenAI", limit: Limit):
        self._served, self._client, self._limit = served, client, limit
        self._any = False

    async def until_answered(self, request: Request) -> tuple[Request, Response]:
        """Errors: an `InputError` if no request has succeeded and this one never will."""
        served, patience, asked = self._served, self._served.patience, self._served.asked(request)
        failures = busy = 0
        while True:
            try:
                return request, await self._once(asked)
            except Failed as failed:
                if failed.status in HOPELESS and not self._any:
                    raise served.refused(failed) from None
                failures, busy = failures + (not failed.busy), busy + failed.busy
                last = failures == patience.attempts or busy == patience.busy_attempts
                if last or not failed.again or (failed.wait or 0) > patience.most_asked:
                    tried = f" (asked {failures + busy} times)" if failures + busy > 1 else ""
                    return request, Response("", "error", None, None, error=served.hidden(failed) + tried)
                wait = patience.wait(busy if failed.busy else failures, failed.wait)
            await asyncio.sleep(wait)

    async def _once(self, asked: dict[str, Any]) -> Response:
        async with self._limit.one_more():
            sent = time.monotonic()
            try:
                response = await completions.send(self._client, asked, self._served.patience.timeout)
            except Failed as failed:
                if failed.busy:
                    self._limit.busy(sent)
                raise
        self._limit.succeeded()
        self._any = True
        return response


def _in_step(answers: AsyncIterator[T]) -> Iterator[T]:
    """What an asynchronous iterator yields, whose event loop runs only while the next item is waited for."""

    async def following() -> T | None:
        return await anext(answers, None)

    with asyncio.Runner() as runner:
        while (found := runner.run(following())) is not None:
            yield found
