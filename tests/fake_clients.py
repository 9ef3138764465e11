"""A judge and a translator on this machine, at one address: what they say is a function of what they are asked."""

import hashlib

from fake_endpoint import Asked, Reply, answer

TRANSLATE = "Translate the following text into English."


def verdict(text: str) -> str:
    """Mostly safe; sometimes dressed up, sometimes no verdict at all."""
    at = hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 16
    return ["safe", "Unsafe.", "'invalid'", "unsafe", "I cannot judge this"][at % 5] if at < 10 else "safe"


def meaning(text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"This is what the text numbered {digest} says in plain English."


def say(asked: Asked) -> Reply:
    instruction, _, text = asked.text.partition("\n\n")
    return answer(asked, meaning(text) if instruction.startswith(TRANSLATE) else verdict(asked.text))
