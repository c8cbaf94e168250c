"""A grid on a Ray cluster: one task per run, with the GPU or the cores that it takes.

Each machine of the cluster needs this package and Fashion-MNIST. What a run leaves comes back to
the machine that asked for it. A run whose worker is lost is done again: on from its checkpoint
where the folder of checkpoints is on storage that the machines share, else from its beginning.
"""

import os
from pathlib import Path

import torch

from d2l_lab.records import locked, note
from d2l_lab.run import Run
from d2l_utils.files import atomic_write


def train_on_ray(runs: list[Run], address: str, cores: int, precision: str | None) -> None:
    """Do the runs on a cluster, and write what comes back; what others build on is done first.

    The address "local" starts one on this machine; each run takes so many CPU cores.
    """
    import ray

    ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        with_gpu = "GPU" in ray.cluster_resources()
        started = ray.remote(num_cpus=0)(_Started).remote()
        submitted = {}

        def submit(run: Run):
            """Return what the run's files will be; tasks that build on it wait for them."""
            if run.record not in submitted:
                given = [submit(s) if s.record in missing else _files(s) for s in run.sources]
                gpus = 1 if with_gpu and "int8" not in run.config.transform else 0
                task = ray.remote(_task).options(num_cpus=cores, num_gpus=gpus, max_retries=3)
                submitted[run.record] = task.remote(run, precision, cores, started, *given)
            return submitted[run.record]

        missing = {run.record for run in runs}
        at_work = {submit(run): run for run in runs}
        said = ""
        while at_work:
            for result in ray.wait(list(at_work), timeout=1)[0]:
                run = at_work.pop(result)
                try:
                    files = ray.get(result)
                    note({file: files[file] for file in (run.record, run.predictions)})
                    _write(run, files)
                except ray.exceptions.RayError as error:
                    print(f"  failed: {run}: {str(error).strip().splitlines()[-1]}", flush=True)
            names = {str(run) for run in at_work.values()}
            running = len(names & ray.get(started.names.remote()))
            done = len(runs) - len(at_work)
            line = f"{done} done, {running} running, {len(at_work) - running} waiting"
            if line != said:
                print(said := line, flush=True)
    finally:
        ray.shutdown()


class _Started:
    """An actor that knows which runs a worker has begun."""

    def __init__(self):
        self._names = set()

    def add(self, name: str):
        self._names.add(name)

    def names(self) -> set[str]:
        return self._names


def _task(run: Run, precision, cores, started, *given) -> dict[Path, bytes]:
    """Do one run on the machine of a worker, and return all files that it leaves."""
    os.environ["TQDM_DISABLE"] = "1"  # nobody looks at a worker's progress bar
    torch.set_num_threads(cores)
    started.add.remote(str(run))
    for source, files in zip(run.sources, given, strict=True):
        _write(source, files)
    with run.reserved():
        if not run.record.exists():
            run.execute(precision)
    return _files(run)


def _files(run: Run) -> dict[Path, bytes]:
    files = (run.predictions, run.weights, run.record)
    return {file: file.read_bytes() for file in files if file.exists()}


def _write(run: Run, files: dict[Path, bytes]):
    """Write what is not here yet; on shared storage it is. The record comes last."""
    with locked(run.record.with_suffix(".lock")):
        recorded = run.record.exists()  # else what is here is of an attempt that was lost
        for path, content in files.items():
            if not (recorded and path.exists()):
                with atomic_write(path) as part:
                    part.write_bytes(content)
