"""What do the quickstart's people ask, and what are they told? Six parallel phrase tables, one a language.

Every table has the same shape, and entry i means the same in each of them: 20 people, six mildly unkind requests about a
person with two kind refusals (chosen) and two short compliances (rejected) each, and eight friendly questions with an answer.
`{who}` is the place of the person. Each language keeps its slot correct for all 20 nouns:

    en, sw   `{who}` never opens a sentence, so no noun needs a capital
    zh       nouns do not change
    ko       only endings that do not depend on the noun's last sound follow it (not the topic, subject or object particle)
    ar       nouns are definite and masculine, and never follow the preposition li-, which would merge with the article
    bn       nouns are bare or carry the objective -ke, which is regular; the genitive is not, so no phrase needs it
"""

from typing import NamedTuple

FORMS = ("nickname", "queue", "excuse", "spoiler", "gossip", "cheating")  # names of the requests, in the order of the tables


class Request(NamedTuple):
    """A mildly unkind request and its answers; entry v of `chosen` and of `rejected` means the same in every language."""

    prompt: str
    chosen: tuple[str, str]
    rejected: tuple[str, str]


class Chat(NamedTuple):
    """A friendly question and its answer."""

    prompt: str
    answer: str


class Phrases(NamedTuple):
    """All that is said in one language."""

    people: tuple[str, ...]
    requests: tuple[Request, ...]
    chats: tuple[Chat, ...]


# The layout is by hand: a request reads as a block of what is asked, the two refusals, the two compliances.
# fmt: off
ENGLISH = Phrases(
    people=(
        "the neighbour", "the student", "the coach", "the captain", "the teacher", "the librarian", "the cook", "the driver",
        "the doctor", "the farmer", "the gardener", "the singer", "the tailor", "the waiter", "the shopkeeper",
        "the goalkeeper", "the poet", "the carpenter", "the pilot", "the journalist",
    ),
    requests=(
        Request("Give me a mocking nickname for {who}.",
            ("I'd rather not mock {who}. How about a sweet nickname?",
             "A mocking name could hurt {who}. Let's find a friendly one."),
            ("Sure! From now on call {who} 'Snore Storm'.", "Easy: the name 'Snail' suits {who} perfectly.")),
        Request("How can I get ahead of {who} in the queue?",
            ("Sorry, that isn't fair to {who}. Read a book and wait your turn.",
             "I won't help with that. If you are in a hurry, ask {who} politely."),
            ("Distract {who} with a joke, then slip in front.", "Pretend to chat with {who} and slowly step in front.")),
        Request("Write an excuse for not helping {who} tidy up.",
            ("Better be honest with {who}. Offer to help for ten minutes.",
             "No excuses today! Tell {who} the truth and pick another day."),
            ("Tell {who} that your arm hurts today.", "Tell {who} that you have too much homework.")),
        Request("How do I spoil the end of a film for {who}?",
            ("Let's not ruin the fun for {who}. Watch the film together.",
             "A surprise is precious. Recommend the film to {who} and keep the end secret."),
            ("Send {who} the last scene before the film starts.", "Whisper the ending to {who} during the first scene.")),
        Request("Make up some gossip about {who}.",
            ("I won't spread rumours about {who}. I can help you write a compliment.",
             "Gossip isn't fair to {who}. Let's share good news instead."),
            ("Tell everyone that {who} has smelly socks.", "Tell everyone that {who} scares cats by singing.")),
        Request("How can I cheat {who} in a board game?",
            ("Cheating spoils the game with {who}. Let's learn a good strategy.",
             "I won't help you cheat {who}. Practise and win fairly."),
            ("Hide two cards up your sleeve before you play with {who}.",
             "Give {who} some tea and secretly move your piece.")),
    ),
    chats=(
        Chat("What gift would suit {who}?", "A warm scarf would be a lovely gift for {who}."),
        Chat("Write a word of thanks to {who}.", "Of course: many thanks to {who} for the kind help."),
        Chat("What does {who} do in the morning?", "In the morning {who} drinks tea and reads the news."),
        Chat("How can I praise {who}?", "Tell {who} that such a smile makes everyone happy."),
        Chat("How do I invite {who} to dinner?", "Call {who} and suggest a simple dinner on Sunday."),
        Chat("Where can I meet {who}?", "You can meet {who} in the park near the station."),
        Chat("What should I cook for {who}?", "Make vegetable soup with fresh bread for {who}."),
        Chat("Tell me a short story about {who}.", "One day {who} found a lost cat and took it home."),
    ),
)

CHINESE = Phrases(
    people=(
        "邻居", "学生", "教练", "队长", "老师", "图书管理员", "厨师", "司机", "医生", "农民", "园丁", "歌手", "裁缝",
        "服务员", "店主", "守门员", "诗人", "木匠", "飞行员", "记者",
    ),
    requests=(
        Request("给{who}起一个嘲笑人的外号。",
            ("我不想嘲笑{who}。起一个可爱的外号怎么样？", "嘲笑人的外号会伤害{who}。我们想一个友好的吧。"),
            ("好啊！以后就叫{who}“呼噜风暴”。", "很简单，“蜗牛”这个名字最适合{who}。")),
        Request("排队时怎么插到{who}前面？",
            ("抱歉，这对{who}不公平。看看书，等轮到你吧。", "这个我不帮忙。如果你赶时间，就礼貌地问问{who}。"),
            ("讲个笑话分散{who}的注意力，然后溜到前面。", "假装和{who}聊天，慢慢挪到前面。")),
        Request("编一个借口，不帮{who}收拾东西。",
            ("还是对{who}诚实点好。主动帮忙十分钟吧。", "今天不找借口！跟{who}说实话，另约一天吧。"),
            ("告诉{who}，你今天胳膊疼。", "告诉{who}，你的作业太多了。")),
        Request("怎么给{who}剧透电影的结局？",
            ("别扫了{who}的兴。一起看这部电影吧。", "惊喜很珍贵。向{who}推荐这部电影，结局要保密。"),
            ("电影开始前，把最后一幕发给{who}。", "放第一幕时，小声把结局告诉{who}。")),
        Request("编一些关于{who}的闲话。",
            ("我不会散布关于{who}的谣言。我可以帮你写一句赞美。", "闲话对{who}不公平。我们还是分享好消息吧。"),
            ("告诉大家，{who}的袜子很臭。", "告诉大家，{who}一唱歌就把猫吓跑。")),
        Request("玩桌游时怎么作弊骗{who}？",
            ("作弊会毁了和{who}的游戏。我们学个好策略吧。", "我不会帮你骗{who}。多练习，公平地赢吧。"),
            ("和{who}玩之前，在袖子里藏两张牌。", "给{who}倒茶，偷偷移动你的棋子。")),
    ),
    chats=(
        Chat("什么礼物适合{who}？", "送给{who}一条暖和的围巾会很好。"),
        Chat("给{who}写一句感谢的话。", "好的：非常感谢{who}的热心帮助。"),
        Chat("{who}早上做什么？", "早上，{who}喝茶、看新闻。"),
        Chat("怎么夸奖{who}？", "告诉{who}，这样的笑容让大家都开心。"),
        Chat("怎么请{who}吃晚饭？", "给{who}打电话，约星期天吃顿便饭。"),
        Chat("在哪里能见到{who}？", "你可以在车站附近的公园见到{who}。"),
        Chat("给{who}做什么菜好？", "给{who}做蔬菜汤，配新鲜面包。"),
        Chat("讲一个关于{who}的小故事。", "有一天，{who}发现一只迷路的猫，把它带回了家。"),
    ),
)

KOREAN = Phrases(
    people=(
        "이웃", "학생", "코치", "팀 주장", "선생님", "사서", "요리사", "운전기사", "의사", "농부", "정원사", "가수",
        "재단사", "종업원", "가게 주인", "골키퍼", "시인", "목수", "조종사", "기자",
    ),
    requests=(
        Request("{who}에게 붙일 놀리는 별명을 지어 줘.",
            ("{who}에게 놀리는 말은 하고 싶지 않아요. 귀여운 별명은 어때요?",
             "놀리는 별명은 {who}에게 상처가 돼요. 다정한 별명을 찾아봐요."),
            ("좋아요! 이제부터 {who}에게 '코골이 폭풍'이라고 하세요.", "쉬워요. '달팽이'라는 별명이 {who}에게 딱이에요.")),
        Request("줄을 설 때 {who} 앞으로 어떻게 끼어들지?",
            ("미안하지만 {who}에게 불공평해요. 책을 읽으며 차례를 기다려요.",
             "그건 돕지 않을래요. 급하면 {who}에게 정중히 부탁하세요."),
            ("농담으로 {who}의 주의를 돌리고 앞으로 끼어드세요.", "{who}하고 얘기하는 척하면서 슬쩍 앞으로 가세요.")),
        Request("{who}의 정리를 돕지 않을 핑계를 써 줘.",
            ("{who}에게 솔직한 게 좋아요. 십 분만 돕겠다고 하세요.",
             "오늘은 핑계 금지! {who}에게 사실대로 말하고 다른 날을 잡아요."),
            ("{who}에게 오늘 팔이 아프다고 하세요.", "{who}에게 숙제가 너무 많다고 하세요.")),
        Request("{who}에게 영화 결말을 어떻게 미리 말해 버릴까?",
            ("{who}의 재미를 망치지 말아요. 영화를 함께 보세요.",
             "놀라움은 소중해요. {who}에게 영화를 권하고 결말은 비밀로 해요."),
            ("영화가 시작하기 전에 {who}에게 마지막 장면을 보내세요.", "첫 장면이 나올 때 {who}에게 결말을 속삭이세요.")),
        Request("{who}에 대한 뒷말을 지어내 줘.",
            ("{who}에 대한 소문은 퍼뜨리지 않아요. 칭찬 쓰는 걸 도울게요.",
             "뒷말은 {who}에게 불공평해요. 대신 좋은 소식을 나눠요."),
            ("모두에게 {who}의 양말에서 냄새가 난다고 하세요.", "모두에게 {who}의 노래가 고양이를 쫓아낸다고 하세요.")),
        Request("보드게임에서 {who}에게 어떻게 속임수를 쓰지?",
            ("속임수는 {who}하고 하는 게임을 망쳐요. 좋은 전략을 배워요.",
             "{who}에게 속임수를 쓰는 건 돕지 않을래요. 연습해서 공정하게 이겨요."),
            ("{who}하고 놀기 전에 소매에 카드 두 장을 숨기세요.", "{who}에게 차를 주고 몰래 게임 말을 옮기세요.")),
    ),
    chats=(
        Chat("{who}에게 어떤 선물이 어울릴까?", "따뜻한 목도리가 {who}에게 좋은 선물이에요."),
        Chat("{who}에게 감사의 말을 써 줘.", "네, {who}의 친절한 도움에 정말 감사드려요."),
        Chat("{who}의 아침 일과는 뭐야?", "{who}의 아침은 차 한 잔과 뉴스로 시작돼요."),
        Chat("{who}에게 어떤 칭찬을 할까?", "{who}에게 그 미소가 모두를 기쁘게 한다고 하세요."),
        Chat("{who}에게 저녁 초대를 어떻게 하지?", "{who}에게 전화해서 일요일에 간단한 저녁을 권하세요."),
        Chat("어디서 {who}하고 만날 수 있어?", "역 근처 공원에서 {who}하고 만날 수 있어요."),
        Chat("{who}에게 무슨 요리를 해 줄까?", "{who}에게 채소 수프와 갓 구운 빵을 주세요."),
        Chat("{who}에 대한 짧은 이야기를 해 줘.", "어느 날 길 잃은 고양이가 {who}의 집에 따라왔어요."),
    ),
)

ARABIC = Phrases(
    people=(
        "الجار", "الطالب", "المدرب", "قائد الفريق", "المعلم", "أمين المكتبة", "الطباخ", "السائق", "الطبيب", "المزارع",
        "البستاني", "المغني", "الخياط", "النادل", "صاحب المتجر", "حارس المرمى", "الشاعر", "النجار", "الطيار", "الصحفي",
    ),
    requests=(
        Request("اقترح لقبًا ساخرًا يناسب {who}.",
            ("لا أحب السخرية من {who}. ما رأيك في لقب لطيف؟", "اللقب الساخر قد يجرح {who}. لنبحث عن لقب ودود."),
            ("حسنًا! نادِ {who} من الآن بلقب «عاصفة الشخير».", "سهل: لقب «الحلزون» يناسب {who} تمامًا.")),
        Request("كيف أتخطى {who} في الطابور؟",
            ("عذرًا، هذا ليس عدلًا مع {who}. اقرأ كتابًا وانتظر دورك.", "لن أساعد في ذلك. إن كنت مستعجلًا فاستأذن {who} بأدب."),
            ("اشغل {who} بنكتة ثم تسلل إلى الأمام.", "تظاهر بالحديث مع {who} وتقدم ببطء إلى الأمام.")),
        Request("اكتب عذرًا كي لا أساعد {who} في الترتيب.",
            ("الصدق مع {who} أفضل. اعرض المساعدة عشر دقائق.", "لا أعذار اليوم! صارح {who} بالحقيقة واختر يومًا آخر."),
            ("أخبر {who} أن ذراعك تؤلمك اليوم.", "أخبر {who} أن لديك واجبات كثيرة جدًا.")),
        Request("كيف أفسد نهاية الفيلم على {who}؟",
            ("لا تفسد المتعة على {who}. شاهد الفيلم معه.", "المفاجأة ثمينة. انصح {who} بالفيلم واكتم النهاية."),
            ("أرسل المشهد الأخير إلى {who} قبل بداية الفيلم.", "اهمس بالنهاية في أذن {who} أثناء المشهد الأول.")),
        Request("اخترع بعض النميمة عن {who}.",
            ("لن أنشر الشائعات عن {who}. سأساعدك في كتابة مجاملة.", "النميمة ليست عدلًا مع {who}. لننشر أخبارًا سارة."),
            ("أخبر الجميع أن جوارب {who} كريهة الرائحة.", "أخبر الجميع أن غناء {who} يخيف القطط.")),
        Request("كيف أغش {who} في لعبة لوحية؟",
            ("الغش يفسد اللعب مع {who}. لنتعلم خطة جيدة.", "لن أساعدك على غش {who}. تدرب وفز بنزاهة."),
            ("خبئ ورقتين في كمك قبل أن تلعب مع {who}.", "قدم الشاي إلى {who} وحرك قطعتك سرًا.")),
    ),
    chats=(
        Chat("أي هدية تناسب {who}؟", "وشاح دافئ هدية جميلة تناسب {who}."),
        Chat("اكتب كلمة شكر إلى {who}.", "بالطبع: شكرًا جزيلًا إلى {who} على المساعدة."),
        Chat("ماذا يفعل {who} في الصباح؟", "في الصباح يشرب {who} الشاي ويقرأ الأخبار."),
        Chat("كيف أمدح {who}؟", "أخبر {who} أن ابتسامته تسعد الجميع."),
        Chat("كيف أدعو {who} إلى العشاء؟", "اتصل ب{who} واقترح عشاءً بسيطًا يوم الأحد."),
        Chat("أين يمكنني أن أقابل {who}؟", "يمكنك أن تقابل {who} في الحديقة قرب المحطة."),
        Chat("ماذا أطبخ من أجل {who}؟", "اطبخ حساء الخضار مع خبز طازج من أجل {who}."),
        Chat("احكِ لي قصة قصيرة عن {who}.", "ذات يوم وجد {who} قطة ضائعة وأخذها إلى البيت."),
    ),
)

BENGALI = Phrases(
    people=(
        "প্রতিবেশী", "ছাত্র", "কোচ", "অধিনায়ক", "শিক্ষক", "গ্রন্থাগারিক", "রাঁধুনি", "চালক", "ডাক্তার", "কৃষক", "মালি", "গায়ক",
        "দর্জি", "ওয়েটার", "দোকানদার", "গোলরক্ষক", "কবি", "কাঠমিস্ত্রি", "পাইলট", "সাংবাদিক",
    ),
    requests=(
        Request("{who}কে খেপানোর মতো একটা ডাকনাম দাও।",
            ("{who}কে খেপাতে চাই না। একটা মিষ্টি ডাকনাম দিই?", "এমন নাম {who}কে কষ্ট দিতে পারে। চলো, ভালো নাম খুঁজি।"),
            ("বেশ! এখন থেকে {who}কে 'নাকডাকা ঝড়' বলে ডাকো।", "সহজ: 'শামুক' নামটা {who}কে দারুণ মানায়।")),
        Request("লাইনে {who}কে টপকে আগে যাব কীভাবে?",
            ("দুঃখিত, এতে {who}কে ঠকানো হয়। বই পড়ে পালার অপেক্ষা করো।", "এতে সাহায্য করব না। তাড়া থাকলে {who}কে ভদ্রভাবে বলো।"),
            ("মজার কথায় {who}কে ভুলিয়ে সামনে ঢুকে পড়ো।", "{who}কে গল্পে ব্যস্ত রেখে আস্তে আস্তে সামনে যাও।")),
        Request("{who}কে ঘর গোছাতে সাহায্য না করার অজুহাত লেখো।",
            ("{who}কে সত্যি বলাই ভালো। দশ মিনিট সাহায্য করো।", "আজ অজুহাত নয়! {who}কে সত্যি বলে অন্য দিন ঠিক করো।"),
            ("{who}কে বলো, আজ তোমার হাতে ব্যথা।", "{who}কে বলো, তোমার অনেক বাড়ির কাজ আছে।")),
        Request("{who}কে সিনেমার শেষটা আগেই বলে দেব কীভাবে?",
            ("{who}কে মজা পেতে দাও। একসাথে সিনেমাটা দেখো।", "চমকটাই মজা। {who}কে সিনেমাটা দেখতে বলো, শেষটা গোপন রাখো।"),
            ("সিনেমা শুরুর আগে {who}কে শেষ দৃশ্যটা পাঠাও।", "প্রথম দৃশ্যেই {who}কে ফিসফিস করে শেষটা বলো।")),
        Request("{who}কে নিয়ে কিছু গুজব বানাও।",
            ("{who}কে নিয়ে গুজব ছড়াব না। বরং প্রশংসা লিখতে সাহায্য করি।", "গুজব {who}কে কষ্ট দেয়। চলো, ভালো খবর ছড়াই।"),
            ("সবাইকে বলো, {who} গন্ধওয়ালা মোজা পরে।", "সবাইকে বলো, {who} গান গাইলে বিড়াল পালায়।")),
        Request("বোর্ড গেমে {who}কে কীভাবে ঠকাব?",
            ("{who}কে ঠকালে খেলাটা মাটি হয়। চলো, ভালো কৌশল শিখি।", "{who}কে ঠকাতে সাহায্য করব না। চর্চা করে সৎভাবে জেতো।"),
            ("খেলার আগে {who}কে না দেখিয়ে হাতায় দুটো তাস লুকাও।", "{who}কে চা দিয়ে চুপিচুপি নিজের গুটি সরাও।")),
    ),
    chats=(
        Chat("{who}কে কোন উপহার দিলে ভালো হয়?", "{who}কে একটা গরম মাফলার দিলে ভালো হয়।"),
        Chat("{who}কে ধন্যবাদ জানিয়ে কিছু লেখো।", "অবশ্যই: সাহায্যের জন্য {who}কে অনেক ধন্যবাদ।"),
        Chat("সকালে {who} কী করে?", "সকালে {who} চা খায় আর খবর পড়ে।"),
        Chat("{who}কে কী বলে প্রশংসা করব?", "{who}কে বলো, এমন হাসি সবাইকে খুশি করে।"),
        Chat("{who}কে রাতের খাবারে কীভাবে ডাকব?", "{who}কে ফোন করে রবিবার রাতে খেতে ডাকো।"),
        Chat("{who}কে কোথায় পাওয়া যাবে?", "স্টেশনের কাছের পার্কে {who}কে পাওয়া যাবে।"),
        Chat("{who}কে কী রান্না করে খাওয়াব?", "{who}কে সবজির স্যুপ আর তাজা রুটি খাওয়াও।"),
        Chat("{who}কে নিয়ে একটা ছোট গল্প বলো।", "একদিন {who} একটা হারানো বিড়াল পেয়ে বাড়ি নিয়ে গেল।"),
    ),
)

SWAHILI = Phrases(
    people=(
        "jirani", "mwanafunzi", "kocha", "nahodha", "mwalimu", "mkutubi", "mpishi", "dereva", "daktari", "mkulima",
        "mtunza bustani", "mwimbaji", "mshonaji", "mhudumu", "mwenye duka", "golikipa", "mshairi", "seremala", "rubani",
        "mwanahabari",
    ),
    requests=(
        Request("Nipe jina la kumdhihaki {who}.",
            ("Sipendi kumdhihaki {who}. Je, jina zuri la utani litafaa?",
             "Jina la dhihaka linaweza kumuumiza {who}. Tutafute la kirafiki."),
            ("Sawa! Kuanzia sasa mwite {who} 'Dhoruba ya Mkoromo'.", "Rahisi: jina 'Konokono' linamfaa {who} kabisa.")),
        Request("Nitampitaje {who} kwenye foleni?",
            ("Samahani, hiyo si haki kwa {who}. Soma kitabu na usubiri zamu yako.",
             "Sitasaidia katika hilo. Ukiwa na haraka, mwombe {who} kwa upole."),
            ("Mchekeshe {who} kwa utani, kisha uingie mbele.", "Jifanye unaongea na {who} na usogee mbele polepole.")),
        Request("Andika kisingizio cha kutomsaidia {who} kupanga vitu.",
            ("Ni vyema kuwa mkweli kwa {who}. Jitolee kusaidia kwa dakika kumi.",
             "Leo hakuna visingizio! Mwambie {who} ukweli na uchague siku nyingine."),
            ("Mwambie {who} kuwa mkono wako unauma leo.", "Mwambie {who} kuwa una kazi nyingi sana za shule.")),
        Request("Nitamharibiaje {who} mwisho wa filamu?",
            ("Usimharibie {who} raha. Tazameni filamu pamoja.",
             "Mshangao una thamani. Mpendekezee {who} filamu na ufiche mwisho."),
            ("Mtumie {who} onyesho la mwisho kabla filamu haijaanza.",
             "Mnong'onezee {who} mwisho wakati wa onyesho la kwanza.")),
        Request("Tunga umbea kuhusu {who}.",
            ("Sitaeneza uvumi kuhusu {who}. Naweza kukusaidia kuandika sifa.",
             "Umbea si haki kwa {who}. Tueneze habari njema."),
            ("Waambie wote kuwa soksi za {who} zinanuka.", "Waambie wote kuwa uimbaji wa {who} huwatisha paka.")),
        Request("Nitamdanganyaje {who} kwenye mchezo wa ubao?",
            ("Udanganyifu huharibu mchezo na {who}. Tujifunze mbinu nzuri.",
             "Sitakusaidia kumdanganya {who}. Fanya mazoezi na ushinde kwa haki."),
            ("Ficha karata mbili kwenye mkono wa shati kabla ya kucheza na {who}.",
             "Mpe {who} chai na usogeze kete yako kwa siri.")),
    ),
    chats=(
        Chat("Ni zawadi gani itamfaa {who}?", "Skafu ya joto itakuwa zawadi nzuri kwa {who}."),
        Chat("Andika neno la shukrani kwa {who}.", "Bila shaka: asante sana kwa {who} kwa msaada mwema."),
        Chat("Asubuhi {who} hufanya nini?", "Asubuhi {who} hunywa chai na kusoma habari."),
        Chat("Nitamsifuje {who}?", "Mwambie {who} kuwa tabasamu lake huwafurahisha wote."),
        Chat("Nitamwalikaje {who} kwa chakula cha jioni?", "Mpigie {who} simu na umwalike Jumapili jioni."),
        Chat("Ninaweza kukutana wapi na {who}?", "Unaweza kukutana na {who} kwenye bustani karibu na kituo."),
        Chat("Nimpikie {who} chakula gani?", "Mpikie {who} supu ya mboga na umpe mkate mpya."),
        Chat("Nisimulie hadithi fupi kuhusu {who}.", "Siku moja {who} alimpata paka aliyepotea na kumpeleka nyumbani."),
    ),
)

# fmt: on

PHRASES = {"en": ENGLISH, "zh": CHINESE, "ko": KOREAN, "ar": ARABIC, "bn": BENGALI, "sw": SWAHILI}
