"""`--processes`, `--on ray`: one command in several processes, and its part in each."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.options import part
from tunesmith.errors import InputError

Processes = Annotated[
    int | None, typer.Option("--processes", help="Train in so many processes of this machine, one for each GPU.")
]
On = Annotated[str | None, typer.Option("--on", help="ray: train on the workers of a Ray cluster.")]
Workers = Annotated[int | None, typer.Option("--workers", help="With --on ray: how many train together.")]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", help="Of the cluster. Without it $RAY_ADDRESS, one on this machine, or a new one."),
]

AtOnce = Annotated[
    int | None,
    typer.Option("--at-once", help="Train so many side by side; with --ray-address on a Ray cluster."),
]


@dataclass(frozen=True, slots=True)
class Where:
    """Where a command was asked to run."""

    processes: int | None
    cluster: Any = None  # of Ray; None: here
    at_once: int | None = None
    address: str | None = None  # of a Ray cluster for these

    @property
    def flags(self) -> list[str]:
        """As they are typed again."""
        if self.at_once is not None:
            return again(self.at_once, self.address)
        if self.cluster is not None:
            at = [f"--ray-address={self.cluster.address}"] * (self.cluster.address is not None)
            return ["--on=ray", f"--workers={self.cluster.workers}", *at]
        return [f"--processes={self.processes}"] * (self.processes is not None)

    def job(self, work: Callable[..., Any], ranks: Any) -> Callable[..., Any]:
        """`work` with who trains: these ranks, or those of the cluster, whose first runs it."""
        if self.cluster is not None:
            return partial(part("launch.ray").launch, work, cluster=self.cluster)
        return partial(work, ranks=ranks)

    def seeds(self, num: int, ranks: Any) -> Callable[..., Any]:
        """All that --seeds does, one after another or at once."""
        job = partial(part("seeds").run_seeds, num=num)
        if self.at_once is None:
            return self.job(job, ranks)

        def beside(recipe: Any, text: str, folder: Path, tell: Any, *, resume: bool) -> Any:
            with side_by_side(self.at_once, self.address, folder) as many:
                part("seeds").run_beside(recipe, text, folder, tell, num, many, resume=resume)
            return job(recipe, text, folder, tell, resume=True)

        return beside


def asked(
    processes: int | None, on: str | None, workers: int | None, address: str | None, at_once: int | None = None
) -> Where:
    if at_once is not None:
        if processes is not None or on is not None or workers is not None:
            raise InputError("--at-once runs each seed in one process: leave --processes, --on and --workers out")
        return Where(None, None, at_once, address)
    if on is None:
        if workers is not None or address is not None:
            raise InputError("--workers and --ray-address are of a Ray cluster: add --on ray, or leave them out")
        return Where(processes)
    if on != "ray":
        raise InputError(f"--on is {on!r}; wanted ray")
    if processes is not None or part("engine.ranks").is_launched():
        raise InputError("Ray starts its workers itself: leave --processes and torchrun out, and say --workers")
    if workers is None or workers < 1:
        raise InputError(f"--workers is {workers}; --on ray wants how many train together, at least 1")
    need_ray()
    return Where(None, part("launch.ray").Cluster(workers, address))


def again(num: int | None, address: str | None) -> list[str]:
    """How --at-once is typed again."""
    return [f"--at-once={num}"] * (num is not None) + [f"--ray-address={address}"] * (address is not None)


def need_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        raise InputError("a Ray cluster needs the package ray, which is not installed: `pip install 'tunesmith[ray]'`")


@contextmanager
def side_by_side(num: int | None, address: str | None, folder: Path) -> Iterator[Any]:
    """Where trainings run at once; None: one after another, here."""
    if num is None:
        if address is not None:
            raise InputError("--ray-address says where --at-once trains: say how many, or leave it out")
        yield None
        return
    if num < 2:
        raise InputError(f"--at-once is {num}; wanted at least 2, or leave it out for one after another")
    if address is not None:
        need_ray()
    way = part("side_by_side").processes(num) if address is None else part("launch.ray").tasks(num, address, folder)
    with way as found:
        yield found


@contextmanager
def together() -> Iterator[Any]:
    """Who trains: this process alone, or those that torchrun or --processes started. Another than the first ends
    here."""
    with part("crew").joined() as ranks:
        yield ranks


def several(processes: int | None, ranks: Any, out: Path | None, folder: Path) -> None:
    """Where so many processes are asked for and nobody started them: start them, and end with what they end with."""
    if ranks.size > 1:
        if processes not in (None, ranks.size):
            raise InputError(f"--processes is {processes}, and {ranks.size} were started: leave it out under torchrun")
        if out is None:
            raise InputError("several processes want --out: by it a new start finds what the last one kept")
        return
    if processes is None or part("exits").place() is not None:
        return
    if processes < 1:
        raise InputError(f"--processes is {processes}; wanted at least 1")
    if processes == 1:
        return
    words = sys.argv[1:] if out is not None else [*sys.argv[1:], "--out", str(folder)]
    raise typer.Exit(part("launch.elastic").launch(words, processes))


def goes_on(out: Path | None) -> bool:
    """Whether torch started all processes again, so that nobody says --resume, and there is a run to go on with."""
    if out is None or not part("engine.ranks").is_launched():
        return False
    begun = [path.parent for name in ("", "seed_*/") for path in out.glob(f"{name}recipe.yaml")]
    return any(map(part("folder").is_started_again, begun)) or (bool(begun) and part("engine.ranks").num_restarts() > 0)
