"""Workers of Ray, forked from one process that has imported torch and the like; Ray itself starts each as a new Python,
which imports them for two to five seconds.

Ray starts `python tests/zygote.py default_worker.py ...` in place of its own `setup_worker.py`. That asks the process
of `Zygote` for a child, lends it its own output, and lives and dies with it. What needs more than a folder and
variables of the environment goes Ray's own way. Only the Ray of tests does so (tests/conftest.py), not jobs that they
start.
"""

from __future__ import annotations

import array
import json
import os
import socket
import sys

ADDRESS = "JODIFFUSION_TEST_ZYGOTE"
"""Variable with the path of the socket where the process listens."""
PROCESS = "JODIFFUSION_TEST_ZYGOTE_PID"
"""Variable with its id."""
IMPORTED = (
    "aiohttp", "diffusers.models.autoencoders.autoencoder_kl", "google.protobuf.message", "jsonschema", "numpy",
    "pandas", "psutil", "pyarrow.dataset", "pyarrow.parquet", "s3fs", "scipy.ndimage", "torch.distributed.fsdp",
    "transformers", "transformers.models.auto.tokenization_auto", "transformers.models.clip.modeling_clip",
)  # fmt: skip
"""Not Ray: it reads the environment, which is each worker's own, as it is imported."""
CONTEXT = "--serialized-runtime-env-context="


def ask() -> None:
    """What Ray starts: passes its arguments, environment and output on, and waits for the child to end."""
    context = next((one.removeprefix(CONTEXT) for one in sys.argv if one.startswith(CONTEXT)), "{}")
    wanted = {key: value for key, value in json.loads(context).items() if value and key != "py_executable"}
    first: list[str] = wanted.pop("command_prefix", ["cd", os.getcwd()])
    if set(wanted) - {"env_vars"} or first[0] != "cd":
        setup = os.path.join(os.path.dirname(sys.argv[1]), "setup_worker.py")
        os.execv(sys.executable, [sys.executable, setup, *sys.argv[1:]])
    arguments = [one for one in sys.argv[1:] if not one.startswith((CONTEXT, "--language="))]
    order = {"argv": arguments, "env": {**os.environ, **wanted.get("env_vars", {})}, "cwd": first[1]}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[ADDRESS])
        lent = array.array("i", [0, 1, 2])
        server.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, lent)])
        server.sendall(json.dumps(order).encode())
        server.shutdown(socket.SHUT_WR)
        while server.recv(1):
            pass  # until the child, which holds the other end, is gone


class Zygote:
    """Listens for orders, and becomes a worker for each in a child of its own."""

    def __init__(self, path: str) -> None:
        import importlib

        self.socket = socket.socket(socket.AF_UNIX)
        for name in IMPORTED:
            importlib.import_module(name)
        self.socket.bind(path)
        self.socket.listen(64)

    def serve(self) -> None:
        """Until the process that started this one is gone."""
        import gc
        import select
        import signal

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
        gc.collect()
        gc.freeze()  # or the first collection of each child would copy everything
        parent = os.getppid()
        while os.getppid() == parent:
            if select.select([self.socket], [], [], 1.0)[0]:
                order, _ = self.socket.accept()
                if not os.fork():
                    self.socket.close()
                    become(order)
                order.close()


def become(order: socket.socket) -> None:
    """Runs a worker as Ray would have started it; ends with whoever asked for it."""
    import runpy
    import signal
    import threading
    import traceback

    import numpy

    lent = array.array("i", [0, 0, 0])
    _, found, _, _ = order.recvmsg(1, socket.CMSG_SPACE(lent.itemsize * len(lent)))
    lent.frombytes(found[0][2])
    wanted = lent[-3:]
    for number, mine in zip(wanted, (0, 1, 2), strict=True):
        os.dup2(number, mine)
        os.close(number)
    content = b""
    while part := order.recv(65536):
        content += part
    told = json.loads(content)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(told["cwd"])
    os.environ.clear()
    os.environ.update(told["env"])
    sys.argv = told["argv"]
    # A submitted job's own files come first, as in a Python that is started there.
    own = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one and one not in sys.path]
    sys.path[:1] = [os.path.dirname(sys.argv[0]), *own]
    numpy.random.seed()  # Python's own numbers are drawn anew in a child
    threading.Thread(target=end_with, args=(order,), daemon=True).start()
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        os._exit(stop.code if isinstance(stop.code, int) else int(stop.code is not None))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def end_with(order: socket.socket) -> None:
    """Waits for who asked for this process to be gone, as one that is killed is, and goes too."""
    import select
    import signal

    gone = select.poll()
    gone.register(order, 0)  # nothing but the end of both directions
    gone.poll()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        Zygote(sys.argv[2]).serve()
    else:
        ask()
