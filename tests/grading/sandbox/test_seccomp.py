import pytest

from masa_lightning.grading.sandbox import seccomp


def test_machine_without_a_filter(monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "vax")
    with pytest.raises(RuntimeError, match=r"(?s)no sandbox for linux on vax.*x86_64"):
        seccomp.seccomp_filter.__wrapped__()


def test_filters_refuse_the_same_calls_on_every_machine():
    assert len({len(numbers) for _, numbers in seccomp.CALLS.values()}) == 1
    for _, numbers in seccomp.CALLS.values():
        assert len(set(numbers)) == len(numbers)
