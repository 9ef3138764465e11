"""A model, a translator and a judge on this machine, at one address: what they say is a function of what they are asked.

The model refuses a request in some of its samples, and translates between tags, now and then without closing them. The translator
writes Swahili or Bengali that says of which text it is the translation, and refuses where that text refuses.
"""

import hashlib
import re

from fake_endpoint import Asked, Reply
from toy_chat import tokenizer

from mpo_jax.data.refusals import opens_with_refusal

TRANSLATE = re.compile(r"Translate the following text into (\w+)\. ")
SELF = re.compile(r"Please translate the following sentences into (\w+)\. ")
JUDGE = "Given a pair of query and response"
REFUSAL = {
    "English": "I'm sorry, but I cannot help with this request, number {}.",
    "Swahili": "Samahani, siwezi kukusaidia kwa ombi hili, namba {}.",
    "Bengali": "দুঃখিত, আমি এই অনুরোধে সাহায্য করতে পারি না, নম্বর {}।",
}
OTHERWISE = {
    "English": "Here is what the text with the number {} says in plain words.",
    "Swahili": "Haya ndiyo maneno ya maandishi yenye namba {} kwa lugha rahisi.",
    "Bengali": "এটি সহজ ভাষায় {} নম্বর লেখার কথা, যা সবাই বুঝতে পারে।",
}


def number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())


def meaning(text: str, name: str) -> str:
    refuses = any(opens_with_refusal(text, code) for code in ("en", "sw", "bn"))
    return (REFUSAL if refuses else OTHERWISE)[name].format(number(text))


def sample(text: str, seed: int) -> str:
    swahili = re.search(r"(?i)\b(maneno|na|ya|wa)\b", text)
    name = "Bengali" if re.search("[\u0980-\u09ff]", text) else "Swahili" if swahili else "English"
    drawn = number(f"{text} {seed}")
    more = " It is so." * (drawn % 4) if name == "English" else ""
    return (REFUSAL if drawn % 3 else OTHERWISE)[name].format(drawn % 1000) + more


def say(asked: Asked) -> Reply:
    if asked.body.get("echo"):
        return worth(asked.body["prompt"])
    ids = asked.body.get("prompt")
    text = tokenizer().decode(ids) if ids else asked.text
    if text.startswith(JUDGE):
        return spoken(asked, "safe" if number(text) % 4 else "unsafe")
    if found := TRANSLATE.match(text):
        return spoken(asked, meaning(text.partition("\n\n")[2], found[1]))
    if found := SELF.search(text):
        inner = text.partition("wrapped by <sentence> and </sentence>:\n\n<sentence>\n")[2].partition("\n</sentence>")[0]
        return spoken(asked, meaning(inner, found[1]) + ("\n</translated>" if number(inner) % 5 else ""))
    drawn = number(f"{text} {asked.body['seed']} end")
    return spoken(asked, sample(text, asked.body["seed"]), finish="length" if drawn % 7 == 0 else "stop")


def spoken(asked: Asked, text: str, finish: str = "stop") -> Reply:
    """Without counts, which `answer` makes of words."""
    choice = {"message": {"role": "assistant", "content": text}} if "messages" in asked.body else {"text": text}
    return Reply({"object": "completion", "choices": [{"index": 0, "finish_reason": finish, **choice}]})


def worth(prompt: str) -> Reply:
    """The words of a prompt, and one more, each with a log-probability."""
    words = [(found.start(), found[0]) for found in re.finditer(r"\S+\s*", prompt)] + [(len(prompt), "more")]
    logps = [None, *(-(1 + number(f"{prompt[:at]}{word}") % 5) / 2 for at, word in words[1:])]
    told = {"tokens": [word for _, word in words], "token_logprobs": logps, "text_offset": [at for at, _ in words]}
    return Reply(
        {"object": "text_completion", "choices": [{"index": 0, "text": prompt, "finish_reason": "length", "logprobs": told}]}
    )
