import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa_lightning.functional.parsing import (
    FAILURE_REASONS,
    META_KEYS,
    parse_meta_prediction,
    read_members,
    render_prediction,
    value_places,
)

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
        ('"math_notion": ["a"], "pass_rate": 3, {', "bad_json"),
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
        '{"pass_rate":x,"q":' * (N // 20) + "}",
        '{"pass_rate":' * (N // 14) + "}",
        "{" + '"pass_rate": x, ' * (N // 16) + "}",
        "{" + '"pass_rate": "x, ' * (N // 17) + "}",
        "{" + '"pass_rate": [1,] 2, ' * (N // 21) + "}",
        '{"pass_rate": [' + "1," * (N // 2),
        '{"pass_rate": 1/8' + " \n" * (N // 2) + "/",
        '{"pass_rate": "\\' * (N // 16),
        '{"a":' * 50_000 + '"' + "x" * N + "}",
        "\\{" * (N // 2) + "}",
        "{" + " " * N + "}",
        '"' * N + "}",
    ],
    ids=range(16),
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


NUMBERS = [
    "5/8",
    "05",
    "1,200",
    "7.0",
    '"7"',
    "5.",
    "+5",
    "1_0",
    "1 2",
    "5%",
    "~5",
    "five",
    "NaN",
    "-",
    "",
    "5 of 8",
]
LISTS = [
    "'a'",
    "['a']",
    "[a]",
    '["a',
    '"a"]',
    '["a" "b"]',
    '["a", b]',
    '[["a"]',
    '["a"]]',
    '{"a"}',
    '["say "a""]',
    '["a\\"]',
    "",
]
PARTS = {"math_notion": ['["a", "b"]', ("a", "b")], "pass_rate": ["6", 6], "solution_length": ["420", 420]}
FORMS = [
    "{%s}",
    "{\n  %s\n}",
    "```json\n{%s}\n```",
    "{%s,}",
    "{%s",
    "\\{%s\\}",
    '{"extra": [1], %s}',
    "{%s} so {x}",
    '{"pass_rate": 1} {%s}',
]


def object_with(values, order, form="{%s}", comma=", "):
    return form % comma.join(f'"{key}": {values[key]}' for key in order)


def parts(text):
    p = parse_meta_prediction(text)
    return {"math_notion": p.notions, "pass_rate": p.pass_rate, "solution_length": p.solution_length}


@pytest.mark.parametrize(
    ("key", "bad"), [*[(k, v) for k in META_KEYS[1:] for v in NUMBERS], *[("math_notion", v) for v in LISTS]]
)
def test_a_bad_value_costs_itself_alone(key, bad):
    for order in itertools.permutations(META_KEYS):
        for form in FORMS:
            text = object_with({k: v[0] for k, v in PARTS.items()} | {key: bad}, order, form)
            found = parts(f"<meta>x</meta> {text}")
            assert found == {k: v[1] for k, v in PARTS.items()} | {key: None}, text
            assert parse_meta_prediction(text).failures == {key: "wrong_type"}


@pytest.mark.parametrize("form", [*FORMS, "{%s // done\n}", "{%s\n", "{%s</s>"])
@pytest.mark.parametrize(
    "comma", [", ", ",", " ,\n ", " ", ", // so\n", ", /* so */ ", ', "x": 1/2, ', ', "x": {"pass_rate": 3}, ', ", {"]
)
def test_what_is_around_values_costs_nothing(form, comma):
    for order in itertools.permutations(META_KEYS):
        text = object_with({k: v[0] for k, v in PARTS.items()}, order, form, comma)
        assert parts(text) == {k: v[1] for k, v in PARTS.items()} or (form == "{%s // done\n}" and comma), text


@given(
    st.sampled_from(META_KEYS),
    st.permutations(META_KEYS),
    st.integers(0, 12),
    st.integers(0, 3),
    st.text(st.sampled_from("[]{}\"'\\,:;./ 0158abc-+\n"), max_size=6),
    st.sampled_from(["{%s}", "{\n%s\n}", "so: {%s}."]),
)
def test_a_defect_in_one_value_never_costs_another_part(key, order, place, cut, junk, form):
    """Characters of one value are replaced with junk; the two others are read as before."""
    whole = PARTS[key][0]
    place = min(place, len(whole))
    damaged = whole[:place] + junk + whole[place + cut :]
    text = object_with({k: v[0] for k, v in PARTS.items()} | {key: damaged}, order, form)
    found = parts(text)
    for other in META_KEYS:
        if other != key:
            assert found[other] == PARTS[other][1], text


@pytest.mark.parametrize(
    "notion",
    [
        *[
            "\\alpha",
            "\\beta",
            "\\theta",
            "\\nabla",
            "\\rho",
            "\\frac{a}{b}",
            "$\\frac{a}{b}$",
            "\\underline{x}",
            "\\upsilon",
        ],
        *[
            "\\neq",
            "\\nu",
            "\\newline",
            "\\nRightarrow",
            "\\textcolor{red}{a}",
            "\\times",
            "\\text{gcd}",
            "\\tan x",
            "\\binom{n}{k}",
            "\\bar x",
            "\\forall",
            "\\right)",
            "\\mathbb{R}",
        ],
        *[
            "\\sum_{i=1}^{n} i",
            "\\(x\\)",
            "\\[x\\]",
            "\\{1, 2\\}",
            "a \\, b",
            "\\usepackage",
            "\\u",
            "\\x41",
            "\\%",
            "\\_",
            "\\'a",
        ],
    ],
)
def test_latex_in_notions_is_itself(notion):
    rest = '"pass_rate": 5, "solution_length": 300'
    assert values(f'{{"math_notion": ["{notion}"], {rest}}}') == ((notion,), 5, 300)
    assert values(f'{{{rest}, "math_notion": ["x {notion} y", "b"]}}') == ((f"x {notion} y", "b"), 5, 300)
    assert values(f'{{"math_notion": {json.dumps([notion])}, {rest}}}') == ((notion,), 5, 300)  # as JSON has it
    assert values(render_prediction(notions=(notion,), pass_rate=5, solution_length=300)) == ((notion,), 5, 300)


def test_escapes_of_json_stay_themselves():
    text = r'{"math_notion": ["a\nb", "tab\there", "\u03b1", "q\"q", "a\/b", "line\nnext", "c\\\\d"], "pass_rate": 5}'
    assert values(text)[0] == ("a\nb", "tab\there", "\u03b1", 'q"q', "a/b", "line\nnext", "c\\\\d")


def test_a_text_that_was_cut_has_no_last_number():
    text = '{"math_notion": ["a"], "pass_rate": 6, "solution_length": 42'
    assert values(text) == (("a",), 6, 42)
    assert values(text + "\u2026") == (("a",), 6, None)
    assert values(text + "0}\u2026") == (("a",), 6, 420)


def test_a_brace_within_the_object_is_a_slip():
    assert values('{"math_notion": ["a"], "pass_rate": 6}, "solution_length": 420}') == (("a",), 6, 420)
    assert values('{"math_notion": ["a"], "pass_rate": 6}, 7, "solution_length": 420}') == (("a",), None, 420)
    assert values('{"math_notion": ["a"], "pass_rate": 6} because "pass_rate": 7 is high') == (("a",), 6, None)
    assert values('{"math_notion": ["a"], "pass_rate": 6} {"x": 1} the "solution_length": 7') == (("a",), 6, None)


def test_the_last_object_counts_though_it_is_broken():
    assert parts('{"math_notion": ["a"], "pass_rate": 1} no: {"pass_rate": 5/8, "solution_length": 7}') == {
        "math_notion": None,
        "pass_rate": None,
        "solution_length": 7,
    }
    form = '{"math_notion": [...], "pass_rate": ..., "solution_length": ...} is the form: '
    assert values(form + '{"pass_rate": 5, "solution_length": 7/1}') == (None, 5, None)
    assert values('{"math_notion": ["a"], "pass_rate": 3, "solution_len') == (("a",), 3, None)


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
    whole = f"<meta>{reasoning}</meta>\n{text}"
    places = {key: whole[start:stop] for key, (start, stop) in value_places(whole, META_KEYS).items()}
    written = text[len('{"math_notion": ') : text.rindex(', "pass_rate"')]
    assert places == {"math_notion": written, "pass_rate": str(pass_rate), "solution_length": str(length)}


@pytest.mark.parametrize("slip", ["pass_rate: 5", "'pass_rate': 5", "other: 5", '"pass_rate"', "pass_rate"])
def test_a_key_that_is_none_does_not_cost_the_list_before_it(slip):
    found = parse_meta_prediction(f'{{"math_notion": ["parity"], {slip}, "solution_length": 300}}')
    assert (found.notions, found.pass_rate, found.solution_length) == (("parity",), None, 300)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"pass_rate": 3} {"math_notion": ["a"], "pass_rate": 6}', {"math_notion": '["a"]', "pass_rate": "6"}),
        ('{"math_notion": ["\\sum \\alpha", "\\frac1"], "x": 6}', {"math_notion": '["\\sum \\alpha", "\\frac1"]'}),
        ('{"pass_rate": 5/8, "solution_length": 40', {"solution_length": "40"}),
        ('{"pass_rate": 2, "pass_rate": 5, "math_notion": ["a",]}', {"pass_rate": "5", "math_notion": '["a",]'}),
        ('{"pass_rate": 2, "pass_rate": 5/8}', {}),
        ('<meta>{"pass_rate": 1}</meta>none', {}),
        ("", {}),
    ],
)  # fmt: skip
def test_where_values_stand(text, expected):
    assert {key: text[start:stop] for key, (start, stop) in value_places(text, META_KEYS).items()} == expected


@given(st.text(alphabet='{}[]":, \\n\\tabr0123456789/', max_size=60) | st.text(max_size=40))
def test_what_stands_there_reads_alike(text):
    text = f'{text}{{"pass_rate": 3, "solution_length": {text}'
    found, _ = read_members(text, dict.fromkeys(META_KEYS, lambda value: value))
    places = value_places(text, META_KEYS)
    assert places.keys() == found.keys()
    for key, (start, stop) in places.items():
        again, _ = read_members(f'{{"{key}": {text[start:stop]}}}', {key: lambda value: value})
        assert again == {key: found[key]}
