import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa_lightning.functional.rewards import (
    MAX_NOTIONS,
    check_weights,
    difficulty_reward,
    length_reward,
    meta_reward,
    normalise_words,
    notion_reward,
    prepare_texts,
)
from masa_lightning.types import MetaPrediction

EQUAL = {"length": 1.0, "difficulty": 1.0, "notion": 1.0}


@pytest.mark.parametrize(
    ("predicted", "expected"), [(99, 0.0), (100, 1.0), (200, 1.0), (300, 1.0), (301, 0.0), (None, 0.0)]
)
def test_length_range_is_inclusive_and_of_the_correct_alone(predicted, expected):
    assert length_reward(predicted, [300, 10, 100, 900], [True, False, True, False]) == expected


def test_length_of_one_correct_rollout_can_be_hit():
    assert length_reward(120, [120, 500], [True, False]) == 1.0


def test_length_without_correct_rollouts_or_with_wrong_shapes():
    assert length_reward(5, [5, 5], [False, False]) == 0.0
    assert length_reward(5, [], []) == 0.0
    with pytest.raises(ValueError, match="lengths has 1 entries and correct has 2"):
        length_reward(None, [5], [True, True])


@pytest.mark.parametrize(
    ("rate", "correct", "expected"),
    [
        (0.5, [1, 0], 1.0),
        (1.0, [0, 0], 0.01),
        (0.75, [1, 0, 0, 0], 0.1),
        (0.25, [1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1], 0.01**0.25),
        (None, [1], 0.0),
    ],
)
def test_difficulty(rate, correct, expected):
    assert difficulty_reward(rate, correct) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rate", "correct", "expected"),
    [
        (0.5, [1, 0], 1.0),
        (1.0, [0, 0], 0.0),
        (0.75, [1, 0, 0, 0], 0.75),
        (0.0, [1, 0, 0, 0, 0], 0.96),
        (None, [1], 0.0),
    ],
)
def test_difficulty_by_brier(rate, correct, expected):
    assert difficulty_reward(rate, correct, scoring="brier") == pytest.approx(expected)


def test_brier_rewards_the_mean_and_the_exponential_the_likeliest():
    """Six of ten problems that look alike are never solved, four always."""
    outcomes = [[False]] * 6 + [[True]] * 4

    def best(scoring):
        return max(range(9), key=lambda rate: sum(difficulty_reward(rate / 8, o, scoring=scoring) for o in outcomes))

    assert (best("exponential"), best("brier")) == (0, 3)


def test_difficulty_refuses_what_is_no_rate():
    for rate in (3, -0.1, float("nan")):
        with pytest.raises(ValueError, match="predicted_rate is"):
            difficulty_reward(rate, [True])
    with pytest.raises(ValueError, match="base is 0"):
        difficulty_reward(0.5, [True], base=0)
    with pytest.raises(ValueError, match="no solution rollouts"):
        difficulty_reward(0.5, [])
    with pytest.raises(ValueError, match="scoring is 'log'; expected one of"):
        difficulty_reward(0.5, [True], scoring="log")


def test_notions_hand_computed():
    texts = ["By parity and the pigeonhole principle.", "Parity again", "use Calculus", "nothing: pigeonhole principle"]
    correct = [True, True, False, False]
    problem = "Use the calculus of a graph."
    # parity 2 > 0; pigeonhole principle 1 > 1 is false; calculus is in the problem and left out; induction 0 > 0 is false
    notions = ["PARITY", "pigeonhole principles", "Calculus", "induction"]
    assert notion_reward(notions, problem, texts, correct) == pytest.approx(1 / 3)
    assert notion_reward(["calculus"], problem, texts, correct) == 0.0
    assert notion_reward([], problem, texts, correct) == 0.0
    assert notion_reward(None, problem, texts, correct) == 0.0
    assert notion_reward(["parity"], problem, prepare_texts(texts), correct) == 1.0


def test_counting_by_rate():
    texts, correct = ["lemma", "lemma", "lemma", "x", "x"], [True, False, False, False, False]
    assert notion_reward(["lemma"], "", texts, correct, counting="count") == 0.0  # 1 > 2
    assert notion_reward(["lemma"], "", texts, correct, counting="rate") == 1.0  # 1/1 > 2/4
    assert notion_reward(["lemma"], "", ["lemma"], [True], counting="rate") == 1.0  # none incorrect: rate 0
    assert notion_reward(["lemma"], "", ["lemma"], [False], counting="rate") == 0.0
    with pytest.raises(ValueError, match="counting is 'share'"):
        notion_reward(["lemma"], "", texts, correct, counting="share")


@pytest.mark.parametrize(
    ("notion", "text", "occurs"),
    [
        ("matrix", "two matrices", True),
        ("matrices", "a matrix", True),
        ("axis", "both axes", True),
        ("vertices", "the Vertex", True),
        ("index", "indices", True),
        ("indexes", "index", True),
        ("analysis", "analyses", True),
        ("calculus", "calculu", False),
        ("calculus", "Calculus!", True),
        ("series", "a serie", False),
        ("modulus", "moduli", True),
        ("class", "classes", True),
        ("bias", "biases", True),
        ("identity", "trigonometric identities", True),
        ("hypotenuse", "hypotenuses", True),
        ("branch", "branches", True),
        ("prime number", "prime\n  numbers", True),
        ("prime number", "number prime", False),
        ("vieta's formulas", "Vieta formula", True),
        ("Vieta\u2019s formula", "by Vieta's formula", True),
        ("mod", "modular", False),
        ("ring", "string", False),
        ("area", "\\text{area}=5", True),
        ("number_theory", "number theory", True),
        ("sinus", "sinu", False),
        ("\u7d20\u6570", "\u8fd9\u662f\u7d20\u6570\u7684\u8bc1\u660e", True),
        ("\u7d20\u6570", "\u7d20\u7684\u6570", False),
    ],
)
def test_matching(notion, text, occurs):
    assert (notion_reward([notion], "", [text], [True]) == 1.0) is occurs
    # the same matching decides whether the problem gives the notion away
    assert (notion_reward([notion], text, [notion], [True]) == 0.0) is occurs


def test_notions_that_differ_in_case_or_number_count_once():
    assert notion_reward(["prime", "Primes", "lemma"], "", ["primes"], [True]) == 0.5


@pytest.mark.timeout(60)
def test_hostile_notions():
    texts, correct = prepare_texts(["lemma " * 5000] * 16), [True] * 16
    assert notion_reward(["", "!!", "\\"], "", texts, correct) == 0.0
    assert notion_reward(["lemma", "!!"], "", texts, correct) == 1.0
    assert notion_reward(["lemma", "lemma " * 10**6], "", texts, correct) == 0.5
    assert notion_reward(["lemma", *(f"n{i}" for i in range(10**6))], "", texts, correct) == 1 / MAX_NOTIONS
    with pytest.raises(TypeError, match="sequence of strings"):
        notion_reward("lemma", "", texts, correct)
    with pytest.raises(ValueError, match="texts has 16 entries and correct has 1"):
        notion_reward(["lemma"], "", texts, [True])


PREDICTION = MetaPrediction(pass_rate=4, solution_length=9, notions=("parity", "lemma"))
GROUP = {"problem": "?", "correct": [True, False], "lengths": [8, 9], "texts": ["parity", "lemma"]}


def test_meta_reward_is_the_weighted_mean():
    total, parts = meta_reward(PREDICTION, **GROUP, weights=EQUAL)
    assert parts == {"length": 0.0, "difficulty": 1.0, "notion": 0.5}
    assert total == pytest.approx(0.5)
    total, parts = meta_reward(PREDICTION, **GROUP, weights={"length": 1, "difficulty": 2, "notion": 1})
    assert total == pytest.approx((0 + 2 + 0.5) / 4)
    wrong = {**GROUP, "correct": [False, False]}
    assert meta_reward(PREDICTION, **wrong, weights=EQUAL, base=0.25)[1]["difficulty"] == pytest.approx(0.5)
    assert meta_reward(PREDICTION, **wrong, weights=EQUAL, scoring="brier")[1]["difficulty"] == pytest.approx(0.75)


def test_weight_zero_removes_a_part():
    total, parts = meta_reward(PREDICTION, **GROUP, weights={"length": 0, "difficulty": 1, "notion": 1})
    assert (total, parts) == (0.75, {"difficulty": 1.0, "notion": 0.5})
    assert meta_reward(PREDICTION, **GROUP, weights={"notion": 0.3}) == (0.5, {"notion": 0.5})


def test_empty_prediction_earns_nothing():
    assert meta_reward(MetaPrediction(), **GROUP, weights=EQUAL) == (0.0, dict.fromkeys(EQUAL, 0.0))


def test_meta_reward_refuses():
    for weights in ({}, {"length": 0.0}, {"length": -1.0, "notion": 2.0}, {"step": 1.0}, {"length": float("nan")}):
        with pytest.raises(ValueError, match="weight"):
            check_weights(weights)
        with pytest.raises(ValueError, match="weight"):
            meta_reward(PREDICTION, **GROUP, weights=weights)
    with pytest.raises(ValueError, match="no solution rollouts"):
        meta_reward(PREDICTION, "?", [], [], [], weights=EQUAL)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 50), st.text("abs d'", max_size=12)), min_size=1, max_size=6),
    st.none() | st.integers(0, 8),
    st.none() | st.integers(1, 60),
    st.none() | st.lists(st.text("abs d'", max_size=5), min_size=1, max_size=5),
    st.sampled_from(["count", "rate"]),
)
def test_ranges(group, rate, length, notions, counting):
    correct, lengths, texts = map(list, zip(*group, strict=True))
    prediction = MetaPrediction(
        pass_rate=rate, solution_length=length, notions=None if notions is None else tuple(notions)
    )
    total, parts = meta_reward(prediction, "a", correct, lengths, texts, weights=EQUAL, counting=counting)
    assert parts["length"] in (0.0, 1.0)
    assert parts["difficulty"] == 0.0 if rate is None else 0.01 - 1e-12 <= parts["difficulty"] <= 1.0
    assert 0.0 <= parts["notion"] <= 1.0
    assert total == pytest.approx(sum(parts.values()) / 3)
    if not any(correct):
        assert parts["length"] == parts["notion"] == 0.0


@given(st.text())
def test_normalised_words_stay_themselves(text):
    once = normalise_words(text)
    assert once == " " or (once[0] == once[-1] == " " and "  " not in once)
    assert once == once.casefold()
