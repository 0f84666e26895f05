"""The paper's three quantities say what the functions of `functional` say; what a user's may not say is refused."""

import itertools
import json
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st

from masa_lightning.functional.experts import choose_expert, expert_target
from masa_lightning.functional.parsing import Unreadable, parse_meta_prediction, read_integer
from masa_lightning.functional.prompts import PromptTemplates, Question, check_asked, meta_messages
from masa_lightning.functional.rewards import meta_reward, weighted_mean
from masa_lightning.metrics import LengthCalibration, ValueCalibration
from masa_lightning.modules.meta import MetaSettings
from masa_lightning.quantities import (
    Notions,
    PassRate,
    Quantities,
    Quantity,
    SolutionLength,
    default_quantities,
    schemas,
)
from masa_lightning.rollouts.meta_scorer import MetaScorer
from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.types import Completion, MetaPrediction, Problem, Rollout, RolloutGroup

PAPER = Quantities(default_quantities(), budget=100)


def rollout(text, kind="meta", correct=False, length=3):
    completion = Completion(token_ids=[1] * length, logprobs=[0.0] * length, finish_reason="stop")
    return Rollout(kind=kind, prompt_ids=[1], completion=completion, text=text, correct=correct)


def make_group(*metas):
    solutions = [("by parity", True, 10), ("by lemma", True, 21), ("parity", False, 99)]
    return RolloutGroup(
        problem=Problem(id="1", problem="How many?", answer="1"),
        solutions=[rollout(t, "solution", c, n) for t, c, n in solutions],
        metas=[rollout(text) for text in metas],
    )


class Steps(Quantity):
    """The example of this file: words of a correct solution."""

    key = "steps"

    def ask(self, budget):
        return Question("steps", "how many words", "<integer>")

    def read(self, value):
        return read_integer(value, 1)

    def reward(self, predicted, group):
        return float(predicted == 2)

    def truth(self, predicted, group):
        return 2


# -- the paper's three ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "budget"), [(8, 512), (16, 7)])
def test_the_prompt_is_that_of_the_default_template(scale, budget):
    quantities = Quantities(default_quantities(pass_rate_scale=scale), budget=budget)
    numbers = {"pass_rate_scale": scale, "max_completion_length": budget}
    by_default = meta_messages(PromptTemplates(), "1+1?", **numbers)
    assert meta_messages(PromptTemplates(), "1+1?", **numbers, questions=quantities.questions()) == by_default
    (message,) = by_default
    assert f"2. pass_rate: out of {scale} independent attempts of yours" in message["content"]
    assert f"an integer from 1 to {budget}." in message["content"]
    assert '{"math_notion": ["first notion", "second notion"], "pass_rate": <integer>, "sol' in message["content"]


MEMBERS = st.sampled_from(
    ["0", "3", "8", "9", "-1", "2.0", '"x"', '["a"]', '["a", "A", 1]', "[]", "null", "nope", "9" * 99]
)


@given(
    st.dictionaries(st.sampled_from(["math_notion", "pass_rate", "solution_length", "more"]), MEMBERS),
    st.integers(1, 9),
)
def test_readings_are_those_of_the_parser(members, scale):
    text = f"<meta>x</meta>{{{', '.join(f'{json.dumps(k)}: {v}' for k, v in members.items())}}}"
    quantities = Quantities(default_quantities(pass_rate_scale=scale), budget=100)
    assert quantities.read(text) == parse_meta_prediction(text, pass_rate_scale=scale)


PREDICTED = [
    MetaPrediction(pass_rate=r, solution_length=n, notions=x)
    for r, n, x in itertools.product((None, 0, 5, 8), (None, 10, 22), (None, ("parity",), ("Lemmas", "by", "many")))
]


@pytest.mark.parametrize("weights", [None, {"length": 1, "difficulty": 5, "notion": 1}, {"notion": 0.5, "length": 0.0}])
@pytest.mark.parametrize("settings", [("exponential", 0.01, "count"), ("brier", 0.5, "rate")])
def test_rewards_are_those_of_meta_reward_to_the_last_bit(weights, settings):
    scoring, base, counting = settings
    chosen = default_quantities(difficulty_scoring=scoring, difficulty_base=base, notion_counting=counting)
    group = make_group(*[""] * len(PREDICTED))
    for meta, prediction in zip(group.metas, PREDICTED, strict=True):
        meta.prediction = prediction
    MetaScorer(Quantities(chosen, budget=100), weights).score([group])
    texts = [r.text for r in group.solutions]
    for meta in group.metas:
        reward, parts = meta_reward(
            meta.prediction, "How many?", group.correct, group.lengths, texts,
            weights=weights or {"length": 1, "difficulty": 1, "notion": 1}, base=base, scoring=scoring, counting=counting,
        )  # fmt: skip
        assert (meta.reward, [*meta.rewards.items()]) == (reward, [*parts.items()])


def test_experts_are_those_of_choose_expert():
    texts = [
        '<meta>a</meta> {"math_notion": ["lemma"], "pass_rate": 1}',
        '<meta>b</meta>\n{"math_notion": ["lemma", "x"], "pass_rate": 5}',
        '<meta>c</meta> {"pass_rate": 5}',
        '{"math_notion": ["lemma"], "pass_rate": 5}',
    ]
    for chosen in itertools.permutations(texts):
        group = make_group(*chosen)
        MetaScorer(PAPER).score([group])
        best, text = PAPER.expert(group)
        assert best is choose_expert(group) and best.text == texts[0]
        assert text == expert_target(best, group.correct, group.lengths)
        assert text == '<meta>a</meta> {"math_notion": ["lemma"], "pass_rate": 5, "solution_length": 16}'
    assert PAPER.expert(make_group(texts[2])) is None


def test_without_notions_the_whole_reward_chooses_the_expert():
    group = make_group('<meta>a</meta>{"pass_rate": 1}', '<meta>b</meta>{"pass_rate": 5}', '{"pass_rate": 5}')
    quantities = Quantities([PassRate()], budget=100)
    MetaScorer(quantities).score([group])
    assert quantities.expert(group) == (group.metas[1], '<meta>b</meta>{"pass_rate": 5}')


def test_metrics_by_hand_leave_out_what_a_control_kept_from_being_true():
    texts = ['{"pass_rate": 8, "solution_length": 31}', '{"pass_rate": 0, "solution_length": 99999}', "?"]
    groups = [make_group(*texts), make_group(*texts)]
    groups[1].hint = ("parity",)
    MetaScorer(PAPER).score(groups)
    assert [m.reward is None for g in groups for m in g.metas] == [False] * 3 + [True] * 3
    metrics = PAPER.metrics(sync_on_compute=False)
    PAPER.calibrate(metrics, groups)
    assert [*metrics] == ["pass_rate", "length"]
    rates, lengths = metrics["pass_rate"].points(), metrics["length"].points()
    assert (rates.predicted.tolist(), rates.correct.tolist(), rates.count.tolist()) == ([0.5], [2], [3])
    assert lengths.predicted.tolist() == [(31 + 10 * 100) / 2]  # ten times the budget at most
    assert (lengths.actual.tolist(), lengths.low.tolist(), lengths.high.tolist()) == ([15.5], [10], [21])
    assert [*PAPER.pictures({name: m.points() for name, m in metrics.items()}, "here")] == [
        "pass_rate_scatter",
        "pass_rate_reliability",
        "length_scatter",
    ]
    assert PAPER.pictures({name: m.points() for name, m in PAPER.metrics().items()}) == {}


# -- a user's ------------------------------------------------------------------------------------------------------------


def test_one_of_a_user_is_asked_for_read_and_rewarded():
    quantities = Quantities([Steps(), SolutionLength()], budget=64)
    (message,) = meta_messages(
        PromptTemplates(), "1+1?", pass_rate_scale=8, max_completion_length=64, questions=quantities.questions()
    )
    assert "\n1. steps: how many words.\n2. solution_length: how many tokens" in message["content"]
    assert '\n{"steps": <integer>, "solution_length": <integer>}\n' in message["content"]
    own = PromptTemplates(meta="{problem}\n{quantities}\n{json}")
    check_asked(own, quantities.questions())
    prediction = quantities.read('<meta></meta>{"steps": 2, "solution_length": "?", "pass_rate": 3}')
    assert (prediction.values, prediction.failures) == ({"steps": 2}, {"solution_length": "wrong_type"})
    assert prediction.pass_rate is None and prediction.rate is None
    assert quantities.reward_names == ["length", "steps"] and Steps().title == "Steps"
    parts = quantities.rewards(prediction, make_group(), ["steps", "length"])
    assert parts == {"length": 0.0, "steps": 1.0}
    assert weighted_mean(parts, {"length": 1, "steps": 3}) == 0.75


@dataclass
class Bad(Steps):
    """What a user's quantity may do wrong."""

    reads: Any = None
    rewards: Any = 1.0
    truths: Any = 2

    def read(self, value):
        if isinstance(self.reads, Exception):
            raise self.reads
        return super().read(value) if self.reads is None else self.reads[0]

    def reward(self, predicted, group):
        return self.rewards

    def truth(self, predicted, group):
        return self.truths


TEXT = '<meta>x</meta>{"steps": 2}'


@pytest.mark.parametrize(
    ("quantity", "message"),
    [
        (Bad(reads=TypeError("oh")), r"'steps' \(Bad\) failed to read 2 with TypeError: oh; expected a value"),
        (Bad(reads=(None,)), "read 2 as None"),
        (Bad(rewards=float("nan")), "gave the reward nan for the prediction 2 of problem '1'"),
        (Bad(rewards=1.5), r"expected a number in \[0, 1\]"),
        (Bad(rewards=None), "gave the reward None"),
        (
            Bad(truths=2.5),
            r"has 2\.5 as its truth of problem '1', which it reads back as nothing \(Unreadable: wrong_type\)",
        ),
        (Bad(truths=Ellipsis), "reads back as nothing"),
    ],
)
def test_what_cannot_be_right_is_refused(quantity, message):
    quantities, group = Quantities([quantity], budget=9), make_group(TEXT)
    with pytest.raises(ValueError, match=message):
        MetaScorer(quantities).score([group])
        quantities.expert(group)


def test_a_reason_is_one_of_the_closed_set():
    with pytest.raises(TypeError, match="expected one of"):
        Unreadable("bad")


class Named(Steps):
    def __init__(self, **names):
        for what, name in names.items():
            setattr(self, what, name)


@pytest.mark.parametrize(
    ("quantities", "error", "message"),
    [
        ([], TypeError, "expected a list with at least one"),
        (Steps(), TypeError, "expected a list"),
        ([Steps], TypeError, r"quantities\[0\] is .*Steps.*expected an object"),
        ([Steps(), Steps()], ValueError, "2 of the quantities have the key 'steps'"),
        ([Named(key="a b")], ValueError, "has the key 'a b'"),
        ([Named(metric_name="keys")], ValueError, "has the metric_name 'keys'"),
        ([Named(name="failures")], ValueError, "has the name 'failures'"),
        ([Named(name="pass_rate")], ValueError, "has the name 'pass_rate', .* what masa_lightning.PassRate predicts"),
        ([Named(key="n", name="notions")], ValueError, "by which controls, .* what masa_lightning.Notions predicts"),
        ([Named(key="l", name="solution_length")], ValueError, "masa_lightning.SolutionLength .* or another name"),
        ([Steps(), Named(key="more", name="more", metric_name="more")], ValueError, "2 .* the reward_name 'steps'"),
    ],
)
def test_names_that_do_not_fit_are_refused(quantities, error, message):
    with pytest.raises(error, match=message):
        Quantities(quantities, budget=9)


def test_a_template_that_does_not_ask_is_refused(loop):
    with pytest.raises(
        ValueError,
        match=r"does not ask for steps; expected a template that names it, or has \{quantities\} and \{json\}",
    ):
        loop.module(quantities=[PassRate(), Steps()], prompts=PromptTemplates(meta="{problem} pass_rate?"))


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ({"pass_rate_scale": 16}, r"PassRate\(scale=\.\.\.\)"),
        ({"difficulty_base": 0.5}, r"PassRate\(base=\.\.\.\)"),
        ({"difficulty_scoring": "brier"}, r"PassRate\(scoring=\.\.\.\)"),
        ({"notion_counting": "rate"}, r"Notions\(counting=\.\.\.\)"),
        ({"min_expert_reward": 0.5}, r"Notions\(expert_reward=\.\.\.\)"),
    ],
)
def test_settings_of_the_default_ones_are_refused_beside_others(loop, setting, where):
    with pytest.raises(
        ValueError, match=rf"quantities are given, and meta\.{next(iter(setting))} is .*; expected it as {where}"
    ):
        loop.module(quantities=[PassRate(), Notions()], **setting)


def test_one_that_asks_for_another_key_than_it_reads_is_refused():
    class Renamed(PassRate):
        key = "rate"

    with pytest.raises(ValueError, match=r"the quantity 'rate' \(Renamed\) asks for 'pass_rate'; expected its `key`"):
        Quantities([Renamed()], budget=100)


def test_a_second_pass_rate_has_a_scale_of_its_own():
    class Friends(PassRate):
        key, reward_name = "friends", "friend"

        def ask(self, budget):
            return Question(self.key, "how many attempts of a friend", "<integer>")

    prediction = Quantities([Friends(scale=100), PassRate(scale=8)], budget=9).read('{"friends": 50, "pass_rate": 4}')
    assert (prediction.rate, prediction.pass_rate_scale, prediction.values["friends"]) == (0.5, 8, 50)


def test_values_that_logarithmic_axes_do_not_have_are_drawn_on_others():
    points = SimpleNamespace(predicted=torch.tensor([0.0, 0.5]), actual=torch.tensor([0.25, 0.5]))
    figures = Steps().pictures(points)
    axes = figures["steps_scatter"].axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")
    assert axes.get_xlim()[0] < 0 < 0.5 < axes.get_xlim()[1]
    figures["steps_scatter"].canvas.draw()
    points.predicted += 0.1
    assert Steps().pictures(points)["steps_scatter"].axes[0].get_xscale() == "log"


def quantity_with(metric):
    class Own(Steps):
        def metric(self, **settings):
            return metric(**settings)

        def compare(self, predicted, group, budget):
            return float(predicted), 0.0

    return Quantities([Own()], budget=9)


@pytest.mark.parametrize("written", ["1e999", "-1e999", "NaN", "Infinity"])
def test_numbers_that_are_not_finite_are_out_of_range(written):
    class Share(Steps):
        def read(self, value):
            return float(value)

    prediction = Quantities([Share()], budget=9).read(f'{{"steps": {written}}}')
    assert (prediction.values, prediction.failures) == ({}, {"steps": "out_of_range"})


def test_a_comparison_without_end_is_refused(loop):
    class Endless(Steps):
        def compare(self, predicted, group, budget):
            return predicted, math.inf

    meta = SimpleNamespace(prediction=MetaPrediction(values={"steps": 1}))
    group = SimpleNamespace(is_unbiased=True, metas=[meta], problem=Problem(id="p", problem="p", answer="1"))
    with pytest.raises(
        ValueError, match=r"`compare` of the quantity 'steps' \(Endless\) gave \(1, inf\) for problem 'p'"
    ):
        Quantities([Endless()], budget=9).compare(group)


@pytest.mark.parametrize("method", ["ask", "schema", "metric", "pictures"])
def test_an_error_of_a_method_names_the_quantity(method):
    def fails(self, *given, **settings):
        raise KeyError("lost")

    kind = type("Own", (Steps,), {"schema": lambda self, budget: {"const": 1}, method: fails})
    with pytest.raises(ValueError, match=rf"the quantity 'steps' \(Own\) failed in `{method}` with KeyError: 'lost'"):
        quantities = Quantities([kind()], budget=9)
        quantities.schema()
        quantities.metrics()
        quantities.pictures({"steps": SimpleNamespace(predicted=[1.0])})


def test_pictures_that_are_none_name_the_quantity():
    class Drawn(Steps):
        def pictures(self, points, where=""):
            return "a picture"

    with pytest.raises(ValueError, match=r"`pictures` of the quantity 'steps' \(Drawn\) gave 'a picture'; expected"):
        Quantities([Drawn()], budget=9).pictures({"steps": SimpleNamespace(predicted=[1.0])})


@pytest.mark.parametrize("scale", [8, 16])
def test_a_scale_that_is_not_that_of_the_quantity_is_refused(loop, scale):
    with pytest.raises(
        ValueError, match=rf"quantities are given, and meta\.pass_rate_scale is {scale}, .* PassRate\(sc"
    ):
        loop.module(quantities=[PassRate(3)], pass_rate_scale=scale)
    assert loop.module(quantities=[PassRate(scale)], pass_rate_scale=scale).pass_rate_scale == scale


@pytest.mark.parametrize(
    ("setting", "argument"),
    [
        ({"pass_rate_scale": 0}, "scale of PassRate"),
        ({"difficulty_base": 2}, "base of PassRate"),
        ({"difficulty_scoring": "log"}, "scoring of PassRate"),
        ({"notion_counting": "sum"}, "counting of Notions"),
        ({"min_expert_reward": 2}, "expert_reward of Notions"),
    ],
)
def test_errors_name_what_the_user_wrote(loop, setting, argument):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=rf"^meta\.{name} is {value!r}; expected"):
        loop.module(**setting)
    word, _, kind = argument.split()
    with pytest.raises(ValueError, match=rf"^{argument} is {value!r}; expected"):
        {"PassRate": PassRate, "Notions": Notions}[kind](**{word: value})


class Schemed(Steps):
    """Of numbers takes integers from 1 on, and any text or list."""

    def __init__(self, schema):
        self.of = schema

    def schema(self, budget):
        return self.of

    def read(self, value):
        return read_integer(value, 1) if isinstance(value, (int, float)) else value


DIGIT = {"type": "integer", "minimum": 1, "maximum": 9}
PAIR = {"type": "array", "items": DIGIT, "minItems": 2, "maxItems": 2}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"allOf": [DIGIT, DIGIT]}, "has 'allOf' in its schema"),
        (DIGIT | {"not": {"const": 3}}, "has 'not' in its schema, which structured outputs may pass over"),
        (PAIR | {"uniqueItems": True}, "has 'uniqueItems' in its schema"),
        (PAIR | {"items": {"$ref": "#"}}, r"has '\$ref' in its schema\.items"),
        ({"type": "string", "pattern": "^(?!bb)[ab]{2}$"}, r"has a pattern with '\(\?!'"),
        ({"type": "string", "pattern": "^[ab]+$", "maxLength": 2}, "has 'maxLength' beside 'pattern'"),
        ({"type": "integer", "anyOf": [DIGIT]}, "has 'type' in its schema"),
        ({"anyOf": [DIGIT, {"type": "integer", "format": "x"}]}, r"has 'format' in its schema\.anyOf\[1\]"),
        (
            {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
            r"has no type in its schema\.properties\.a",
        ),
        (DIGIT | {"minimum": "a"}, r"has the schema .*, of which nothing can be made \(TypeError: "),
        ({"enum": {1, 2}}, r"has the schema .*, of which nothing can be made \(TypeError: "),
        ({"type": "string", "pattern": "^[a"}, r"has the schema .*, of which nothing can be made \(RuntimeError: "),
        ({"anyOf": []}, "has the schema .*, of which nothing can be made"),
        (DIGIT | {"minimum": 0}, "allows 0, which its `read` does not take"),
        ({"type": "number", "minimum": 0.5, "maximum": 3}, r"allows 0\.5, which its `read` does not take"),
        ({"enum": [1, 2, 0]}, "allows 0, which its `read` does not take"),
        ({"type": "integer", "minimum": -3, "maximum": 10**9}, "allows -3, "),
        ({"anyOf": [DIGIT, {"const": 0}]}, "allows 0, "),
        ({"type": "integer", "exclusiveMinimum": -9, "exclusiveMaximum": 9}, r"allows (0|-\d), "),
    ],
)
def test_a_schema_that_says_more_than_is_heeded_or_read_is_refused(schema, said):
    pytest.importorskip("xgrammar")
    with pytest.raises(ValueError, match=rf"the quantity 'steps' \(Schemed\) (has a schema that )?{said}"):
        MetaSettings(structured_outputs=True).quantities([Schemed(schema)], 64, TransformersSampler())


@pytest.mark.parametrize(
    "schema",
    [
        DIGIT,
        PAIR,
        DIGIT | {"$schema": "https://json-schema.org/draft/2020-12/schema", "deprecated": False},
        {"enum": ["a", 3]},
        {"type": "string", "pattern": "^[ab]{1,3}$"},
        {"anyOf": [DIGIT, {"const": "no"}]},
        {"type": "string", "pattern": "^[\u00e4\u00f6]{2}$"},
    ],
)
def test_a_schema_that_is_read_is_taken(schema):
    pytest.importorskip("xgrammar")
    Quantities([*default_quantities(), Schemed(schema)], budget=100).check_schemas()


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 3}, {"type": "integer", "maximum": -3}, {"type": "integer", "exclusiveMinimum": 0},
        {"type": "integer", "exclusiveMaximum": 5, "minimum": 0}, {"type": "integer", "multipleOf": 5},
        {"type": "integer", "minimum": 0, "maximum": 99, "multipleOf": 7}, {"type": "number", "minimum": 0.5},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, {"type": "number", "maximum": 2, "minimum": -2},
        {"type": "string", "minLength": 2, "maxLength": 3}, {"type": "string", "pattern": "^[a-c]{1,3}(x|yz)?$"},
        {"type": "array", "items": DIGIT, "minItems": 1, "maxItems": 3}, {"type": "array", "items": DIGIT},
        {"type": "array", "prefixItems": [DIGIT, {"const": "a"}], "items": False, "minItems": 2},
        {"type": "array", "prefixItems": [{"const": "a"}], "items": DIGIT, "minItems": 2, "maxItems": 3},
        {"type": "object", "properties": {"a": DIGIT, "b": PAIR}, "required": ["b"], "additionalProperties": False},
        {"type": "object", "properties": {"a": DIGIT}, "additionalProperties": {"type": "null"}},
        {"type": ["integer", "string"], "minimum": 3, "maximum": 5, "maxLength": 2}, {"type": "boolean"},
        {"anyOf": [DIGIT, {"type": "null"}, {"anyOf": [{"const": "x"}, PAIR]}]}, {"enum": ["a", 3, None, [1]]},
    ],
)  # fmt: skip
def test_keywords_that_are_said_to_be_heeded_are(schema):
    """By the xgrammar that is installed."""
    pytest.importorskip("xgrammar")
    jsonschema = pytest.importorskip("jsonschema")
    assert not [*schemas._unheeded(schema, "")]
    drawn = [*schemas._drawn(schema)]
    assert len(drawn) > 10
    for value in drawn:
        jsonschema.validate(value, schema)


def test_a_comparison_that_is_no_row_is_refused():
    class One(Steps):
        def compare(self, predicted, group, budget):
            return 3.0

    meta = SimpleNamespace(prediction=MetaPrediction(values={"steps": 1}))
    group = SimpleNamespace(is_unbiased=True, metas=[meta], problem=Problem(id="p", problem="p", answer="1"))
    with pytest.raises(ValueError, match=r"`compare` of the quantity 'steps' \(One\) gave 3\.0 .* expected a tuple"):
        Quantities([One()], budget=9).compare(group)


def test_names_that_are_shown_are_no_text():
    class Text(Steps):
        shown = "pearson"

    with pytest.raises(ValueError, match=r"has the text 'pearson' as `shown`; expected a tuple .* \('pearson',\)"):
        Quantities([Text()], budget=9)


def test_a_quantity_that_asks_with_a_text_is_refused():
    class Text(Steps):
        def ask(self, budget):
            return "how many?"

    with pytest.raises(TypeError, match=r"'steps' \(Text\) asks with 'how many\?'; expected a .*Question"):
        Quantities([Text()], budget=9)

    class Named(Steps):
        metric = "ValueCalibration"

    with pytest.raises(TypeError, match=r"'steps' \(Named\) has 'ValueCalibration' as its metric; expected a class"):
        Quantities([Named()], budget=9).metrics()


class Blind(torchmetrics.MeanAbsoluteError):
    """Takes all, and knows no points."""

    def update(self, *columns, **others):
        super().update(*columns)


@pytest.mark.parametrize("metric", [torchmetrics.MeanAbsoluteError, Blind])
def test_a_metric_that_takes_no_problems_is_refused(metric):
    with pytest.raises(TypeError, match=rf"'steps' \(Own\) has a {metric.__name__} as its metric; expected .*ValueCal"):
        quantity_with(metric).metrics()


class Unpredicted(ValueCalibration):
    def points(self):
        return SimpleNamespace(actual=torch.zeros(0))


_USED = ValueCalibration()
_USED.update(torch.tensor([1.0]), torch.tensor([2.0]), problem=torch.tensor([0]), weight=torch.tensor([1.0]))


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (
            Unpredicted,
            r"'steps' \(Own\) has a Unpredicted as its metric, whose `points\(\)` gave a SimpleNamespace; expected an obj",
        ),
        (
            lambda **_: _USED,
            r"'steps' \(Own\) has a ValueCalibration as its metric, which has 1 points before .* a new metric",
        ),
    ],
)
def test_a_metric_that_cannot_be_drawn_is_refused(metric, said):
    """Before: an AttributeError of the first pictures, after the validation was drawn."""
    with pytest.raises(TypeError, match=said):
        quantity_with(metric).metrics()


class Unready(ValueCalibration):
    def points(self):
        raise ValueError("No samples to concatenate")


def test_a_metric_without_points_before_its_first_update_is_taken():
    assert isinstance(quantity_with(Unready).metrics()["steps"], Unready)


def test_an_error_of_a_metric_names_the_quantity(loop):
    group = SimpleNamespace(comparisons={"steps": [(1.0, 0.0)]}, weight=1.0)
    quantities = quantity_with(LengthCalibration)
    with pytest.raises(ValueError, match=r"the LengthCalibration of the quantity 'steps' \(Own\) did not take"):
        quantities.calibrate(quantities.metrics(), [group])
    quantities = quantity_with(ValueCalibration)
    quantities.calibrate(metrics := quantities.metrics(), [group])
    assert (metrics["steps"].compute()["mae"], metrics["steps"].compute()["count"]) == (1, 1)


@pytest.mark.parametrize("row", [(None,), ("x",), (torch.ones(2),), (math.inf,), 3.0])
def test_what_is_no_row_of_numbers_is_told_with_the_quantity(row):
    class Odd(Steps):
        def compare(self, predicted, group, budget):
            return row

    group = make_group("x")
    group.metas[0].prediction = MetaPrediction(values={"steps": 3}, failures={}, pass_rate_scale=8)
    with pytest.raises(ValueError, match=r"`compare` of the quantity 'steps' \(Odd\) gave"):
        Quantities([Odd()], budget=10).compare(group)


def test_a_number_that_json_cannot_write_is_not_read_in_a_list_either():
    class Pairs(Steps):
        def read(self, value):
            return value

    found = Quantities([Pairs()], budget=10).read('{"steps": [1, 1e999]}')
    assert (found.values, found.failures) == ({}, {"steps": "out_of_range"})


@pytest.mark.parametrize("reward", [np.float32(0.5), np.int64(1), True])
def test_a_reward_may_be_any_number(reward):
    class Odd(Steps):
        def reward(self, predicted, group):
            return reward

    group = RolloutGroup(problem=Problem(id="a", problem="?", answer="1"))
    prediction = MetaPrediction(values={"steps": 3}, failures={}, pass_rate_scale=8)
    assert Quantities([Odd()], budget=10).rewards(prediction, group, ["steps"]) == {"steps": float(reward)}
