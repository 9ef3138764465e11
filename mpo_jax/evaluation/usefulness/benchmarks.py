"""Which of the harness's tasks is a benchmark in a language, and which of its figures is the one to look at?

The names are those of lm-evaluation-harness 0.4.13. `tests/evaluation/usefulness/test_benchmarks.py` looks each of them up.
"""

import dataclasses
from collections.abc import Collection, Sequence

from mpo_jax.errors import InputError
from mpo_jax.evaluation.usefulness import mt_bench, x_alpaca_eval

HOLE = "{language}"
JUDGED = (mt_bench.NAME, x_alpaca_eval.NAME)  # which a judge reads, and not the harness


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """`task`: the harness's name, with a hole for the code of the language. `codes`: our code of a language -> the one that fills
    the hole. `others`: languages whose task is called otherwise. `figure`: the metric, and the filter of the answer that it is
    of."""

    task: str
    codes: dict[str, str]
    figure: tuple[str, str] = ("acc", "none")
    others: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def languages(self) -> list[str]:
        return sorted({*self.codes, *self.others})

    def in_language(self, language: str) -> str:
        return self.others.get(language) or self.task.replace(HOLE, self.codes[language])


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A task to be run: `asked`, as the user called it; `language`, "" where the task is of no particular one; `task`, the
    harness's name; `figure`, None where the table does not know the task."""

    asked: str
    language: str
    task: str
    figure: tuple[str, str] | None


def _same(codes: str) -> dict[str, str]:
    return {code: code for code in codes.split()}


_NUMBER = ("exact_match", "flexible-extract")  # the strict match wants a phrase that chat models do not write
_MMMLU = _same("ar_xy bn_bd de_de es_la fr_fr hi_in id_id it_it ja_jp ko_kr pt_br sw_ke yo_ng zh_cn")
_MGSM = _same("bn de en es fr ja ru sw te th zh")

BENCHMARKS: dict[str, Benchmark] = {
    "mgsm": Benchmark("mgsm_native_cot_{language}", _MGSM, _NUMBER),
    "mgsm_en_cot": Benchmark("mgsm_en_cot_{language}", _MGSM, _NUMBER),
    "mgsm_direct": Benchmark("mgsm_direct_{language}", _MGSM, _NUMBER),
    "global_mmlu": Benchmark("global_mmlu_{language}", _same("ar bn de en es fr hi id it ja ko pt sw yo zh")),
    "global_mmlu_full": Benchmark(
        "global_mmlu_full_{language}",
        _same(
            "am ar bn cs de el en es fa fil fr ha he hi id ig it ja ko ky lt mg ms ne nl ny pl pt ro ru si sn so sr sv sw te tr "
            "uk vi yo zh"
        ),
    ),
    "mmmlu": Benchmark(
        "mmmlu_{language}",
        {code[:2]: code for code in _MMMLU},
        others={"en": "mmlu"},
    ),
    "belebele": Benchmark(
        "belebele_{language}",
        {
            "ar": "arb_Arab", "bn": "ben_Beng", "de": "deu_Latn", "en": "eng_Latn", "es": "spa_Latn", "fr": "fra_Latn",
            "hi": "hin_Deva", "id": "ind_Latn", "it": "ita_Latn", "ja": "jpn_Jpan", "jv": "jav_Latn", "ko": "kor_Hang",
            "pt": "por_Latn", "ru": "rus_Cyrl", "sw": "swh_Latn", "th": "tha_Thai", "vi": "vie_Latn", "zh": "zho_Hans",
        },
    ),
    "xcopa": Benchmark("xcopa_{language}", _same("et ht id it qu sw ta th tr vi zh")),
    "xnli": Benchmark("xnli_{language}", _same("ar bg de el en es fr hi ru sw th tr ur vi zh")),
    "xstorycloze": Benchmark("xstorycloze_{language}", _same("ar en es eu hi id my ru sw te zh")),
}  # fmt: skip


def wanted(asked: Sequence[str], languages: Sequence[str]) -> list[Wanted]:
    """The tasks of these names: each of a benchmark's in every language, each that has a hole with every language's code, any
    other once. Errors: no language where one is needed; a language that a benchmark does not have."""
    found = []
    for name in asked:
        known = BENCHMARKS.get(name)
        if (known or HOLE in name) and not languages:
            raise InputError(f"The task '{name}' is one of each language: give --languages, such as en,zh,sw,bn.")
        if known is None:
            filled = [(language, name.replace(HOLE, language)) for language in languages] if HOLE in name else [("", name)]
            found += [Wanted(name, language, task, None) for language, task in filled]
            continue
        for language in languages:
            if language not in known.languages:
                raise InputError(
                    f"The benchmark '{name}' is not there in '{language}': it has {', '.join(known.languages)}. Leave the "
                    "language out, or measure it in a command of its own."
                )
            found.append(Wanted(name, language, known.in_language(language), known.figure))
    twice = {one.task for one in found if [other.task for other in found].count(one.task) > 1}
    if twice:
        raise InputError(f"The task {sorted(twice)[0]} is asked for twice: name each task and language once.")
    return found


def check_known(tasks: Sequence[Wanted], there: Collection[str]) -> None:
    """Errors: a task that the harness does not have."""
    for one in tasks:
        if one.task not in there:
            raise InputError(
                f"lm-evaluation-harness has no task '{one.task}': give one of {', '.join([*BENCHMARKS, *JUDGED])}, the name "
                f"of one of its own tasks, which may have {HOLE} in it, or one that a YAML file in --include-path defines."
            )
