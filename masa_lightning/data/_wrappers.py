r"""Instructions that data sets put around their problems: known ones are taken off, others are reported.

The module's templates ask for the answer in `\boxed{}`; a second instruction, often for another form, contradicts them.
"""

from __future__ import annotations

import re
from functools import lru_cache

_BOX = r"\\{1,2}boxed\s*\{[^{}\n]{0,20}\}"
_QUOTE = r"[\"'`\u2018-\u201d]{0,2}"  # straight or curly

# White space and case may differ. Each with where it is from.
_BEFORE = (
    # BytedTsinghua-SIA/DAPO-Math-17k and AIME-2024; OpenAI's simple-evals (math_eval.py), from which they have it; open-r1
    r"Solve the following math problem step by step\. The last line of your response should be of the form Answer: ?"
    r"\\?\$?Answer \(without quotes\) where \\?\$?Answer is the answer to the problem\.",
    # Hugging Face: lighteval's MATH_QUERY_TEMPLATE, open-r1's evaluation and recipes
    r"Solve the following math problem efficiently and clearly\. The last line of your response should be of the following"
    rf" format: {_QUOTE}Therefore, the final answer is: \$?{_BOX}\$?\. I hope it is correct{_QUOTE} \(without quotes\) where"
    r" ANSWER is just the final number or expression that solves the problem\.(?: Think step by step before answering\.)?",
    # Open-Reasoner-Zero (orz/ppo and playground/zero_setting_base.py)
    r"You must put your answer inside <answer> </answer> tags, i\.e\., <answer> answer here </answer>\."
    rf"(?: And your final answer will be extracted automatically by the {_BOX.replace('{0,20}', '{0,0}')} tag\.)?"
    r"(?: This is the problem:)?",
    # NeMo-Skills (generic/math.yaml): OpenMathInstruct, OpenMathReasoning
    r"Solve the following math problem\. Make sure to put the answer \(and only answer\) inside \\{1,2}boxed\{\}\.",
)
_AFTER = (
    # DAPO-Math-17k, open-r1; the rest of the sentence is simple-evals'
    rf"Remember to put your answer on its own line after {_QUOTE}Answer:{_QUOTE}"
    r"(?:, and you do not need to use a \\{1,2}boxed command)?\.?",
    # verl, examples/data_preprocess/gsm8k.py
    rf"Let{_QUOTE}s think step by step and output the final answer after {_QUOTE}####{_QUOTE}\.?",
    # verl, examples/data_preprocess/math_dataset.py; so DeepScaleR (rllm) and SimpleRL
    rf"Let{_QUOTE}s think step by step and output the final answer (?:within|in) {_BOX}\.?",
    # Qwen2.5-Math and DeepSeek-R1 (their model cards); so Skywork-OR1, Light-R1 and open-r1's recipes
    rf"Please (?:reason|think) step by step, and put (?:your|the) final answer (?:within|in|inside) {_BOX}\.?",
    # PRIME-RL/Eurus-2-RL-Data and Eurus-2-SFT
    rf"Present the answer in LaTeX format: {_BOX}\.?",
)


def _pattern(texts: tuple[str, ...]) -> str:
    return "|".join(rf"(?:{text})".replace(r"\ ", " ").replace(" ", r"\s+") for text in texts)


_FIRST = re.compile(rf"\A\s*(?:{_pattern(_BEFORE)})\s*", re.IGNORECASE)
_LAST = re.compile(rf"(?=[rlp])(?:{_pattern(_AFTER)})\s*\Z", re.IGNORECASE)
_LONGEST = 400  # characters of what stands behind a problem

# What asks for an answer in a form that the templates do not ask for: the sign of it, and how it is asked for.
_OTHER_FORMS = {
    '"Answer:"': (
        "answer:",
        re.compile(
            r"[\"'`*\u2018-\u201d]{1,2}(?:final\s+)?answer:"
            r"|(?:form|format|line|with|after|follows|as)\W{0,3}(?:final\s+)?answer:\s*[\[<{$(]"
            r"|(?:should|must|has\s+to)\s+be(?:\s+(?:written|given|stated|formatted|of\s+the\s+form|in\s+the\s+form(?:at)?|as))*"
            r"\W{0,3}(?:final\s+)?answer:"
            r"|(?:write|put|state|print|output|end|begin|start)\b[^.?!]{0,40}?\b(?:final\s+)?answer:\s*\S"
        ),
    ),
    '"####"': (
        "####",
        re.compile(r"(?:after|before|behind|with|by|following|use|using|form|format|write|put|as|line)\W{1,4}####"),
    ),
    '"<answer>"': ("<answer>", re.compile("<answer>")),
}


@lru_cache(2**16)  # data sets repeat their rows: DAPO-Math-17k has each a hundred times
def without_wrapper(text: str) -> str:
    r"""A problem without the known instructions around it; a text that is nothing else stays as it is.

    >>> without_wrapper('What is 1+1? Let\'s think step by step and output the final answer after "####".')
    'What is 1+1?'
    """
    while True:
        start = _FIRST.match(text)
        bare = text[start.end() :] if start else text
        if (end := _LAST.search(bare, max(0, len(bare) - _LONGEST))) and end.start():
            bare = bare[: end.start()]
        bare = bare.strip()
        if not bare or bare == text:
            return text
        text = bare


@lru_cache(2**16)
def other_form(text: str) -> str | None:
    r"""The form in which a problem's text wants the answer, if it is not `\boxed{}`."""
    lower = text.lower()
    there = (form for form, sign in _OTHER_FORMS.items() if sign[0] in lower)
    return next((form for form in there if _OTHER_FORMS[form][1].search(lower)), None)
