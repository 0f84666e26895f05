"""The page of what we know of vLLM's inside: it is there, it is all, and what no other test watches."""

import ast
import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from masa_lightning import sampling
from masa_lightning.sampling.vllm import engine as engine_module
from masa_lightning.sampling.vllm import patches
from masa_lightning.settings import SamplingSettings

ROOT = Path(__file__).parents[3]
PAGE = Path(patches.__file__)
OTHERS = sorted(path for path in Path(sampling.__file__).parent.rglob("*.py") if path != PAGE)
PUBLIC = {"vllm", "vllm.inputs", "vllm.sampling_params"}


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("vllm_names")


@pytest.fixture
def vllm():
    return pytest.importorskip("vllm")


def test_the_installed_vllm_has_every_name_with_its_arguments(script, vllm):
    home = script.package()
    names = [(name, entry.title) for entry in script.entries() for name in entry.names]
    names += [(name, "public") for name in script.PUBLIC]
    faults = [f"{name} ({use}): {text}" for name, use in names if (text := script.fault(home, name))]
    assert not faults, f"vLLM {vllm.__version__}: {'; '.join(faults)}; docs/vllm.md says what to do"


def test_a_name_that_is_gone_is_told(script, vllm):
    home = script.package()
    assert script.fault(home, "vllm.v1.gone:Name") == "there is no vllm.v1.gone"
    for name in ("vllm.v1.engine.core_client:InprocClient._gone", "vllm:LLM._gone", "vllm:_gone.name"):
        assert script.fault(home, name) == "there is no _gone"
    assert script.fault(home, "vllm.v1.engine.core_client:InprocClient._finalizer") == ""


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def work(model, device, *, dtype=None): ...", ""),
        ("def work(model, device, dtype): ...", ""),
        ("def work(model, device, dtype=None, other=1, *, another=2): ...", ""),
        ("def work(*args, **kwargs): ...", ""),
        ("class Worker:\n    async def work(self, model, device, dtype): ...", ""),
        ("class Worker:\n    @staticmethod\n    def work(model, device, dtype): ...", ""),
        ("@overload\ndef work(cls): ...\ndef work(model, device, dtype): ...", ""),
        ("def work(device, model, dtype): ...", "takes (device, model, dtype)"),
        ("def work(model): ...", "takes (model)"),
        ("def work(model, device): ...", "takes no dtype"),
        ("def work(model, device, dtype, stream): ...", "needs stream as well"),
        ("def work(model, device, dtype, *, stream): ...", "needs stream as well"),
        ("class Worker:\n    def work(self, device, dtype): ...", "takes (device, dtype)"),
        ("@dataclass\nclass work:\n    model: int\n    dtype: str = ''", ""),
        ("@dataclass\nclass work:\n    model: int", "has no dtype"),
        ("from other import work\nwork(1, device=2, dtype=3)\nself.work(*args)\nwork(1, 2)", ""),
        ("from other import work\nwork(1, 2, 3)", "is given 3 by place in line 2"),
        ("from other import work\nwork(1, dtype=2)", "is given no device in line 2"),
        ("from other import work\nwork(1, 2, stream=3)", "is given stream in line 2"),
        ("from other import work", "is neither defined nor called there"),
    ],
)
def test_arguments_that_are_others_are_told(script, tmp_path, source, fault):
    (tmp_path / "page.py").write_text(source)
    arguments = "dtype=" if "class work" in source else "model, device, dtype="
    assert script.fault(tmp_path, f"vllm.page:work({arguments})") == fault


def test_options_that_are_passed_through_may_be_any(script, tmp_path):
    (tmp_path / "page.py").write_text("def work(model, device, *, dtype): ...")
    assert script.fault(tmp_path, "vllm.page:work(model=, **)") == ""
    assert script.fault(tmp_path, "vllm.page:work(stream=, **)") == "takes no stream"


def test_the_public_names_are_those_that_the_sampler_calls(script):
    """The options of engines and requests, by the sources; the methods, by their names."""
    (engine,) = (name for name in script.PUBLIC if ":EngineArgs(" in name)
    (params,) = (name for name in script.PUBLIC if ":SamplingParams(" in name)
    sources = {path.name: path.read_text() for path in OTHERS}
    given = {"block_size", "enable_chunked_prefill"}  # on CPU alone
    assert all(f'options["{name}"]' in sources["engine.py"] for name in given)
    assert set(re.findall(r"(\w+)=", engine)) == {*engine_module._OURS, *given}
    calls = [node for node in ast.walk(ast.parse(sources["sampler.py"])) if isinstance(node, ast.Call)]
    (call,) = (node for node in calls if ast.unparse(node.func) == "SamplingParams")
    assert set(re.findall(r"(\w+)=", params)) == {keyword.arg for keyword in call.keywords}
    everything = "\n".join(sources.values())
    for name in script.PUBLIC:
        word = name.partition("(")[0].rpartition(".")[2].rpartition(":")[2]
        assert word in everything or word == "EngineArgs", f"{name} is used no more"


def test_every_entry_names_its_test(script):
    assert len(script.entries()) > 10
    for entry in script.entries():
        file, _, test = entry.test.partition("::")
        assert f"def {test}" in (ROOT / file).read_text(), f"{entry.title}: there is no {entry.test}"


def test_the_page_of_the_docs_has_every_name(script):
    text = (ROOT / "docs" / "vllm.md").read_text()
    listed = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `vllm.")}
    assert listed == {*script.PUBLIC, *(name for entry in script.entries() for name in entry.names)}


def test_an_entry_without_a_reason_is_refused(script, tmp_path):
    page = tmp_path / "page.py"
    page.write_text('def patch():\n    """One.\n\n    Names: a:b\n    Test: c\n    """\n')
    with pytest.raises(ValueError, match=r"page\.py: patch has no lines 'Names:', 'Test:' and 'Until:'"):
        script.entries(page)


def inside_names(path, listed):
    """What a source touches of vLLM that is not public: deep imports and names that are on the page."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "vllm" and a.name not in PUBLIC)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
            if node.module not in PUBLIC:
                yield node.module
            yield from (a.name for a in node.names if a.name.startswith("_") and not a.name.endswith("__"))
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            ours = name.startswith(("self.", "cls.", "xgrammar.", "matcher.", "compiler."))  # or xgrammar's
            if name == "torch.ops._C" or (node.attr in listed and not ours):
                yield name


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.name)
def test_no_other_file_knows_the_inside(script, path):
    listed = {
        part
        for entry in script.entries()
        for name in entry.names
        for part in name.split(":")[1].partition("(")[0].split(".")
    }
    found = sorted(set(inside_names(path, listed)))
    assert not found, f"{path.name} touches {found} of vLLM's inside; expected that in {PAGE.name} alone"


def test_what_another_file_may_not_know(tmp_path):
    file = tmp_path / "file.py"
    file.write_text(
        "import vllm.v1\nfrom vllm.distributed import parallel_state\nfrom vllm import LLM, _custom_ops\n"
        "llm.llm_engine.engine_core.step()\nself.engine_core = torch.ops._C.kernel\n"
    )
    found = {"vllm.v1", "vllm.distributed", "_custom_ops", "llm.llm_engine.engine_core", "torch.ops._C"}
    assert set(inside_names(file, {"engine_core"})) == found


def test_no_other_process_looks_at_a_model(vllm, monkeypatch):
    from vllm.model_executor.models import registry

    class OfAnotherProcess(Exception):
        pass

    class Model(registry._LazyRegisteredModel):  # vLLM remembers in files what it has seen
        _load_modelinfo_from_cache = _save_modelinfo_to_cache = lambda *args: None

    def refuse(*args, **kwargs):
        raise OfAnotherProcess

    monkeypatch.setattr(registry, "subprocess", SimpleNamespace(run=refuse))
    model = Model("vllm.model_executor.models.qwen3", "Qwen3ForCausalLM")
    with pytest.raises(OfAnotherProcess):
        model.inspect_model_cls()
    with patches.models_looked_at_here():
        assert model.inspect_model_cls().architecture == "Qwen3ForCausalLM"


def test_shared_memory_has_a_name_of_its_own(vllm, tools, tmp_path):
    """And its file is gone once all have opened it; a killed job's is not in the way."""
    from vllm.platforms import current_platform

    tools.needs_cpu()
    current_platform.import_kernels()
    operators = torch.ops._C
    init, name = operators.init_shm_manager, f"masa-test-{tmp_path.name}"
    made = not torch.distributed.is_initialized()
    if made:
        store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with patches.own_shared_memory(2):
            operators.init_shm_manager(name, 1, 0, 1)
            (file,) = Path("/dev/shm").glob(f"{name}-*")
            assert not Path(f"/dev/shm/{name}_0").exists()
        assert not file.exists()
        assert operators.init_shm_manager == init
    finally:
        if made:
            torch.distributed.destroy_process_group()


def test_vllm_heeds_the_stream_of_its_engine(vllm, monkeypatch):
    """In place of one of its own, which it would make on a GPU."""
    from vllm.utils import torch_utils

    made = []
    monkeypatch.setattr(torch_utils, "prev_set_stream", made.append)
    monkeypatch.setattr(torch_utils, "_current_stream_tls", SimpleNamespace(value=None))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "of the engine")
    patches.heed_stream()
    assert torch_utils.current_stream() == "of the engine"
    assert made == ["of the engine"]


def test_each_engine_works_and_ends_with_its_own_workspace(vllm, tools, monkeypatch):
    """vLLM has the last engine's alone, and takes it away with any engine; on CPU there is none: names stand for them."""
    from vllm.v1.worker import workspace

    samplers = []
    for name in ("first", "second"):
        monkeypatch.setattr(workspace, "_manager", name)  # as a worker on CUDA does when its engine is made
        samplers.append(tools.vllm(tools.policy()))
    for name, sampler in [*zip(("first", "second"), samplers, strict=True)] * 2:
        sampler.generate(tools.requests(1), SamplingSettings())
        assert workspace._manager == name
    samplers[0].sync_weights()
    assert workspace._manager == "first"
    workspace._manager = "of one that is being made"
    samplers.pop(0).close()
    assert workspace._manager == "of one that is being made"
    samplers.append(tools.vllm(tools.policy()))
    samplers.pop().close()
    assert workspace._manager == "second"
    samplers.pop().close()
    assert "first" not in patches._workspaces
    assert workspace._manager not in ("first", "second")


def test_experts_after_a_dense_model(vllm, tools, monkeypatch):
    """The groups of processes are made with the first engine of a process."""
    from vllm.distributed import parallel_state

    tools.vllm(tools.policy())
    monkeypatch.setattr(parallel_state, "_EP", None)
    patches.ensure_expert_group(1)
    assert parallel_state.get_ep_group().world_size == 1


def test_a_router_that_leaves_out_its_bias(vllm):
    """And chooses other experts than with it: once it does not, this is to be refused no more."""
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter

    bias, logits = torch.tensor([0.0, 0.0, 9.0, 9.0]), torch.tensor([[2.0, 1.0, 0.0, 0.0]])
    router = CPURouter(2, 4, e_score_correction_bias=bias)
    _, chosen = router._compute_routing(torch.zeros(1, 8), logits, torch.int32)
    assert sorted(chosen[0].tolist()) == [0, 1]
    assert patches.leaves_out_bias(SimpleNamespace(router=router))
    assert not patches.leaves_out_bias(SimpleNamespace(router=CPURouter(2, 4)))
    assert not patches.leaves_out_bias(torch.nn.Linear(2, 2))


def test_code_that_does_not_import(vllm):
    vllm.ModelRegistry.register_model("AbsentForCausalLM", "no_such_package.module:AbsentForCausalLM")
    try:
        with pytest.raises(ImportError, match="no_such_package"):
            patches.load_model_class("AbsentForCausalLM")
    finally:
        del vllm.ModelRegistry.models["AbsentForCausalLM"]
    patches.load_model_class("UnknownForCausalLM")
    patches.load_model_class("Qwen3ForCausalLM")
