import json

import pytest

from masa_lightning.grading.programs.stdio import is_cases, read_cases, same_output, same_value


@pytest.mark.parametrize(
    ("written", "expected", "same"),
    [
        ("3\n", "3", True),
        ("3", "3\n\n", True),
        (" 1   2 \n3", "1 2\n3\n", True),
        ("YES", "yes", False),
        ("1 2", "1\n2", False),
        ("1\n\n2", "1\n2", False),
        ("0.3333333", "0.33333333333", True),
        ("0.33", "0.33333333333", False),
        ("1e-3", "0.001", True),
        ("2.0", "2", False),
        ("2", "2.0", True),
        ("1000000000000000001", "1000000000000000002", False),
        ("nan", "0.5", False),
        ("1_0", "10.0", False),
        ("\u0661", "1.0", False),
        ("inf", "1e400", False),
        ("", "0", False),
        ("3 3", "3", False),
        (None, "3", False),
    ],
)
def test_outputs(written, expected, same):
    assert same_output(written, expected) is same


@pytest.mark.parametrize(
    ("result", "expected", "same"),
    [
        (3, 3, True),
        (3, [3], True),
        ([3], [3], True),
        ((1, (2,)), [1, [2]], True),
        ([], [[]], True),
        ([], [1.0], False),
        ([1.0], [1.0, 1.0], False),
        (0.1 + 0.2, 0.3, True),
        (1, 1.0, True),
        (True, 1, False),
        (1, True, False),
        (float("nan"), 1.0, False),
        ("3", 3, False),
        ({1: 2}, {"1": 2}, True),
        ({}, {"1": 2}, False),
        (None, 3, False),
        (10**400, 1.0, False),
    ],
)
def test_results(result, expected, same):
    assert same_value(result, expected) is same


def test_what_is_inputs_and_outputs():
    assert is_cases(' {"inputs": [], "outputs": []}')
    for text in ("", "assert f(1)", "{", '{"inputs": []}', '["inputs", "outputs"]', "{1: 2}"):
        assert not is_cases(text)
    cases = read_cases(json.dumps({"inputs": [["1", "2"]], "outputs": [["3"]]}))
    assert cases.inputs == ["1\n2"] and cases.outputs == ["3"]


@pytest.mark.parametrize(
    ("inputs", "outputs", "name", "reason"),
    [
        ([], [], None, "0 inputs and 0 outputs"),
        (["1"], [], None, "1 inputs and 0 outputs"),
        ("1", ["1"], None, "no lists"),
        ([1], ["1"], None, "no text"),
        (["1"], [" "], None, "all its outputs are empty"),
        (["1"], [1], "f", "no list of arguments"),
        ([[1]], [None], "f", "all outputs of f are null"),
    ],
)
def test_what_is_none(inputs, outputs, name, reason):
    with pytest.raises(ValueError, match=reason):
        read_cases(json.dumps({"inputs": inputs, "outputs": outputs, "fn_name": name}))
