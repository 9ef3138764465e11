"""What is a language called by those who translate? One table: our code, its English name, NLLB's code, Google's code."""

import dataclasses

from mpo_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Language:
    """`code`: ISO 639-1, as in rows and prompts. `nllb`: the code of FLORES-200. `google`: that of Cloud Translation."""

    code: str
    name: str
    nllb: str
    google: str


# The languages of MPO's data, MultiJail, MGSM, MT-Bench's translations and the guards, and some large ones beside.
LANGUAGES = {
    code: Language(code, name, nllb, google)
    for code, name, nllb, google in (
        ("af", "Afrikaans", "afr_Latn", "af"),
        ("am", "Amharic", "amh_Ethi", "am"),
        ("ar", "Arabic", "arb_Arab", "ar"),
        ("bn", "Bengali", "ben_Beng", "bn"),
        ("cs", "Czech", "ces_Latn", "cs"),
        ("da", "Danish", "dan_Latn", "da"),
        ("de", "German", "deu_Latn", "de"),
        ("el", "Greek", "ell_Grek", "el"),
        ("en", "English", "eng_Latn", "en"),
        ("es", "Spanish", "spa_Latn", "es"),
        ("fa", "Persian", "pes_Arab", "fa"),
        ("fi", "Finnish", "fin_Latn", "fi"),
        ("fr", "French", "fra_Latn", "fr"),
        ("gd", "Scottish Gaelic", "gla_Latn", "gd"),
        ("gu", "Gujarati", "guj_Gujr", "gu"),
        ("ha", "Hausa", "hau_Latn", "ha"),
        ("he", "Hebrew", "heb_Hebr", "iw"),
        ("hi", "Hindi", "hin_Deva", "hi"),
        ("hu", "Hungarian", "hun_Latn", "hu"),
        ("id", "Indonesian", "ind_Latn", "id"),
        ("ig", "Igbo", "ibo_Latn", "ig"),
        ("it", "Italian", "ita_Latn", "it"),
        ("ja", "Japanese", "jpn_Jpan", "ja"),
        ("jv", "Javanese", "jav_Latn", "jv"),
        ("km", "Khmer", "khm_Khmr", "km"),
        ("ko", "Korean", "kor_Hang", "ko"),
        ("lo", "Lao", "lao_Laoo", "lo"),
        ("mr", "Marathi", "mar_Deva", "mr"),
        ("ms", "Malay", "zsm_Latn", "ms"),
        ("my", "Burmese", "mya_Mymr", "my"),
        ("nl", "Dutch", "nld_Latn", "nl"),
        ("pl", "Polish", "pol_Latn", "pl"),
        ("pt", "Portuguese", "por_Latn", "pt"),
        ("ro", "Romanian", "ron_Latn", "ro"),
        ("ru", "Russian", "rus_Cyrl", "ru"),
        ("sv", "Swedish", "swe_Latn", "sv"),
        ("sw", "Swahili", "swh_Latn", "sw"),
        ("ta", "Tamil", "tam_Taml", "ta"),
        ("te", "Telugu", "tel_Telu", "te"),
        ("th", "Thai", "tha_Thai", "th"),
        ("tl", "Tagalog", "tgl_Latn", "tl"),
        ("tr", "Turkish", "tur_Latn", "tr"),
        ("uk", "Ukrainian", "ukr_Cyrl", "uk"),
        ("ur", "Urdu", "urd_Arab", "ur"),
        ("vi", "Vietnamese", "vie_Latn", "vi"),
        ("xh", "Xhosa", "xho_Latn", "xh"),
        ("yo", "Yoruba", "yor_Latn", "yo"),
        ("zh", "Chinese", "zho_Hans", "zh-CN"),
        ("zu", "Zulu", "zul_Latn", "zu"),
    )
}


def language(code: str) -> Language:
    """Errors: a code that is not in the table."""
    if code not in LANGUAGES:
        raise InputError(
            f"The language '{code}' is in no table of translators: write a code of ISO 639-1 such as \"sw\", or leave prompts in "
            "it out with --languages."
        )
    return LANGUAGES[code]
