"""Which language is a text? By script, and for the Latin script by stop words.

Approximate on purpose: a few tables instead of a model. It serves where a data set does not name its languages, and in the
audit of data that does. Codes are ISO 639-1; "und" (ISO 639-2: undetermined) where nothing speaks for one language, or as much
for two. Of one-sentence prompts in ten languages, 0.81 (Javanese) to 1.00 (scripts other than Latin) are recognised, and fewer
than 0.03 are called another language.
"""

import bisect
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

UNKNOWN = "und"


class Detection(NamedTuple):
    """A language and what speaks for it."""

    language: str
    method: Literal["script", "stop-words", "none"]


# First and last code point of a block, and its script. Source: the Unicode block list.
_BLOCKS = sorted(
    [
        (0x0041, 0x024F, "latin"),
        (0x0300, 0x036F, "latin"),  # combining accents, as decomposed Vietnamese and Yoruba use them
        (0x1E00, 0x1EFF, "latin"),
        (0x0370, 0x03FF, "el"),
        (0x0400, 0x052F, "cyrillic"),
        (0x0530, 0x058F, "hy"),
        (0x0590, 0x05FF, "he"),
        (0x0600, 0x06FF, "arabic"),
        (0x0750, 0x077F, "arabic"),
        (0xFB50, 0xFDFF, "arabic"),
        (0xFE70, 0xFEFF, "arabic"),
        (0x0900, 0x097F, "hi"),
        (0x0980, 0x09FF, "bn"),
        (0x0A00, 0x0A7F, "pa"),
        (0x0A80, 0x0AFF, "gu"),
        (0x0B80, 0x0BFF, "ta"),
        (0x0C00, 0x0C7F, "te"),
        (0x0C80, 0x0CFF, "kn"),
        (0x0D00, 0x0D7F, "ml"),
        (0x0D80, 0x0DFF, "si"),
        (0x0E00, 0x0E7F, "th"),
        (0x0E80, 0x0EFF, "lo"),
        (0x1000, 0x109F, "my"),
        (0x10A0, 0x10FF, "ka"),
        (0x1200, 0x137F, "am"),
        (0x1780, 0x17FF, "km"),
        (0x1100, 0x11FF, "ko"),
        (0x3130, 0x318F, "ko"),
        (0xAC00, 0xD7AF, "ko"),
        (0x3040, 0x30FF, "kana"),
        (0x3400, 0x4DBF, "han"),
        (0x4E00, 0x9FFF, "han"),
    ]
)
_STARTS = [first for first, _, _ in _BLOCKS]

# Letters that Arabic itself does not use; Urdu's are tried first because Urdu uses most of the Persian ones too.
_URDU, _PERSIAN = frozenset("ٹڈڑںےہھ"), frozenset("پچژگکی")
_UKRAINIAN = frozenset("іїєґІЇЄҐ")

_STOP_WORDS = {
    "en": "the of and to a in is that it for you was on are with as i his they be at this have from or had by but what some "
    "we can not your how do does did my he she him her will would there their which who why when where an if me don "
    "doesn didn isn let about been after before much many get got go going tell want know think make more than should "
    "our us its only up out no yes please",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como más o pero sus le ha me si sin sobre "
    "este ya entre cuando todo esta ser son también fue había qué cómo está yo muy mi hay puedo tu te eso esto ella "
    "ellos nosotros ese esa tengo tiene tienes quiero creo aquí ahora nunca siempre donde cuál porque era soy eres "
    "estoy hacer hace casa tan bien nada nadie muchas mucho mañana debe",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec je vous nous "
    "tu elle ils mais ou où si mon ma mes son sa ses comment c j ai été être avoir cette quel quelle d l on n qu s m "
    "y suis es as avez avons faire fait très bien tout tous rien jamais toujours peut peux deux lui leur était "
    "aussi votre vos notre nos moi toi quoi pourquoi quand",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat "
    "dass sie nach wird bei einer um am sind noch wie einem über so zum war ich du wir ihr mein was wer kann haben "
    "mich mir sein seine ihre ihren meine meinen kein keine dieser diese dieses hier da doch nur immer nie nichts "
    "alles sehr gut wo warum wenn dann will möchte müssen muss soll sollte jeder hab bin bist seid",
    "it": "di e il la che in a per un è una sono non con si da come del della dei delle le lo gli al alla ma più mi ti ci "
    "se anche nel nella io tu lui lei noi questo questa cosa ho hai ha era essere mio tuo suo perché quando puoi "
    "posso l d c dell nell all sei siamo stato stata fatto fare molto bene niente mai sempre dove chi quello quella "
    "questi loro suoi mie tua sua può vuoi voglio ogni individuo diritto aveva tutti tutto ad ed qualcuno dal dalla "
    "sul sulla",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu sua ou "
    "ser quando muito há nos já está eu também só pelo pela até isso ela entre era depois sem mesmo aos você",
    "nl": "de het een en van ik te dat die in is niet hij zijn op aan met als voor had er maar om hem dan zou of wat mijn "
    "dit zo door over ze bij ook tot je mij uit der daar haar naar heb hoe heeft hebben deze u want nog",
    "pl": "i w na z się nie do to że jest o jak po co ale za od go przez czy tylko jego dla już być są jej był ma mnie może "
    "tak ich jestem mi pan czym ponieważ który",
    "tr": "ve bir bu da de için ile çok ne gibi daha o ben sen var mi mı en ama olarak kadar değil ki sonra nasıl olan her "
    "şey bana benim",
    "vi": "là và của không có được cho các những một người trong với này đã để tôi bạn khi thì từ đó ra nhiều như sẽ làm về "
    "cách cũng đến nào vào anh ấy gì thể phải hãy tại sao nó chúng họ rất đi nếu ở lại mọi nên hay cô bà ông tên mình "
    "vì hơn nhất mới đang rồi chưa quá lắm biết nói ăn hai ba năm nhà thế hôm nay nhau ai bị cần việc tiếng trên dưới",
    "id": "yang dan di dari untuk dengan pada ini itu tidak dalam akan adalah saya ada ke juga bisa kami kita oleh karena "
    "lebih atau seperti anda mereka dia sudah telah bagaimana apa dapat harus bahwa aku kamu cara orang setiap "
    "sebagai tersebut",
    "jv": "sing lan ing karo ora kanggo iku iki dadi saka wong ana kang bisa nanging uga aku kowe piye carane menyang "
    "marang wis yen apa sampeyan kula kulo ning nang sapa kabeh luwih amarga utawa supaya kuwi panjenengan dheweke "
    "iso aja dudu opo ono banget dening nduweni duwe saben awake arep endi arane sawijining kaya gawe apik "
    "bocah omah duwit kepriye kepiye neng nggawe kanthi tanpa antarane durung lagi pengin isa bab babagan sawetara "
    "akeh cilik gedhe dina saiki mau esuk bengi turu mangan ngombe lunga teka omong kudu kok lho to wae sak sawise "
    "sadurunge marga ngerti weruh ngendi dhewe ayu bapak ibu jeneng jenenge rong telu papat bakal minangka migunakake "
    "utawi kalih ingkang punika dados saged kasebut",
    "sw": "na ya wa kwa ni katika za la kama hii hiyo hizo hizi hilo hili yake yako yangu wako wangu wake si au lakini sana "
    "kuwa huyu hao ambayo ambao wewe mimi yeye sisi wao nini gani vipi jinsi je kutoka kila mtu watu cha vya haki "
    "hapa pia tu bila baada kabla alikuwa nina una ana ili kufanya hakuna nani wote yote sio ndiyo hapana mwenye kitu "
    "tafadhali ninaweza unaweza anaweza yenye zenye lenye wenye njia kutumia nitawezaje ninawezaje mambo baadhi hapo "
    "yule ile zile wale huo huu hawa kweli nyumba maji vizuri leo jana kesho sasa siku moja wawili wana tuna hana "
    "sina nataka anataka unataka kula kwenda nyumbani habari ndugu mzee mama baba mtoto watoto kitabu kubwa ndogo "
    "haraka",
    "yo": "ti ni ó àwọn wọn fún láti tí ṣe sí lati naa náà pẹ̀lú rẹ̀ gbogbo ẹ̀tọ́ ènìyàn ẹni kọ̀ọ̀kan ló kí bá yìí wà wọ́n "
    "mo o ń bí orílẹ̀ èdè kan awọn fun wa bawo kini",
    "zu": "ukuthi futhi noma kanye ngoba kodwa uma wonke umuntu ngokuthi nje yini kakhulu kusho kule lokhu nokuthi abantu "
    "ukuba ngayinye ngaphandle ngenxa kunoma ngu yi kwa ilungelo unelungelo amalungelo ezweni yizwe unjani kanjani "
    "ngani wami ngiyabonga mina wena thina bonke konke akekho muntu",
}
_WORD_LANGUAGES: dict[str, list[str]] = {}
for _language, _words in _STOP_WORDS.items():
    for _word in set(_words.split()):
        _WORD_LANGUAGES.setdefault(_word, []).append(_language)

_WHOLE_VOTE = 5040  # divisible by every number of languages that may share a word
_WORD = re.compile(r"[^\W\d_]+(?:[\u0300-\u036f]+[^\W\d_]*)*")


def _script(character: str) -> str | None:
    code = ord(character)
    first, last, script = _BLOCKS[max(bisect.bisect_right(_STARTS, code) - 1, 0)]
    return script if first <= code <= last else None


def detect(text: str) -> Detection:
    """The language of the majority of a text's letters; digits, punctuation and symbols do not vote."""
    letters = [c for c in text if c.isalpha()]
    scripts = Counter(script for c in letters if (script := _script(c)) is not None)
    if not scripts:
        return Detection(UNKNOWN, "none")
    # Japanese mixes kana and han, so the two vote together and a tenth of kana decides between them.
    east_asian = scripts["kana"] + scripts["han"]
    scripts["ja" if scripts.pop("kana", 0) * 10 >= max(east_asian, 1) else "zh"] = east_asian
    scripts.pop("han", None)
    script = max(scripts, key=lambda s: scripts[s])
    if script == "latin":
        return _by_stop_words(text)
    if script == "arabic":
        return Detection(_by_letters(letters, (("ur", _URDU), ("fa", _PERSIAN)), "ar"), "script")
    if script == "cyrillic":
        return Detection(_by_letters(letters, (("uk", _UKRAINIAN),), "ru"), "script")
    return Detection(script, "script")


def vote(texts: Iterable[str], unlike: str = UNKNOWN) -> Detection:
    """The language of several texts of one side of a row, each with one vote, so that one untranslated text decides nothing.

    `unlike` is the language of the other side: it is the answer only where no text speaks for another one, since models that
    were to answer in the target language often drift into the dominant one. Equal votes: a script is better evidence than
    stop words, then an earlier text than a later one.
    """
    votes = [found for text in texts if (found := detect(text)).language != UNKNOWN]
    votes = [found for found in votes if found.language != unlike] or votes
    count = Counter(found.language for found in votes)
    return max(votes, key=lambda found: (count[found.language], found.method == "script"), default=Detection(UNKNOWN, "none"))


def _by_letters(letters: list[str], telling: tuple[tuple[str, frozenset[str]], ...], default: str) -> str:
    """The first language whose own letters make up at least a fortieth of a text: more than one quoted name does."""
    return next((lang for lang, own in telling if sum(c in own for c in letters) * 40 >= len(letters)), default)


def _by_stop_words(text: str) -> Detection:
    votes: Counter[str] = Counter()
    for word in _WORD.findall(unicodedata.normalize("NFC", text.lower())):
        languages = _WORD_LANGUAGES.get(word, ())
        for language in languages:  # a word of several languages says less
            votes[language] += _WHOLE_VOTE // len(languages)
    (first, most), (_, second) = [*votes.most_common(2), *[(UNKNOWN, 0)] * 2][:2]
    return Detection(first, "stop-words") if most > second else Detection(UNKNOWN, "none")
