import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_lightning.models import loading
from masa_lightning.models.packing import padded
from masa_lightning.models.policy import Policy
from masa_lightning.quantities import Quantities, default_quantities
from masa_lightning.sampling.structured import Structured, unpack_bits
from masa_lightning.types import Completion, Problem, Rollout, RolloutGroup, Structure
from masa_lightning.update.experience import make_experience, micro_batches, mini_batches, token_costs


def rollout(prompt, completion, kind="solution", advantage=0.0):
    """Each token's log-probability is minus a tenth of its id."""
    return Rollout(
        kind=kind,
        prompt_ids=list(prompt),
        completion=Completion(
            token_ids=list(completion), logprobs=[-token / 10 for token in completion], finish_reason="stop"
        ),
        text="",
        advantage=advantage,
    )


def rows_of(batch):
    """What a micro-batch holds, rollout by rollout, read by the layout that `Experience` documents."""
    rows, ids, targets = [], batch.tokens.input_ids.tolist(), batch.tokens.targets.tolist()
    for b, (start, end, *_) in enumerate(batch.tokens.spans):
        length = int(batch.tokens.mask[b].sum())
        logp = batch.sampler_logp[b, :length].tolist()
        rows.append((ids[start:end], targets[:length], logp, float(batch.advantages[b]), int(batch.kind[b])))
        del targets[:length]
    return rows


def test_layout():
    batch = make_experience(
        [
            rollout([1, 2, 3], [4], advantage=0.5),
            rollout([5], [6, 7], kind="meta", advantage=-1.5),
        ]
    )
    assert batch.tokens.input_ids.tolist() == [1, 2, 3, 5, 6]
    assert batch.tokens.targets.tolist() == [4, 6, 7]
    torch.testing.assert_close(batch.sampler_logp, torch.tensor([[-0.4, 0.0], [-0.6, -0.7]]))
    assert batch.advantages.tolist() == [0.5, -1.5]
    assert batch.kind.tolist() == [0, 1]
    assert batch.old_logp is None
    assert batch.ref_logp is None


def test_a_value_has_the_term_of_its_own_part():
    terms = {"length": 1.0, "difficulty": -3.0, "notion": 0.5}
    meta = rollout([1], [2, 3, 4, 5, 6], kind="meta", advantage=-1.5)
    other = rollout([1], [2, 3], kind="meta", advantage=0.25)
    meta.terms, other.terms = terms, {"length": 0.25}
    places = {5: {"difficulty": (1, 2), "length": (3, 5), "notion": (2, 4), "unrewarded": (0, 1)}, 2: {}}
    solution = rollout([1], [2], advantage=2.0)
    batch = make_experience([solution, meta, other], values=lambda r: places[r.length])
    # The fourth token holds both notion and length.
    expected = [[2.0] * 5, [0.0, -3.0, 0.5, 1.5, 1.0], [0.25] * 5]
    torch.testing.assert_close(batch.token_advantages, torch.tensor(expected))
    assert batch.advantages.tolist() == [2.0, -1.5, 0.25]
    plain = make_experience([solution, meta])
    assert plain.token_advantages is None
    assert plain.by_token.tolist() == [[2.0], [-1.5]]


def test_lightnings_half_precision_does_not_round_log_probabilities():
    torch.set_default_dtype(torch.bfloat16)  # as precision="bf16-true" does during a step
    try:
        batch = make_experience([rollout([1], [1023], advantage=1 / 3)])
    finally:
        torch.set_default_dtype(torch.float32)
    assert batch.sampler_logp.dtype == batch.advantages.dtype == torch.float32
    assert batch.sampler_logp.item() == pytest.approx(-102.3, rel=1e-6)
    assert batch.advantages.item() == pytest.approx(1 / 3, rel=1e-6)


def test_tensors_go_to_the_device():
    batch = make_experience([rollout([1], [2])], device="meta")
    tokens = batch.tokens
    tensors = (tokens.input_ids, tokens.position_ids, tokens.targets, tokens.mask)
    tensors += (batch.sampler_logp, batch.advantages, batch.kind)
    assert {t.device.type for t in tensors} == {"meta"}


def test_rollouts_without_tokens_are_left_out():
    batches = micro_batches([rollout([1, 2], []), rollout([3], [4]), rollout([5], [])], 100)
    assert len(batches) == 1
    assert rows_of(batches[0]) == [([3], [4], [pytest.approx(-0.4)], 0.0, 0)]
    assert micro_batches([rollout([1, 2], [])], 100) == []
    assert micro_batches([], 100) == []


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12), st.booleans()), max_size=20),
    st.integers(1, 120),
    st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_every_rollout_once_and_within_the_budget(sizes, budget, share_prompts):
    rollouts = [
        rollout([10 * i + 1] * p, range(10 * i, 10 * i + c), "meta" if is_meta else "solution", i / 8)
        for i, (p, c, is_meta) in enumerate(sizes)
    ]
    batches = micro_batches(rollouts, budget, share_prompts=share_prompts)
    for batch in batches:
        tokens = batch.tokens
        rows = len(tokens.spans)
        size = len(tokens.input_ids) if share_prompts else padded(tokens)[0].numel()
        assert size <= budget or rows == 1
        assert tokens.mask.shape == batch.sampler_logp.shape == (rows, int(tokens.mask.sum(1).max()))
        assert (batch.sampler_logp[~tokens.mask] == 0).all()
    got = sorted(row for batch in batches for row in rows_of(batch))
    expected = sorted(
        (
            r.prompt_ids,
            r.completion.token_ids,
            torch.tensor(r.completion.logprobs).tolist(),
            r.advantage,
            int(r.kind == "meta"),
        )
        for r in rollouts
        if r.completion.token_ids
    )
    assert got == expected


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), max_size=20),
    st.integers(1, 60),
    st.integers(1, 5),
    st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_processes_share_the_rollouts_and_make_as_many_passes(sizes, budget, processes, share_prompts):
    """The prompt is a function of the first number, so that some rollouts share theirs."""
    rollouts = [rollout([p + 1] * (p + 1), range(20 * i, 20 * i + c)) for i, (p, c) in enumerate(sizes)]
    parts = [
        micro_batches(rollouts, budget, share_prompts=share_prompts, rank=rank, processes=processes)
        for rank in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1
    assert all(any(part[i] is not None for part in parts) for i in range(len(parts[0])))
    got = sorted(row for part in parts for batch in part if batch is not None for row in rows_of(batch))
    whole = micro_batches(rollouts, 10_000)
    assert got == sorted(row for batch in whole for row in rows_of(batch))


def test_costs_count_a_shared_prompt_once():
    rollouts = [rollout([1, 2], [3]), rollout([1, 2], [4, 5]), rollout([1], [6]), rollout([1, 2], [7])]
    assert token_costs(rollouts) == [3, 2, 2, 3]
    assert token_costs(rollouts, share_prompts=False) == [3, 4, 2, 3]


@pytest.mark.parametrize(
    ("problems", "count", "sizes"), [(5, 2, [2, 3]), (4, 2, [2, 2]), (7, 3, [2, 2, 3]), (2, 3, [0, 1, 1]), (3, 1, [3])]
)
def test_mini_batches(problems, count, sizes):
    groups = [RolloutGroup(problem=Problem(id=str(i), problem="?", answer="1")) for i in range(problems)]
    parts = mini_batches(groups, count)
    assert sorted(map(len, parts)) == sizes
    assert [g.problem.id for part in parts for g in part] == [g.problem.id for g in groups]


@pytest.mark.parametrize("max_tokens", [30, 10_000])
def test_predictions_under_a_structure_beside_free_solutions(max_tokens):
    """Log-probabilities and gradients of micro-batches against autograd through masked logits, a rollout at a time."""
    tokenizer, model = loading.load_tokenizer("tiny"), loading.load_model("tiny", "float32")
    quantities = Quantities(default_quantities(), budget=128)
    asked = Structure(mark="</meta>", schema=quantities.schema(), ending=(2,), stop_token_ids=(2,))
    structured = Structured(asked, tokenizer, 577)
    written = (
        'two</meta>\n{"math_notion": ["sum"], "pass_rate": 7, "solution_length": 42}',
        "x</meta>" + ('{"math_notion": ["a", "addition"], "pass_rate": 0, "solution_length": 1}'),
    )
    prompt = tokenizer("17+25 Predict.").input_ids
    rollouts = [rollout(prompt, [*tokenizer(text).input_ids, 2], "meta", 0.5 - i) for i, text in enumerate(written)]
    rollouts += [rollout(prompt, tokenizer("the answer is 42").input_ids, advantage=1.0)]

    expected, total = [], torch.zeros(())
    for each in rollouts:
        ids = torch.tensor([[*prompt, *each.completion.token_ids]])
        logits = model(ids).logits[0, len(prompt) - 1 : -1]
        if each.kind == "meta":
            allowed = unpack_bits(structured.allowed(each.completion.token_ids, 48))[:, :577]
            logits = logits.masked_fill(~allowed, -torch.inf)
        logp = (logits / 0.8).log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
        expected.append(logp.detach())
        total = total + (logp * each.advantage).sum()
    oracle = torch.autograd.grad(total, list(model.parameters()))

    policy, found, total = Policy(model), [], torch.zeros(())
    batches = micro_batches(rollouts, max_tokens, structured={"meta": (structured, 48)})
    assert len(batches) == (1 if max_tokens > 100 else 3)
    for batch in batches:
        assert (batch.tokens.allowed is None) == (not batch.kind.any())
        logp, entropy = policy(batch.tokens, 0.8)
        found += [row[mask].detach() for row, mask in zip(logp, batch.tokens.mask, strict=True)]
        assert entropy.isfinite().all()
        total = total + (logp * batch.advantages[:, None]).sum()
    order = {len(each): each for each in found}
    for logp in expected:
        torch.testing.assert_close(order[len(logp)], logp, atol=1e-5, rtol=0)
    for a, b in zip(torch.autograd.grad(total, list(model.parameters())), oracle, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert sum(float(logp.eq(0).sum()) for logp in expected[:2]) >= 2  # the ends: nothing else is allowed there
