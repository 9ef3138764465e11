"""How is PKU-SafeRLHF read? JSON lines of English questions with two responses each, and which of these is safe.

J. Ji et al., "PKU-SafeRLHF: Towards Multi-Level Safety Alignment for LLMs with Human Preference", arXiv:2406.15513.
"""

from mpo_jax.data.json_objects import string
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.data.prompts.content import Content, Found, PromptSet

_KEYS = ("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe", "safer_response_id")


def read(content: Content) -> Found:
    """The id is the object's index. Field: `rejected`, the response that is not the safer one, where it is unsafe. Errors: a key
    that is missing or not of its kind."""
    for i, (place, value) in enumerate(content.objects()):
        fields = {}
        safer = value.get("safer_response_id")
        if safer not in (0, 1):
            raise place.error(f"'safer_response_id' is {safer!r}: write 0 or 1")
        if value.get(f"is_response_{1 - safer}_safe") is False:
            fields["rejected"] = string(value.get(f"response_{1 - safer}"), f"response_{1 - safer}", place)
        yield place, Prompt(str(i), "en", (Message("user", string(value.get("prompt"), "prompt", place)),), fields=fields)


SET = PromptSet(
    name="PKU-SafeRLHF",
    looks=f"JSON objects, one a line, with {', '.join(_KEYS)}",
    fits=lambda content: {*_KEYS} <= content.keys,
    read=read,
)
