"""How is X-AlpacaEval read? Instructions of one language, each with the output that answers are compared with, if there is one.

W. Yang et al., arXiv:2410.08964 and arXiv:2503.04647, translated the 805 instructions of AlpacaEval. Two forms of files are read,
both a JSON array: data/x-alpacaeval/data/LANGUAGE.json of ZNLP/Language-Imbalance-Driven-Rewarding has instructions alone, and
model_outputs.json, which is AlpacaEval's own form (tatsu-lab/alpaca_eval), has a model's outputs too.

    [{"id": 1, "dataset": "helpful_base", "instruction": "...", "output": "...", "generator": "gpt-4-turbo-2024-04-09"}]
"""

from pathlib import Path

from mpo_jax.data.json_objects import Place, kind, read_values, string
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.errors import InputError


def read_instructions(path: Path, language: str) -> list[Prompt]:
    """Field: `output`, in all or in none. The id is the file's, or else the row's number, counted from 1. Errors: no such file; a
    row without an instruction, or with an output that others lack; an id that comes twice; no rows."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a file of X-AlpacaEval, such as model_outputs.json.")
    found: dict[str, Prompt] = {}
    outputs: int = 0
    for number, (where, value) in enumerate(read_values(path), start=1):
        place = Place(where)
        if not isinstance(value, dict):
            raise place.error(f"there must be an object with an instruction, not {kind(value)}")
        instruction = string(value.get("instruction"), "instruction", place)
        if not instruction.strip():
            raise place.error("the instruction is empty: write one, or take the row out")
        fields = {}
        if value.get("output") is not None:
            fields["output"], outputs = string(value["output"], "output", place), outputs + 1
        if outputs not in (0, number):
            raise place.error(
                f"it {'has an' if fields else 'has no'} 'output', unlike the rows before: give all rows one, or none"
            )
        name = str(value.get("id", number))
        if name in found:
            raise place.error(f"the id {name} is already taken: give every instruction its own")
        found[name] = Prompt(name, language, (Message("user", instruction),), fields=fields)
    if not found:
        raise InputError(f"{path} has no instructions: give a file with at least one.")
    return list(found.values())
