"""The order of problems, its sharding, and resuming it through a real Trainer."""

import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from masa_lightning.data.base import ProblemDataModule, Split
from masa_lightning.data.loader import ProblemLoader
from masa_lightning.rollouts.plan import merge_batches
from masa_lightning.types import Problem

# From Lightning 2.6 with torch 2.13, on every loader.
pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning")


def make_problems(n: int, prefix: str = "p") -> list[Problem]:
    return [Problem(id=f"{prefix}{i}", problem=f"{prefix} {i}?", answer=str(i)) for i in range(n)]


def ids(batches: Any) -> list[list[str]]:
    return [[p.id for p in batch] for batch in batches]


# ------------------------------------------------------------------------------------------------------- the loader


def test_epochs_differ_and_are_functions_of_seed_and_epoch() -> None:
    loader, again = (ProblemLoader(make_problems(20), 3, shuffle=True, seed=4) for _ in range(2))
    epochs = [ids(loader) for _ in range(3)]
    assert epochs == [ids(again) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs != [ids(ProblemLoader(make_problems(20), 3, shuffle=True, seed=5)) for _ in range(3)]
    assert all(sorted(chain(*e)) == sorted(p.id for p in make_problems(20)) for e in epochs)


def test_unused_iterators_change_nothing() -> None:
    loader = ProblemLoader(make_problems(9), 2, shuffle=True)
    first = ids(ProblemLoader(make_problems(9), 2, shuffle=True))
    iter(loader), iter(loader)
    used = iter(loader)
    next(used)
    iter(loader)
    assert ids([*used]) == first[1:]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 40), batch_size=st.integers(1, 7), world=st.integers(1, 5), drop=st.booleans(), mix=st.booleans()
)
def test_ranks_share_every_problem_once(n: int, batch_size: int, world: int, drop: bool, mix: bool) -> None:
    def loader(rank: int, world_size: int, size: int) -> ProblemLoader:
        return ProblemLoader(
            make_problems(n), size, shuffle=mix, drop_last=drop, rank=rank, world_size=world_size, seed=1
        )

    ranks = [ids(loader(r, world, batch_size)) for r in range(world)]
    assert (
        len({len(batches) for batches in ranks}) == 1 == len({len(loader(r, world, batch_size)) for r in range(world)})
    )
    assert len(ranks[0]) == len(loader(0, world, batch_size))
    whole = ids(loader(0, 1, batch_size * world))  # the same global batches as one process has
    assert [sorted(chain(*parts)) for parts in zip(*ranks, strict=True)] == [sorted(batch) for batch in whole]
    assert all(len(part) == batch_size for batches in ranks for part in batches[: n // (batch_size * world)])
    seen = [i for batches in ranks for batch in batches for i in batch]
    assert len(set(seen)) == len(seen) == (n - n % (batch_size * world) if drop else n)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 20), batch_size=st.integers(1, 6), taken=st.integers(0, 30), times=st.integers(1, 3))
def test_state_resumes_anywhere(n: int, batch_size: int, taken: int, times: int) -> None:
    def stream(loader: ProblemLoader, count: int) -> list[list[str]]:
        out: list[list[str]] = []
        while len(out) < count:
            for batch in loader:
                out.append([p.id for p in batch])
                if len(out) == count:
                    break
        return out

    def make() -> ProblemLoader:
        return ProblemLoader(make_problems(n), batch_size, shuffle=True, seed=3)

    expected = stream(make(), (times + 1) * taken + 5)
    seen: list[list[str]] = []
    state = make().state_dict()
    for _ in range(times):
        loader = make()
        loader.load_state_dict(state)
        assert loader.state_dict() == state
        seen += stream(loader, taken)
        state = loader.state_dict()
    loader = make()
    loader.load_state_dict(state)
    seen += stream(loader, len(expected) - len(seen))
    assert seen == expected


def test_other_data_on_loading_is_told() -> None:
    state = ProblemLoader(make_problems(9), 2).state_dict()
    for other in (
        ProblemLoader(make_problems(9), 2, rank=1, world_size=2),
        ProblemLoader(make_problems(9), 2, seed=1),
        ProblemLoader(make_problems(9), 3),
        ProblemLoader(make_problems(9, "q"), 2),
        ProblemLoader(make_problems(8), 2),
    ):
        with pytest.warns(UserWarning, match=r"differs from that of the checkpoint \(.* was .*, is"):
            other.load_state_dict(state)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_another_number_of_processes_goes_on_with_the_same_global_batches(world: int) -> None:
    whole = [p.id for batch in ProblemLoader(make_problems(19), 4, shuffle=True) for p in batch]
    loader = ProblemLoader(make_problems(19), 4, shuffle=True)
    steps = iter(loader)
    next(steps), next(steps)
    ranks = [
        ProblemLoader(make_problems(19), 4 // world, shuffle=True, rank=rank, world_size=world) for rank in range(world)
    ]
    for rank in ranks:
        rank.load_state_dict(loader.state_dict())
    batches = zip(*ranks, strict=True)
    assert [p.id for parts in batches for p in merge_batches(parts)] == whole[8:]


@pytest.mark.parametrize("kwargs", [{"batch_size": 0}, {"rank": 2, "world_size": 2}, {"rank": -1}, {"world_size": 0}])
def test_bad_numbers(kwargs: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(kwargs))}.* .*; expected"):
        ProblemLoader(make_problems(3), **({"batch_size": 1} | kwargs))


# ------------------------------------------------------------------------------------------------ through a Trainer


class Data(ProblemDataModule):
    def load_split(self, split: Split) -> list[Problem]:
        return make_problems({"train": 13, "validation": 5, "test": 5}[split], split)


class Recorder(LightningModule):
    """Remembers what it was trained on; manual optimisation, as the library's modules have."""

    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.fail_at = fail_at
        self.seen: list[list[str]] = []
        self.validated: list[list[str]] = []

    def training_step(self, batch: list[Problem], batch_idx: int) -> None:
        if self.global_step == self.fail_at:
            raise KeyError("struck in the middle of a step")
        self.seen.append([p.id for p in batch])
        self.manual_backward(self.weight.sum())
        self.optimizers().step()

    def validation_step(self, batch: list[Problem], batch_idx: int) -> None:
        self.validated.append([p.id for p in batch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEverywhere(Callback):
    """Writes a checkpoint at each hook named, so that one run stands for one killed after each of them."""

    def __init__(self, folder: Path, hooks: tuple[str, ...]) -> None:
        self.saved: list[tuple[str, int, Path]] = []
        for hook in hooks:
            setattr(self, hook, self._saver(folder, hook))

    def _saver(self, folder: Path, hook: str) -> Any:
        def save(trainer: Trainer, module: Recorder, *args: Any, **kwargs: Any) -> None:
            if trainer.sanity_checking:
                return
            path = folder / f"{len(self.saved)}.ckpt"
            trainer.save_checkpoint(path)
            self.saved.append((hook, len(module.seen), path))

        return save


def fit(folder: Path, *callbacks: Callback, ckpt: Path | None = None, module: Recorder | None = None, **kwargs: Any):
    module = module or Recorder()
    limits = {"max_epochs": -1} if "max_steps" in kwargs else {}
    trainer = Trainer(
        **(limits | {"limit_val_batches": 0, "num_sanity_val_steps": 0} | kwargs),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        callbacks=list(callbacks),
        default_root_dir=folder,
        log_every_n_steps=1,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in eval mode|.*manual optimization|.*using `ckpt_path`")
        trainer.fit(module, datamodule=Data(batch_size=3, val_batch_size=2, seed=7), ckpt_path=ckpt, weights_only=True)
    return module, trainer


STOPS = {"max_steps": 10, "max_epochs": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "limit_int": {"limit_train_batches": 3},
    "limit_float": {"limit_train_batches": 0.5},
    "reload": {"reload_dataloaders_every_n_epochs": 1},
    "validation": {"limit_val_batches": 1.0},
    "validation_inside": {"limit_val_batches": 1.0, "val_check_interval": 2, "num_sanity_val_steps": 1},
    "validation_by_steps": {"limit_val_batches": 1.0, "val_check_interval": 3, "check_val_every_n_epoch": None},
    "overfit": {"overfit_batches": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stop", STOPS)
def test_resumes_exactly_from_every_checkpoint(tmp_path: Path, stop: str, variant: str) -> None:
    # Not on_train_epoch_start: there Lightning 2.6 itself cuts the resumed epoch short, whatever the loader.
    hooks = ("on_train_batch_start", "on_train_batch_end", "on_validation_end", "on_train_epoch_end", "on_train_end")
    saver = SaveEverywhere(tmp_path, hooks)
    whole, _ = fit(tmp_path, saver, **{stop: STOPS[stop], **VARIANTS[variant]})
    epoch = {"limit_int": 3, "limit_float": 2, "overfit": 2}.get(variant, 4)
    assert len(whole.seen) == (10 if stop == "max_steps" else 3 * epoch)
    assert len(saver.saved) > 2 * len(whole.seen)
    failures = []
    for hook, k, path in saver.saved:
        rest, _ = fit(tmp_path, ckpt=path, **{stop: STOPS[stop], **VARIANTS[variant]})
        if rest.seen != whole.seen[k:]:
            failures.append((hook, k, rest.seen, whole.seen[k:]))
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_end", "on_train_batch_end"])
@pytest.mark.parametrize("stop", [2, 4, 6, 8, 10])
def test_raised_max_steps_goes_on_where_it_stopped(tmp_path: Path, stop: int, hook: str) -> None:
    whole, _ = fit(tmp_path, max_steps=14)
    saver = SaveEverywhere(tmp_path, (hook,))
    first, _ = fit(tmp_path, saver, max_steps=stop)
    rest, _ = fit(tmp_path, ckpt=saver.saved[-1][2], max_steps=14)
    assert first.seen + rest.seen == whole.seen


def test_resumes_a_resumed_run(tmp_path: Path) -> None:
    whole, _ = fit(tmp_path, max_epochs=4)
    seen, ckpt = [], None
    for stop in (3, 4, 9, 12):
        saver = SaveEverywhere(tmp_path, ("on_train_batch_end",))
        with pytest.raises(KeyError):
            fit(tmp_path, saver, ckpt=ckpt, module=(module := Recorder(fail_at=stop)), max_epochs=4)
        seen, ckpt = seen + module.seen, saver.saved[-1][2]
    rest, _ = fit(tmp_path, ckpt=ckpt, max_epochs=4)
    assert seen + rest.seen == whole.seen


@pytest.mark.parametrize("stop", range(10))
def test_batch_of_a_failed_step_is_repeated(tmp_path: Path, stop: int) -> None:
    whole, _ = fit(tmp_path, max_steps=10)
    failing = SaveEverywhere(tmp_path, ("on_exception",))
    with pytest.raises(KeyError):
        fit(tmp_path, failing, module=(module := Recorder(fail_at=stop)), max_steps=10)
    assert module.seen == whole.seen[:stop]
    rest, _ = fit(tmp_path, ckpt=failing.saved[-1][2], max_steps=10)
    assert rest.seen == whole.seen[stop:]


def test_model_checkpoint_every_n_train_steps(tmp_path: Path) -> None:
    whole, _ = fit(tmp_path, max_steps=10)
    keep = ModelCheckpoint(tmp_path / "c", every_n_train_steps=2, save_top_k=-1, filename="{step}")
    fit(tmp_path, keep, max_steps=10)
    paths = sorted((tmp_path / "c").glob("*.ckpt"))
    assert len(paths) == 5
    for path in paths:
        k = int(path.stem.split("=")[1])
        assert fit(tmp_path, ckpt=path, max_steps=10)[0].seen == whole.seen[k:]


def test_second_fit_goes_on_and_new_trainers_start_anew(tmp_path: Path) -> None:
    whole, _ = fit(tmp_path, max_steps=9)
    module, trainer = fit(tmp_path, max_steps=6)
    trainer.fit_loop.epoch_loop.max_steps = 9
    trainer.fit(module, datamodule=trainer.datamodule)
    assert module.seen == whole.seen
    other, _ = fit(tmp_path, max_steps=2, module=Recorder())
    assert other.seen == whole.seen[:2]


def test_validation_sees_every_problem_once(tmp_path: Path) -> None:
    module, _ = fit(tmp_path, max_steps=4, limit_val_batches=1.0)
    assert module.validated == [["validation0", "validation1"], ["validation2", "validation3"], ["validation4"]]
