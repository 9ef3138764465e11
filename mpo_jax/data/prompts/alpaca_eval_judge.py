"""What is the judge of AlpacaEval 2 asked about two outputs? Which one is better, m or M.

Y. Dubois et al., "Length-Controlled AlpacaEval", arXiv:2404.04475; the prompt is alpaca_eval_clf.txt of tatsu-lab/alpaca_eval
(Apache-2.0), with the sentence on languages that W. Yang et al., arXiv:2410.08964, put before its task.
"""

import random
import re

from mpo_jax.data.prompts.base import Message

FIRST, SECOND = "m", "M"  # the names of the two outputs, each one token

SYSTEM = (
    "You are a highly efficient assistant, who evaluates and selects the best large language model (LLMs) based on the quality "
    "of their responses to a given instruction. This process will be used to create a leaderboard reflecting the most accurate "
    "and human-preferred answers."
)
LANGUAGE = (
    "A good output should be in the same language as the instruction, except when the instruction explicitly requests the output "
    "in a different language."
)
USER = f'''\
I require a leaderboard for various large language models. I'll provide you with prompts given to these models and their \
corresponding outputs. Your task is to assess these responses, and select the model that produces the best output from a human \
perspective.

## Instruction

{{
    "instruction": """{{instruction}}""",
}}

## Model Outputs

Here are the unordered outputs from the models. Each output is associated with a specific model, identified by a unique model \
identifier.

{{
    {{
        "model_identifier": "m",
        "output": """{{output_1}}"""
    }},
    {{
        "model_identifier": "M",
        "output": """{{output_2}}"""
    }}
}}

## Task

{LANGUAGE} Evaluate the models based on the quality and relevance of their outputs, and select the model that generated the best \
output. Answer by providing the model identifier of the best model. We will use your output as the name of the best model, so \
make sure your output only contains one of the following model identifiers and nothing else (no quotes, no spaces, no new lines, \
...): m or M.

## Best Model Identifier'''

_HOLE = re.compile(r"\{(instruction|output_1|output_2)\}")


def switched(instruction: str) -> bool:
    """Whether the candidate's output stands first, and the reference's second. It depends on the instruction alone, as in
    AlpacaEval with its seed 0, so that all models are judged in the same order."""
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True])[0]


def messages(instruction: str, reference: str, candidate: str) -> tuple[Message, ...]:
    outputs = (candidate, reference) if switched(instruction) else (reference, candidate)
    texts = {"instruction": instruction, "output_1": outputs[0], "output_2": outputs[1]}
    # All holes at once: a text that is put in may have braces of its own.
    return Message("system", SYSTEM), Message("user", _HOLE.sub(lambda hole: texts[hole[1]], USER))


def candidates_name(instruction: str) -> str:
    """What the judge calls the candidate's output."""
    return FIRST if switched(instruction) else SECOND
