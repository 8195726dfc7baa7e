"""A rule-based sentiment model for short texts in English, Korean and Japanese.

It reads: words with weights, negations that turn them around, words of degree, and the rule that what follows a "but"
counts for more than what stands before it. Where it finds nothing, it takes the text for praise, as most reviews are.
It knows no irony, no comparison and few words, so it is sometimes wrong, always in the same way.

A prompt mostly holds instructions beside the text to judge, and those name the labels ("positive or negative?"). So
the text is found first (:func:`extract`): what is fenced, else what follows a heading such as ``Review:``, else all
sentences that aren't instructions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from airflow_openai_batch.emulator.lexicon import (
    ENGLISH,
    ENGLISH_EXCESS,
    ENGLISH_PHRASES,
    ENGLISH_UNREAL,
    JAPANESE,
    KOREAN,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

POSITIVE, NEGATIVE = "positive", "negative"

_FENCED = re.compile(r'"""(.+?)"""|```(?:\w*\n)?(.+?)```|<(\w+)>(.+?)</\3>', re.DOTALL)
_HEADING = re.compile(
    r"(?:\A|[\n.!?。\uff01\uff1f」])\s*(?:customer |restaurant |the )?"
    r"(?:review|text|comment|feedback|input|sentence|리뷰|후기|텍스트|문장|내용|レビュー|口コミ|テキスト|文章|本文)"
    r"(?: text)?\s?[:\uff1a]\s*",
    re.IGNORECASE,
)
_TRAILING_HEADING = re.compile(
    r"\n\s*(?:sentiment|answer|label|output|result|classification|감성|감정|답|정답|라벨|答え|回答|ラベル|感情)"
    r"\s?[:\uff1a].*\Z",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCE = re.compile(r"[^.!?。\uff01\uff1f\n:\uff1a]+[.!?。\uff01\uff1f\n:\uff1a]*")
_POSITIVE_LABEL = re.compile(r"\bpositive|긍정|ポジティブ|肯定", re.IGNORECASE)
_NEGATIVE_LABEL = re.compile(r"\bnegative|부정|ネガティブ|否定", re.IGNORECASE)
_TASK = re.compile(
    r"\b(?:sentiment|classify|classification|categori[sz]e|label(?:l?ed)?|one word|single word|json|respond with|"
    r"reply with|answer with|answer only|output only|you are an? [\w ]*(?:assistant|expert|analyst|classifier)|"
    r"(?:good or bad|happy or unhappy|satisfied or (?:dis|un)satisfied))\b"
    r"|감성|감정|분류|판단해|판단하|답하|대답|답변|한 단어|단어로|感情|分類|判定|判断し|答えて|回答して|一言で|一語で",
    re.IGNORECASE,
)
_ASKING = re.compile(r"[?:\uff1f\uff1a]\s*\Z")

_LATIN, _HANGUL, _KANA = re.compile(r"[A-Za-z]{2}"), re.compile(r"[가-힣]"), re.compile(r"[ぁ-ヿ一-龯]")

_BEFORE_CONTRAST, _AFTER_CONTRAST = 0.5, 1.5


def classify(text: str) -> str:
    """Return ``positive`` or ``negative`` for the text in a prompt. Without any known word: ``positive``."""
    return POSITIVE if score(extract(text)) >= 0 else NEGATIVE


def extract(prompt: str) -> str:
    """Return the text to judge: the prompt without its instructions."""
    if fenced := _FENCED.search(prompt):
        return fenced[1] or fenced[2] or fenced[4]
    prompt = _TRAILING_HEADING.sub("", prompt)
    headings = list(_HEADING.finditer(prompt))
    if headings and (rest := prompt[headings[0].end() :].strip()):
        return rest
    kept = "".join(sentence for sentence in _SENTENCE.findall(prompt) if not _instructs(sentence))
    return kept if kept.strip() else prompt


def _instructs(sentence: str) -> bool:
    labels = bool(_POSITIVE_LABEL.search(sentence)) + bool(_NEGATIVE_LABEL.search(sentence))
    both = 2
    return labels == both or bool(_TASK.search(sentence)) or (labels > 0 and bool(_ASKING.search(sentence)))


def score(text: str) -> float:
    """Return how much praise is in ``text``: below zero for blame."""
    if text.isascii():
        return _english(text)
    total = _english(text) if _LATIN.search(text) else 0.0
    if _HANGUL.search(text):
        total += _KOREAN.score(text)
    return total + _JAPANESE.score(text) if _KANA.search(text) else total


# English: one pass over words and stops.

_TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[,.!?;:()\n]")
_SENTENCE_ENDS = frozenset(".!?;\n")
_CONTRASTS = frozenset(("but", "however", "yet", "nevertheless", "nonetheless", "unfortunately", "sadly", "still"))
_CONCESSIONS = frozenset(("although", "though", "while", "despite", "except"))
_NEGATION_ENDS = frozenset((",", ":", "(", ")", "and", "because", "since", *_CONTRASTS, *_CONCESSIONS))
_NEGATORS = frozenset(
    (
        *(
            "not",
            "no",
            "never",
            "nothing",
            "none",
            "nobody",
            "hardly",
            "barely",
            "scarcely",
            "without",
            "neither",
            "nor",
        ),
        *("cannot", "isnt", "wasnt", "dont", "didnt", "doesnt", "wont", "cant", "couldnt", "wouldnt", "arent", "zero"),
    )
)
_DEGREES = {
    **dict.fromkeys(("very", "really", "so", "extremely", "absolutely", "incredibly", "super", "totally"), 1.5),
    **dict.fromkeys(("truly", "highly", "beyond", "exceptionally", "insanely", "ridiculously", "especially"), 1.5),
    **dict.fromkeys(("slightly", "somewhat", "little", "bit", "fairly", "almost", "occasionally", "sometimes"), 0.5),
}
_TOO = -0.5
_REACH, _DEGREE_REACH = 4, 2
_TURNED = -0.8
# A negation that turns nothing around: blame tells what wasn't there more often than praise does.
_IDLE = -0.4
# What a word may end in, and what then stands in place of that.
_ENDINGS = (
    *(("iest", "y"), ("ier", "y"), ("ily", "y"), ("ied", "y"), ("ies", "y"), ("iness", "y"), ("ness", "")),
    *(("ments", ""), ("ment", ""), ("ingly", ""), ("ing", ""), ("ing", "e"), ("edly", ""), ("ed", ""), ("ed", "e")),
    *(("est", ""), ("est", "e"), ("er", ""), ("er", "e"), ("ly", ""), ("y", "e"), ("es", ""), ("s", ""), ("y", "")),
)
_LONG_ENOUGH = 3


def _phrases() -> dict[str, list[tuple[list[str], float]]]:
    """Return the phrases by their first word, the longest first, with "can't" also written "cannot" and "cant"."""
    found: dict[str, list[tuple[list[str], float]]] = {}
    for phrase, weight in ENGLISH_PHRASES.items():
        spelt_out = phrase.replace("can't", "cannot").replace("won't", "will not").replace("n't", " not")
        for form in dict.fromkeys((phrase, spelt_out, phrase.replace("n't", "nt"))):
            words = form.split()
            found.setdefault(words[0], []).append((words, weight))
    for same in found.values():
        same.sort(key=lambda item: -len(item[0]))
    return found


_PHRASES = _phrases()


@lru_cache(maxsize=8192)
def _weight(word: str) -> float:
    """Return what a word weighs, in whichever form it stands; nothing if it's unknown."""
    if word in ENGLISH:
        return ENGLISH[word]
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _LONG_ENOUGH:
            stem = word[: -len(ending)] + instead
            if stem in ENGLISH:
                return ENGLISH[stem]
    return -max(_weight(word[2:]), 0.0) if word.startswith("un") else 0.0


def _phrase(tokens: list[str], place: int) -> tuple[int, float] | None:
    """Return how long the phrase at ``place`` is and what it weighs, if there is one."""
    for words, weight in _PHRASES.get(tokens[place], ()):
        if tokens[place : place + len(words)] == words:
            return len(words), weight
    return None


def _degree(tokens: list[str], place: int, weight: float) -> float:
    """Return ``weight`` as the words right before it make it."""
    for before in tokens[max(0, place - _DEGREE_REACH) : place]:
        weight *= _DEGREES.get(before, 1.0)
    # "too" makes praise doubtful and blame no better.
    if place and tokens[place - 1] == "too":
        return ENGLISH_EXCESS.get(tokens[place], weight * (_TOO if weight > 0 else 1.0))
    return weight


def _english(text: str) -> float:
    tokens = _TOKEN.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    total = 0.0
    for sentence in _split(tokens):
        total += _english_sentence(sentence)
    return total


def _split(tokens: list[str]) -> Iterator[list[str]]:
    start = 0
    for place, word in enumerate(tokens):
        if word in _SENTENCE_ENDS:
            yield tokens[start:place]
            start = place + 1
    yield tokens[start:]


def _english_sentence(words: list[str]) -> float:
    clauses, conceded, conceding = [0.0], 0.0, False
    negated_until, following, idle = -1, 0, 0
    for place, word in enumerate(words):
        if place < following:
            continue
        if phrase := _phrase(words, place):
            following, weight = place + phrase[0], phrase[1]
            unreal = " ".join(words[place:following]) in ENGLISH_UNREAL
        else:
            unreal = False
            if word in _NEGATION_ENDS:
                negated_until = -1
                conceding = word in _CONCESSIONS or (conceding and word != ",")
                if word in _CONTRASTS:
                    clauses.append(0.0)
            weight = _weight(word)
            if place and (weight or word in ENGLISH_EXCESS):
                weight = _degree(words, place, weight)
        if weight and place <= negated_until:
            weight *= _TURNED
            idle = max(0, idle - 1)
        if conceding:
            conceded += weight
        else:
            clauses[-1] += weight
        if unreal or (place >= following and (word in _NEGATORS or word.endswith("n't"))):
            negated_until = max(place, following - 1) + _REACH
            idle += not unreal
    return conceded * _BEFORE_CONTRAST + _weighed(clauses) + idle * _IDLE


# Korean and Japanese: stems anywhere, looked at with what stands right around them.

_KOREAN_CONTRAST = re.compile(
    r"(?:지만|는데|은데|인데|한데|운데|던데|으나|하지만|그러나|그런데|근데|다만|반면에?|빼면|빼고는|말고는|제외하면)(?:도|요)?[\s,]"
)
_KOREAN_AFTER = re.compile(
    r"[가-힣]{0,3}(?:\s?싶)?(?:지\s?(?:는|도|가|를)?|진|질|단\s생각이|다는\s생각이)\s?(?:전혀\s)?(?:않|못|안|모르)"
    r"|(?!.{0,5}뿐)[가-힣]{0,2}(?:\s?[가-힣]{1,2})?(?:이|가|은|는|도)?\s?아[니닌]"
    r"|(?![가-힣]{0,4}(?:고|서|며|만|데|니|요|다|게)[\s,])[가-힣]{0,4}\s?(?:한\s?번도\s|전혀\s|하나도\s)?"
    r"[가-힣]{0,3}\s?(?:한\s?번도\s|전혀\s|하나도\s|찾아볼 수\s?|찾을 수\s?)?없"
    r"|(?:가|도|는)?\s(?:전혀\s|하나도\s)?안\s?[나났느]"
)
_KOREAN_BEFORE = re.compile(r"(?:^|\s)(?:안|못)\s?$")
_KOREAN_DEGREES = re.compile(r"(?:(정말|진짜|너무|매우|아주|완전|참|굉장히|훨씬)|(조금|약간|살짝|좀|다소))\s$")
_JAPANESE_CONTRAST = re.compile(
    r"(?:けれども|けれど|けど|しかし|ものの|(?<=[いただ])のに|ますが|ですが|反面|一方で?|ただし|と思いきや|意外[とに]も?)[、,\s]?"
    r"|(?:たが|だが|が)[、,\s]|(?:^|(?<=[、,\s]))(?:でも|ただ)(?=[、,\s])"
)
_JAPANESE_AFTER = re.compile(
    r"な[いか](?!と)|[ぁ-ん]?[かがさたまばらわけせてべめれえ]な(?:い|かっ|く)(?!と|か)"
    r"|(?!(?:く|か?っ|い|し)?[てで][^はもいなき])[ぁ-んァ-ヶ一-龯]{0,5}?"
    r"(?:(?<!しか)(?:く|くは|くも|が|は|も|では|じゃ|でも|的では|し|でき|わけでは|思わ|思え|言え|いえ)"
    r"(?:な(?:い|かっ|く(?!ちゃ))|無[いくか]|ありませ|ございませ)(?!でしょうか|ですか|じゃ|かと)"
    r"|ませ|とは(?:言|い)え|とは思[えわい]|なし(?!で)|せず|でき[なま])"
)
_JAPANESE_DEGREES = re.compile(
    r"(?:(とても|すごく|本当に|ほんとに|非常に|かなり|めちゃくちゃ|めっちゃ)|(少し|ちょっと|やや|若干|多少))、?$"
)
_KOREAN_IDLE = re.compile(r"\s[안못]\s|지\S?\s?[않못]|없|못[하해합]")
_JAPANESE_IDLE = re.compile(r"ない|なかった|なくて|ません")
_NOWHERE = re.compile(r"(?!)")
_ASIAN_SENTENCE = re.compile(r"[.!?。\uff01\uff1f\n~]+")
_STRONGER, _WEAKER = 1.4, 0.6
_DEGREE_WIDTH = 7


def _pattern(lexicon: Mapping[str, float]) -> re.Pattern[str]:
    """Return what finds any stem, the longest first. By first letters, as that is several times as fast."""
    by_letter: dict[str, list[str]] = {}
    for stem in sorted(lexicon, key=len, reverse=True):
        by_letter.setdefault(stem[0], []).append(re.escape(stem[1:]))
    letters = (f"{re.escape(letter)}(?:{'|'.join(rests)})" for letter, rests in by_letter.items())
    return re.compile(f"(?=[{re.escape(''.join(by_letter))}])(?:{'|'.join(letters)})")


@dataclass(frozen=True, slots=True)
class _Language:
    """How a language is read of which only stems are known.

    :param weights: its stems.
    :param stems: finds them.
    :param contrast: what stands between two clauses of which the second counts for more.
    :param after: a negation behind a stem.
    :param before: a negation in front of one.
    :param idle: a negation anywhere.
    :param degrees: a word of degree in front of one: group 1 strengthens it, group 2 weakens it.
    """

    weights: Mapping[str, float]
    stems: re.Pattern[str]
    contrast: re.Pattern[str]
    after: re.Pattern[str]
    before: re.Pattern[str]
    idle: re.Pattern[str]
    degrees: re.Pattern[str]

    def score(self, text: str) -> float:
        # The contrast may end the clause before it ("맛있지만 "), so a space stands in for the end of the sentence.
        return sum(
            _weighed([self._clause(clause) for clause in self.contrast.split(f"{sentence} ")])
            for sentence in _ASIAN_SENTENCE.split(text)
            if sentence
        )

    def _clause(self, clause: str) -> float:
        total = 0.0
        # A stem may begin with the space before its word.
        clause = f" {clause}"
        found = list(self.stems.finditer(clause))
        if not found:
            return _IDLE if self.idle.search(clause) else 0.0
        for place, match in enumerate(found):
            weight = self.weights[match[0]]
            if not weight:
                continue
            # A negation belongs to the stem that it follows most closely.
            end = found[place + 1].start() if place + 1 < len(found) else len(clause)
            near = clause[max(0, match.start() - _DEGREE_WIDTH) : match.start()]
            if degree := self.degrees.search(near):
                weight *= _STRONGER if degree[1] else _WEAKER
            if self.after.match(clause, match.end(), end) or self.before.search(near):
                weight *= _TURNED
            total += weight
        return total


def _weighed(clauses: list[float]) -> float:
    """Add up clauses of a sentence: those before a contrast count less, the last counts more."""
    if len(clauses) == 1:
        return clauses[0]
    return sum(clauses[:-1]) * _BEFORE_CONTRAST + clauses[-1] * _AFTER_CONTRAST


_KOREAN = _Language(
    KOREAN, _pattern(KOREAN), _KOREAN_CONTRAST, _KOREAN_AFTER, _KOREAN_BEFORE, _KOREAN_IDLE, _KOREAN_DEGREES
)
_JAPANESE = _Language(
    JAPANESE, _pattern(JAPANESE), _JAPANESE_CONTRAST, _JAPANESE_AFTER, _NOWHERE, _JAPANESE_IDLE, _JAPANESE_DEGREES
)
