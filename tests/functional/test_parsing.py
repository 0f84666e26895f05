import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa_lightning.functional.parsing import FAILURE_REASONS, META_KEYS, parse_meta_prediction, render_prediction

GOOD = '{"math_notion": ["parity", "Pigeonhole"], "pass_rate": 6, "solution_length": 420}'


def values(text, scale=8):
    p = parse_meta_prediction(text, pass_rate_scale=scale)
    return p.notions, p.pass_rate, p.solution_length


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"<meta>think {{hard}}</meta>\n```json\n{GOOD}\n```",
        f"</meta> {json.dumps(json.loads(GOOD), indent=4)} done.",
        '</meta>{"solution_length":420,\t"pass_rate" : 6,"extra":{"a":[{}]},"math_notion":["parity","Pigeonhole"]}',
        f"</meta> $$\\boxed{{{GOOD}}}$$",
        f"</meta> {{{GOOD}}}",
        "</meta> $\\{" + GOOD[1:-1] + "\\}$",
        f'</meta> {{"pass_rate": 1}} no, rather {GOOD} where {{x}} and {{"y": 2}}',
        f'<meta>{{"pass_rate": 1, "solution_length": 2}}</meta> first {GOOD} </meta> again',
        f'</meta> {{"answer": {GOOD}}}',
        f'</meta> an "unbalanced quote and {{"broken": {GOOD}',
    ],
)
def test_object_is_found(text):
    assert values(text) == (("parity", "Pigeonhole"), 6, 420)


def test_strings_with_escapes_and_braces():
    notions = ['say "no" } {', "back\\slash", 'fake {"pass_rate": 1}', "line\nbreak"]
    text = "</meta> " + json.dumps({"pass_rate": 2, "solution_length": 9, "math_notion": notions})
    assert values(text) == (tuple(notions), 2, 9)


def test_last_object_wins_and_outermost_of_nested():
    assert values('</meta>{"pass_rate": 1} {"pass_rate": 2}')[1] == 2
    assert values('</meta>{"pass_rate": 3, "draft": {"pass_rate": 7}}')[1] == 3
    assert values('</meta>{"pass_rate": 1, "pass_rate": 5}')[1] == 5


def test_before_meta_end_does_not_count():
    p = parse_meta_prediction(f"<meta>{GOOD}</meta> I forgot.")
    assert p.failures == dict.fromkeys(META_KEYS, "no_json")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_json"),
        ("\\frac{1}{2}", "no_json"),
        ('{"answer": 3}', "no_json"),
        ("{'math_notion': ['a'], 'pass_rate': 3, 'solution_length': 7}", "bad_json"),
        ('{"math_notion": ["a"], "pass_rate": 3, "solution_len', "bad_json"),
        ('{"pass_rate": 3,}', "bad_json"),
    ],
)
def test_no_object(text, reason):
    p = parse_meta_prediction(text)
    assert (p.notions, p.pass_rate, p.solution_length) == (None, None, None)
    assert p.failures == dict.fromkeys(META_KEYS, reason)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("true", "wrong_type"),
        ("3.5", "wrong_type"),
        ("3.0", "wrong_type"),
        ('"5"', "wrong_type"),
        ("null", "wrong_type"),
        ("NaN", "wrong_type"),
        ("Infinity", "wrong_type"),
        ("1e999", "wrong_type"),
        ("[3]", "wrong_type"),
        ("-1", "out_of_range"),
        ("9" * 5000, "out_of_range"),
    ],
)
def test_bad_numbers_cost_only_themselves(value, reason):
    p = parse_meta_prediction(f'{{"pass_rate": {value}, "math_notion": ["a"], "solution_length": 5}}')
    assert (p.pass_rate, p.notions, p.solution_length, p.failures) == (None, ("a",), 5, {"pass_rate": reason})
    p = parse_meta_prediction(f'{{"pass_rate": 5, "math_notion": ["a"], "solution_length": {value}}}')
    assert (p.pass_rate, p.notions, p.solution_length, p.failures) == (5, ("a",), None, {"solution_length": reason})


def test_ranges():
    assert values('{"pass_rate": 8, "solution_length": 1}')[1:] == (8, 1)
    assert parse_meta_prediction('{"pass_rate": 9, "solution_length": 0}').failures == {
        "pass_rate": "out_of_range",
        "solution_length": "out_of_range",
        "math_notion": "missing_key",
    }
    p = parse_meta_prediction('{"pass_rate": 9}', pass_rate_scale=16)
    assert (p.pass_rate, p.pass_rate_scale, p.rate) == (9, 16, 9 / 16)
    with pytest.raises(ValueError, match="pass_rate_scale is 0"):
        parse_meta_prediction(GOOD, pass_rate_scale=0)


def test_notions():
    assert values('{"math_notion": [" Parity ", "parity", "", "  ", 3, null, "b"]}')[0] == ("Parity", "b")
    assert parse_meta_prediction('{"math_notion": [" ", 1]}').failures["math_notion"] == "missing_key"
    assert parse_meta_prediction('{"math_notion": []}').failures["math_notion"] == "missing_key"
    assert parse_meta_prediction('{"math_notion": "parity"}').failures["math_notion"] == "wrong_type"
    assert values('{"math_notion": ["a\\ud800b"]}')[0] == ("a?b",)


N = 1_000_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "{" * N,
        '{"' * (N // 2),
        '{"a":' * (N // 5) + "}",
        '{"pass_rate":' + "[" * N + "}",
        '{"pass_rate":1,"q":' * (N // 20) + "}",
        '{"a":' * 50_000 + '"' + "x" * N + "}",
        "\\{" * (N // 2) + "}",
        "{" + " " * N + "}",
        '"' * N + "}",
    ],
    ids=range(9),
)
def test_hostile_megabytes_are_no_prediction(text):
    assert set(parse_meta_prediction(text).failures) == set(META_KEYS)


@pytest.mark.timeout(60)
def test_prediction_behind_hostile_megabytes():
    for junk in ("{" * N, '{"a":[' * (N // 6), '"' * (N - 1), "\\" * N, "</meta>" * (N // 7)):
        assert values(junk + " " + GOOD) == (("parity", "Pigeonhole"), 6, 420)
    long = json.dumps({"math_notion": ["a" * N], "pass_rate": 1})
    assert values(long)[0] == ("a" * N,)


JSONISH = st.text(st.sampled_from('{}[]":,\\ \n123eE.-ntf') | st.characters(), max_size=40)


@given(st.lists(JSONISH | st.sampled_from([*META_KEYS, '"pass_rate":', '{"pass_rate":', "</meta>", GOOD])))
def test_never_raises_and_is_consistent(pieces):
    p = parse_meta_prediction("".join(pieces))
    missing = {
        key for key, value in zip(META_KEYS, (p.notions, p.pass_rate, p.solution_length), strict=True) if value is None
    }
    assert set(p.failures) == missing
    assert set(p.failures.values()) <= set(FAILURE_REASONS)
    assert p.pass_rate is None or 0 <= p.pass_rate <= 8
    assert p.solution_length is None or p.solution_length >= 1
    assert p.notions is None or all(n == n.strip() and n for n in p.notions)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool),
        min_size=1,
        unique_by=str.casefold,
    ),
    st.integers(0, 8),
    st.integers(1, 10**6),
    st.text(max_size=30).filter(lambda text: "</meta>" not in text),
)
def test_round_trip(notions, pass_rate, length, reasoning):
    text = render_prediction(notions=tuple(notions), pass_rate=pass_rate, solution_length=length)
    assert values(f"<meta>{reasoning}</meta>\n{text}") == (tuple(notions), pass_rate, length)
