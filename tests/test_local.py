"""The pool of subprocesses: whatever a run prints or its reader does, every run is waited for and reported."""

import os
import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest

from senet_lib.running.local import Pool, threads_of_a_job


@pytest.fixture
def pool(tmp_path):
    options = Namespace(jobs=1, threads=1, study="s", device="cpu", data="", limit_epochs=None)
    return Pool(options, tmp_path)


def execute(pool, monkeypatch, **codes):
    """The failed runs, run_id -> reason, where each run is a Python process with the given code."""
    monkeypatch.setattr(pool, "_command", lambda run: [sys.executable, "-c", codes[run.run_id]])
    monkeypatch.setattr("senet_lib.running.local.signal.signal", lambda *_: None)
    return pool.execute([SimpleNamespace(run_id=run_id) for run_id in codes])


def test_any_bytes_may_be_printed(pool, monkeypatch, capsys):
    rubbish = "import os; os.write(2, bytes(range(256)) * 400 + b'\\n'); os.write(1, b'last line')"
    assert execute(pool, monkeypatch, first=rubbish, second="print('well')") == {}
    output = capsys.readouterr().out
    assert "[first] " in output
    assert "last line" in output
    assert "[second] well" in output


def test_reader_may_leave(pool, monkeypatch):
    """As in `make reproduce | head -1`: the runs continue, and more output than a pipe holds blocks none of them."""

    def closed(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    much = "print('x' * 200_000)"
    failing = "import sys; print('third: failed: a reason'); sys.exit(1)"
    assert execute(pool, monkeypatch, first=much, second=much, third=failing) == {"third": "a reason"}


def test_failures_have_a_reason(pool, monkeypatch):
    silent, killed = "import sys; sys.exit(3)", "import os; os.kill(os.getpid(), 9)"
    failed = execute(pool, monkeypatch, silent=silent, killed=killed, well="")
    assert set(failed) == {"silent", "killed"}
    assert all(failed.values())


def test_threads_are_those_that_may_be_used(monkeypatch):
    """As under `taskset -c 1`, whatever the number of the machine's cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for usable, jobs, threads in ((1, 1, 1), (6, 2, 3), (6, 4, 1), (2, 4, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, usable=usable: set(range(usable)), raising=False)
        assert threads_of_a_job(Namespace(threads=None, jobs=jobs)) == threads
    assert threads_of_a_job(Namespace(threads=5, jobs=1)) == 5


def test_run_that_cannot_start_is_reported(pool, monkeypatch):
    real = pool._start

    def start(run, slot):
        if run.run_id == "first":
            raise OSError(12, "Cannot allocate memory")
        return real(run, slot)

    monkeypatch.setattr(pool, "_start", start)
    failed = execute(pool, monkeypatch, first="", second="")
    assert list(failed) == ["first"]
    assert "Cannot allocate memory" in failed["first"]
