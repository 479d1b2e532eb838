"""A Ray that cannot be reached or started is one sentence, soon; and a stop while it starts is a stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest import mock

import pytest
import ray

from pipeline.base.errors import ClusterError
from pipeline.cluster.connection import cluster
from tests.conftest import free_port


@pytest.fixture
def start(monkeypatch):
    """Puts a function in the place of Ray's start, which is not to be reached where None."""

    def never(**_: object) -> None:
        raise AssertionError("Ray is not to be started")

    def put(act=never) -> None:
        monkeypatch.setattr(ray, "init", act)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray.data.DataContext, "get_current", SimpleNamespace)
    with mock.patch.dict(os.environ):
        put()
        yield put


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "ray://nowhere.invalid:10001"])
def test_an_address_where_nothing_answers_is_told_soon(start, address):
    os.environ["RAY_ADDRESS"] = address = address.format(port=free_port())
    began = time.monotonic()
    with pytest.raises(ClusterError, match=f"RAY_ADDRESS is {address}, but nothing answers there"), cluster():
        pass
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1", "auto", "a:b", ":::", "host:99999"])
def test_an_address_that_is_none_is_told(start, address):
    def refuse(**_: object) -> None:
        raise ValueError(f"Invalid address format: {address}. To fix this, either\n 1. do this\n 2. or that")

    os.environ["RAY_ADDRESS"] = address
    start(refuse)
    with pytest.raises(ClusterError) as told, cluster():
        pass
    assert f"RAY_ADDRESS is {address}, but no Ray cluster can be reached by it (Invalid" in str(told.value)
    assert "\n" not in str(told.value) and "HOST:PORT" in str(told.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes"), "set RAY_TMPDIR to"),
        (PermissionError(13, "Permission denied", "/tmp/ray/session"), "folders of your own .*Permission denied"),
        (FileNotFoundError(2, "No such file", "/nowhere/.ray"), "folders of your own"),
        (RuntimeError("The current node timed out during startup.\nmuch more"), "overloaded, .*timed out during"),
    ],
)
def test_a_ray_that_cannot_start_is_told(start, error, words):
    def fail(**_: object) -> None:
        raise error

    os.environ.pop("RAY_ADDRESS", None)
    start(fail)
    with pytest.raises(ClusterError, match=f"Ray cannot start on this machine: .*{words}"), cluster():
        pass


def test_a_ray_that_did_not_start_in_time_is_started_once_more(start):
    left: list[subprocess.Popen[bytes]] = []

    def late(**_: object) -> None:
        left.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        if len(left) < 2:
            raise Exception("The current node timed out during startup. This could happen because some of the raylet")

    start(late)
    with cluster():
        assert left[0].wait(timeout=10) == -signal.SIGKILL, "what the first try began is ended"
        assert len(left) == 2 and left[1].poll() is None
    left[1].kill()

    def too_late(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    start(too_late)
    with pytest.raises(ClusterError, match="the machine may be overloaded"), cluster():
        pass


def test_kills_for_memory_are_bounded_before_ray_starts_and_as_the_user_likes(start):
    seen, name = [], "RAY_task_oom_retries"
    start(lambda **_: seen.append(os.environ[name]))
    for _ in range(2):
        with cluster():
            os.environ[name] = "2"
    assert 0 < int(seen[0]) < 10 and seen[1] == "2"


def test_what_sigterm_does_is_what_it_did_before(start):
    handler = signal.getsignal(signal.SIGTERM)
    start(lambda **_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    with cluster():
        assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("fails", [False, True])
def test_a_stop_while_ray_starts_is_a_stop_when_it_has(start, number, fails):
    started = []

    def init(**_: object) -> None:
        ray._private.utils.set_sigterm_handler(lambda *_: sys.exit(1))  # as Ray does
        os.kill(os.getpid(), number)
        started.append(True)
        if fails:
            raise RuntimeError("a start that was cut short")

    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    start(init)
    with pytest.raises(KeyboardInterrupt), cluster():
        pytest.fail("it went on")
    assert started and handlers == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]


def test_a_second_stop_leaves_at_once(start):
    def init(**_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        pytest.fail("it waited")

    start(init)
    with pytest.raises(KeyboardInterrupt), cluster():
        pass
