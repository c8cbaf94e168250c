"""Processes of the laboratory that something happens to: killed, out of room, out of memory.

They are forked from one process that has read the data and imported all, which takes a tenth of a
second instead of five. `Nursery` starts that one; run as a script this file is it.
"""

import contextlib
import ctypes
import functools
import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


class Nursery:
    """Runs the command with the faults that each child asks for, and returns how each ended.

    A child is a dict: `arguments` of the command, and any of `kill_at` (number of a rename, and
    "before" or "after" it), `pause` (seconds between that rename and the kill), `kill_after`
    (seconds), `full_after` (renames, after which no file can be written to), `memory` (bytes more
    than it has), `unprivileged` (permissions hold, for root too), `environment`, and `wait_for` (a
    file).
    """

    def __enter__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
        self.process = subprocess.Popen([sys.executable, __file__], **pipes)
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def run(self, *children):
        print(json.dumps(children, default=str), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def start(child, output):
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        with open(output, "w", encoding="utf-8") as file:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                status = suffer(**child)
    finally:
        os._exit(status)


def suffer(
    arguments,
    kill_at=None,
    pause=0,
    kill_after=None,
    full_after=None,
    memory=None,
    unprivileged=False,
    environment=None,
    wait_for=None,
):
    """Do what a child is to do; `kill_after` is its parent's."""
    while wait_for and not Path(wait_for).exists():
        time.sleep(0.01)
    if kill_at:
        die_at_a_rename(*kill_at, pause)
    if unprivileged:
        give_up_root()
    if environment:  # it may name another place of the data
        os.environ.update(environment)
        data.load = LOAD
    if memory:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        if full_after is not None:
            fill_the_disk(full_after)
        status = main(arguments)
    room_in_files(-1)
    print(said.getvalue(), end="")
    return status


def fill_the_disk(renames):
    if renames == 0:
        return room_in_files(0)
    replace, calls = os.replace, []

    def filling(*paths):
        replace(*paths)
        calls.append(paths)
        if len(calls) == renames:
            room_in_files(0)

    os.replace = filling


def room_in_files(size):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def die_at_a_rename(number, when, pause):
    replace, calls = os.replace, []

    def dying(*paths):
        calls.append(paths)
        if len(calls) == number:
            if when == "after":
                replace(*paths)
            time.sleep(pause)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths)

    os.replace = dying


def give_up_root():
    """Give up the capabilities by which root may do what permissions forbid."""
    if os.geteuid() == 0:
        version, this_process = 0x20080522, 0
        header = (ctypes.c_uint32 * 2)(version, this_process)
        if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
            raise OSError(ctypes.get_errno(), "capset")


def serve(request):
    names = [f"/proc/self/fd/{os.memfd_create('output')}" for _ in request]
    begun = time.monotonic()
    delays = [child.pop("kill_after", None) for child in request]
    pids = [start(child, name) for child, name in zip(request, names, strict=True)]
    killers = [
        threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
        for pid, delay in zip(pids, delays, strict=True)
        if delay is not None
    ]
    for killer in killers:
        killer.start()
    ends = []
    for pid, name in zip(pids, names, strict=True):
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        seconds = time.monotonic() - begun
        said = Path(name).read_text(encoding="utf-8")
        ends.append({"status": status, "said": said, "seconds": seconds})
        os.close(int(name.rpartition("/")[2]))
    for killer in killers:
        killer.cancel()
    return ends


if __name__ == "__main__":
    import torch
    import torch._dynamo  # SGD imports it; half imported for want of room, it gives a false reason

    from d2l_lab.__main__ import main
    from d2l_utils import data, fashion_mnist_files

    torch.set_num_threads(1)  # threads do not survive a fork
    LOAD = data.load
    data.load = functools.cache(fashion_mnist_files.load)
    data.FashionMNIST()
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
