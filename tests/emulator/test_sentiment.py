"""The sentiment model reads the text, in three languages, and isn't led by its instructions."""

from __future__ import annotations

import pytest

from airflow_openai_batch.emulator.sentiment import classify, extract, score

POSITIVE = [
    "The noodles were delicious and the waiter was friendly.",
    "Not bad at all!",
    "It was crowded, but the food was amazing.",
    "Although we waited an hour, the pizza was fantastic.",
    "I can\u2019t wait to come back.",
    "Nothing wrong with anything we ordered.",
    "You cannot go wrong with the fish tacos.",
    "It never disappoints, and the prices are fair.",
    "Not only was the sushi fresh, the staff also smiled.",
    "The music isn't too loud.",
    "국물이 진하고 정말 맛있어요.",
    "가격은 비싸지만 음식이 훌륭해요.",
    "직원들이 불친절하지 않아요.",
    "또 가고 싶은 집입니다.",
    "음식은 진짜 다 만족스러웠어요.",
    "하나도 안 짜고 속이 편한 맛이에요.",
    "후회 없는 선택이었어요.",
    "맛있을 뿐만 아니라 가성비도 좋아요.",
    "주차가 불편한 것만 빼면 다 좋아요.",
    "スープが美味しくて、また来たいです。",
    "待たされましたが、味は最高でした。",
    "店員さんの対応も悪くないです。",
    "臭みがなく、とても食べやすい刺身でした。",
    "不満はありません。",
    "満足度が高いランチでした。",
    "高いお店かと思いきや意外とお手頃でした。",
]
NEGATIVE = [
    "The noodles were soggy and the waiter was rude.",
    "The food was not good.",
    "I wanted to love it, but the steak was overcooked.",
    "We will never come back.",
    "Too salty for me.",
    "Way too sweet.",
    "It could have been great.",
    "The chicken had no flavor at all.",
    "The staff was unhelpful, and we won't be returning.",
    "Nobody came to our table.",
    "면이 불어서 맛없었어요.",
    "맛은 괜찮지만 직원이 너무 불친절해서 실망했어요.",
    "별로 추천하고 싶지 않아요.",
    "맛있지 않았어요.",
    "다시 가고 싶지 않은 곳입니다.",
    "직원들이 좀 더 친절했으면 좋겠어요.",
    "친절함이라고는 찾아볼 수 없었어요.",
    "손님이 왔는데 쳐다보지도 않습니다.",
    "スープがまずくて、がっかりしました。",
    "雰囲気は良いけど、料理は最悪でした。",
    "美味しくなかったです。",
    "また行きたいとは思いません。",
    "お世辞にも美味しいとは言えません。",
    "店内がうるさくて会話ができませんでした。",
    "値段が高いのに量が少なく、満足できませんでした。",
]


@pytest.mark.parametrize("text", POSITIVE)
def test_praise_is_positive(text):
    assert classify(text) == "positive"


@pytest.mark.parametrize("text", NEGATIVE)
def test_blame_is_negative(text):
    assert classify(text) == "negative"


PROMPTS = [
    "Is this review positive or negative? {}",
    "Classify the sentiment as positive or negative.\n\n{}",
    "Classify the sentiment (positive/negative) of the following restaurant review: {}",
    "Review: {}",
    "Answer with one word, positive or negative.\nReview: {}\nSentiment:",
    'Is the following text positive? """{}"""',
    "Label this as negative or positive.\n<review>{}</review>\nReturn JSON.",
    "다음 리뷰가 긍정인지 부정인지 한 단어로 답하세요: {}",
    "이 리뷰는 긍정적인가요, 부정적인가요? {}",
    "리뷰: {}\n감정:",
    "You are a helpful assistant. Is the customer happy or unhappy?\n\n{}",
    "次のレビューは肯定的ですか、否定的ですか。{}",
    "このレビューはポジティブですか\uff1fネガティブですか\uff1f {}",
    "レビュー\uff1a{}",
]


@pytest.mark.parametrize("template", PROMPTS)
@pytest.mark.parametrize(("texts", "label"), [(POSITIVE, "positive"), (NEGATIVE, "negative")])
def test_instructions_do_not_decide(template, texts, label):
    for text in texts:
        assert classify(template.format(text)) == label, extract(template.format(text))


def test_it_is_sometimes_wrong_because_its_rules_are_few():
    assert classify("Great, another hour of waiting for cold soup. Just great.") == "positive"


def test_the_same_text_always_gets_the_same_label():
    assert len({classify(POSITIVE[0]) for _ in range(5)}) == 1


def test_a_text_without_known_words_scores_nothing_and_counts_as_praise():
    assert score("We sat by the window.") == 0
    assert score("") == 0
    assert classify("We sat by the window.") == classify("") == "positive"


@pytest.mark.parametrize("text", ["They didn't ask.", "물어보지 않았어요.", "聞かれませんでした。"])
def test_a_negation_of_nothing_known_leans_to_blame(text):
    assert -1 < score(text) < 0


@pytest.mark.parametrize(
    ("form", "base"), [("tastier", "tasty"), ("disappoints", "disappoint"), ("recommending", "recommend")]
)
def test_inflected_words_weigh_what_their_base_does(form, base):
    assert score(form) == score(base) != 0


def test_a_prompt_of_instructions_alone_is_judged_as_it_is():
    assert extract("positive or negative?") == "positive or negative?"
