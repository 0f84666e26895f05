"""What needs a GPU, in stages: ``python -m pytest -m gpu``. Where a stage failed, those behind it are skipped.

A stage is a file, by the number in its name. Tests that take the fixture `device` run on the CPU as well, in the normal
suite, with the same body, and those that take `engine_device` with ``-m slow``.
"""

import gc
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

_FOLDER = Path(__file__).parent


class _NoParameters:
    params: ClassVar[dict[str, Any]] = {}


_failed: list[tuple[int, str]] = []  # stage and name of each test that failed on the GPU


def _stage(item: pytest.Item) -> int:
    found = re.match(r"test_(\d+)_", item.path.name)
    assert found is not None, f"{item.path.name}: expected test_NUMBER_NAME.py"
    return int(found[1])


def _why_no_gpu() -> str:
    """Empty where there is one."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is no build for CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU: nvidia-smi says whether driver and device are there"
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    if why := _why_no_gpu():
        pytest.skip(why)
    before = [name for stage, name in _failed if stage < _stage(item)]
    if before:
        pytest.skip(f"an earlier stage failed: {before[0]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    if report.failed and item.get_closest_marker("gpu") is not None:
        _failed.append((_stage(item), item.name))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.parent == _FOLDER and item.get_closest_marker("gpu") is not None]
    for item in here:
        # What torch, Triton and vLLM warn of depends on the machine, and is seen in the summary.
        item.add_marker(pytest.mark.filterwarnings("default"))
    on_cpu = {id(item) for item in here if "cpu" in getattr(item, "callspec", _NoParameters).params.values()}
    items[:] = [item for item in items if id(item) not in on_cpu]  # what is marked itself takes too long there


def _device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device("cuda", 0) if request.param == "cuda" else torch.device("cpu")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU in the normal suite, the first GPU with ``-m gpu``."""
    return _device(request)


@pytest.fixture(
    scope="module",
    params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)],
)
def engine_device(request: pytest.FixtureRequest) -> torch.device:
    """As `device`, where an engine is made; skips where the installed vLLM runs elsewhere.

    On CPU with ``-m slow``: in the normal suite tests/sampling holds engines to the same on CPU.
    """
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from vllm.platforms import current_platform

    if current_platform.device_type != request.param:
        pytest.skip(f"the installed vLLM runs on {current_platform.device_type or 'nothing'}, not on {request.param}")
    return _device(request)


@pytest.fixture
def peak() -> Callable[[Callable[[], object]], int]:
    """`peak(call)`: bytes of the GPU that a call takes at most, beyond what was taken before it."""

    def measure(call: Callable[[], object]) -> int:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    return measure


@pytest.fixture
def show(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints what was measured on a GPU, whatever pytest captures."""

    def line(text: str) -> None:
        if request.node.get_closest_marker("gpu") is not None:
            with capsys.disabled():
                print(f"\n    {text}", flush=True)

    return line
