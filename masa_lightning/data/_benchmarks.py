"""Where the benchmarks are on the hub, and which reader knows their rows."""

from __future__ import annotations

from dataclasses import dataclass

from masa_lightning.data._choices import read_choice
from masa_lightning.data._readers import (
    read_humaneval,
    read_math,
    read_mbpp,
    read_number,
    read_olympiad,
    read_word_problem,
)
from masa_lightning.data._rows import Reader


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Args:
        hub: "org/name" or "org/name:config"; several are read one after the other.
        split: Of each of them.
        read: Makes a problem of a row.
        runs_code: Its answers are programs.
    """

    hub: tuple[str, ...]
    split: str = "test"
    read: Reader
    runs_code: bool = False


_LOGICAL_DEDUCTION = tuple(f"SaylorTwift/bbh:logical_deduction_{n}_objects" for n in ("three", "five", "seven"))

# Splits and columns are those of the data sets' cards, or of the code of others that reads them; the comments say more
# where the data set is not the one of its paper.
BENCHMARKS: dict[str, Benchmark] = {
    # problem, answer, ...; HuggingFaceH4's has but a train split
    "aime24": Benchmark(hub=("HuggingFaceH4/aime_2024",), split="train", read=read_math),
    "aime25": Benchmark(hub=("math-ai/aime25",), read=read_math),
    "math500": Benchmark(hub=("HuggingFaceH4/MATH-500",), read=read_math),
    # question, answer
    "amc23": Benchmark(hub=("math-ai/amc23",), read=read_math),
    "minerva": Benchmark(hub=("math-ai/minervamath",), read=read_math),
    "gsm8k": Benchmark(hub=("openai/gsm8k:main",), read=read_math),
    # question, final_answer: the 674 English competition problems in maths that need no picture
    "olympiadbench": Benchmark(hub=("math-ai/olympiadbench",), read=read_olympiad),
    # body, question, answer
    "asdiv": Benchmark(hub=("EleutherAI/asdiv:asdiv",), split="validation", read=read_word_problem),
    # query, choices, gold: the test set as AGIEval has it, with context, question and options in one text
    "ar_lsat": Benchmark(hub=("hails/agieval-lsat-ar",), read=read_choice),
    # premises, conclusion, label: FOLIO v2; yale-nlp/FOLIO has the same columns behind terms to accept
    "folio": Benchmark(hub=("tasksource/folio",), split="validation", read=read_choice),
    # input, target: three, five and seven objects of BIG-Bench Hard, 250 problems each
    "logical_deduction": Benchmark(hub=_LOGICAL_DEDUCTION, read=read_choice),
    # context, question, options, answer: the files of Logic-LM
    "prontoqa": Benchmark(hub=("renma/ProntoQA",), split="validation", read=read_choice),
    "proofwriter": Benchmark(hub=("renma/ProofWriter",), split="validation", read=read_choice),
    # question, choices.text, choices.label, answerKey
    "arc_challenge": Benchmark(hub=("allenai/ai2_arc:ARC-Challenge",), read=read_choice),
    # Question, Correct Answer, Incorrect Answer 1..3; its terms have to be accepted
    "gpqa_diamond": Benchmark(hub=("Idavidrein/gpqa:gpqa_diamond",), split="train", read=read_choice),
    # problem_text, answer_number, unit
    "scibench": Benchmark(hub=("xw27/scibench",), split="train", read=read_number),
    # question, A..F, answer: the English questions that need no picture
    "rbench": Benchmark(hub=("R-Bench/R-Bench:rbench-t_en",), read=read_choice),
    # text, test_list, test_setup_code
    "mbpp": Benchmark(hub=("google-research-datasets/mbpp:full",), read=read_mbpp, runs_code=True),
    # prompt, test_list, test_imports, test
    "mbpp_plus": Benchmark(hub=("evalplus/mbppplus",), read=read_mbpp, runs_code=True),
    # prompt, test, entry_point
    "humaneval": Benchmark(hub=("openai/openai_humaneval",), read=read_humaneval, runs_code=True),
    "humaneval_plus": Benchmark(hub=("evalplus/humanevalplus",), read=read_humaneval, runs_code=True),
}
