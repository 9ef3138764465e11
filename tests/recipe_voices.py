"""A model, a translator and a judge on this machine, at one address: what they say is a function of what they are asked.

The model refuses a request in some of its samples, and translates between tags, now and then without closing them. The translator
writes Swahili or Bengali that says of which text it is the translation, and refuses where that text refuses.
"""

import hashlib
import re

from fake_endpoint import Asked, Reply, answer

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
    name = (
        "Bengali"
        if re.search("[\u0980-\u09ff]", text)
        else "Swahili"
        if re.search(r"(?i)\b(maneno|na|ya|wa)\b", text)
        else "English"
    )
    drawn = number(f"{text} {seed}")
    return (REFUSAL if drawn % 3 else OTHERWISE)[name].format(drawn % 1000) + " It is so." * (
        drawn % 4 if name == "English" else 0
    )


def say(asked: Asked) -> Reply:
    text = asked.text
    if text.startswith(JUDGE):
        return answer(asked, "safe" if number(text) % 4 else "unsafe")
    if found := TRANSLATE.match(text):
        return answer(asked, meaning(text.partition("\n\n")[2], found[1]))
    if found := SELF.search(text):
        inner = text.partition("<sentence>\n\n" if "<sentence>\n\n" in text else "<sentence>\n")[2].rpartition("\n</sentence>")[0]
        return answer(asked, meaning(inner, found[1]) + ("\n</translated>" if number(inner) % 5 else ""))
    drawn = number(f"{text} {asked.body['seed']} end")
    return answer(asked, sample(text, asked.body["seed"]), finish="length" if drawn % 7 == 0 else "stop")
