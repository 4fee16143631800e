"""`--on ray`: the same run on the workers of a Ray cluster. Ray Train starts them, connects them through
torch.distributed, and starts all of them again where one is lost; what they do together is engine/ranks.py's.

`--at-once N --ray-address A`: trainings side by side, each a task of Ray's, which makes one again that is lost.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from filelock import FileLock
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tunesmith import stopping
from tunesmith.crew import joined
from tunesmith.engine.ranks import START_S, Ranks
from tunesmith.errors import InputError, LostRank, RunError, TunesmithError, again
from tunesmith.folder import LOCK, Teller
from tunesmith.recipe import Recipe
from tunesmith.side_by_side import attempt

RESTARTS = 3  # of all workers, where one was lost
GRACE_S = 30  # until a lost worker has let go of the run's folder
EVERY_S = 0.2  # between two looks at what the leader said
BEGUN, STOP = "begun", "stop"  # files that all hosts see
ENDED = "ended"  # the leader's last word
OWN = "TUNESMITH_"  # variables that go along


@dataclass(frozen=True, slots=True)
class Cluster:
    """`address`: as ray.init understands it; None: $RAY_ADDRESS, a cluster that runs here, or a new one here."""

    workers: int
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster on which there is room for all, and how each finds itself there."""

    hosts: int
    cpus: int  # of each
    has_gpu: bool
    scratch: Path  # for Ray's own files, while it lasts
    home: Path  # from which relative paths are seen
    environ: dict[str, str]

    def enter(self, beside: int) -> None:
        """In a process of Ray's; `beside`: how many on this host divide its threads."""
        os.environ |= self.environ
        os.chdir(self.home)
        torch.set_num_threads(self.cpus * beside)


@dataclass(frozen=True, slots=True)
class Order:
    """What each worker is told."""

    job: Callable[..., Any]
    recipe: Recipe
    text: str
    out: Path
    resume: bool
    place: Place


class Told:
    """What the leader says, wherever it runs, goes to who typed the command; whether to stop is looked up each time."""

    def __init__(self, said: Queue, scratch: Path) -> None:
        self.said, self.scratch = said, scratch

    def _tell(self, name: str, *words: Any) -> None:
        self.said.put((name, words))
        if (self.scratch / STOP).exists():
            stopping.ask()

    def stage(self, name: str, budget_s: float | None) -> None:
        self._tell("stage", name, budget_s)

    def step(self, done: int, total: int, text: str) -> None:
        self._tell("step", done, total, text)

    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None:
        self._tell("updated", update, num_updates, dict(facts))

    def say(self, text: str) -> None:
        self._tell("say", text)

    def understood(self, facts: Mapping[str, Any]) -> None:
        self._tell("understood", dict(facts))


def launch(
    job: Callable[..., Any], recipe: Recipe, text: str, out: Path, tell: Teller, *, resume: bool, cluster: Cluster
) -> Any:
    """What `job(recipe, text, out, tell, resume=, ranks=)` returns, or raises, where the first worker runs it."""
    num, out = cluster.workers, out.resolve()
    with placed(f"--workers is {num}", num, cluster.address, out) as place:
        said = Queue(actor_options={"num_cpus": 0})
        order = Order(job, recipe, text, out, resume, place)
        trainer = TorchTrainer(
            work,
            train_loop_config={"order": ray.put(order), "said": said},  # a reference: Ray's own actors need not load us
            torch_config=TorchConfig("cpu:gloo,cuda:nccl" if place.has_gpu else "gloo", timeout_s=int(START_S)),
            scaling_config=ScalingConfig(
                num_workers=num, use_gpu=place.has_gpu, resources_per_worker={"CPU": place.cpus}
            ),
            run_config=RunConfig(
                name="run", storage_path=str(place.scratch), failure_config=FailureConfig(max_failures=RESTARTS)
            ),
        )
        tell.say(f"{num} workers on a Ray cluster of {place.hosts} hosts, {place.cpus} CPUs each")
        return followed(trainer, said, tell, place)


class Tasks:
    """Trainings side by side. Ray makes one again whose process it lost."""

    def __init__(self, num: int, place: Place) -> None:
        self.num, self.place, self.refs = num, place, list[Any]()

    def submit(self, work: Callable[[Any], Any], order: Any) -> Future[Any]:
        options = attempted.options(num_cpus=self.place.cpus, num_gpus=int(self.place.has_gpu))
        self.refs.append(options.remote(self.place, work, order))
        found: Future[Any] = self.refs[-1].future()
        return found

    def stop(self) -> None:
        """Each hears it as Ctrl-C."""
        for ref in self.refs:
            ray.cancel(ref)


@contextmanager
def tasks(num: int, address: str, out: Path) -> Iterator[Tasks]:
    with placed(f"--at-once is {num}", num, address, out.resolve()) as place:
        yield Tasks(num, place)


@ray.remote
def attempted(place: Place, work: Callable[[Any], Any], order: Any) -> Any:
    place.enter(1)
    return attempt(work, order)


@contextmanager
def placed(said: str, num: int, address: str | None, out: Path) -> Iterator[Place]:
    """Room for `num` on the cluster. `said`: who asks for it. What Ray itself prints goes to standard error."""
    with redirect_stdout(sys.stderr), connected(address):
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        cpus, has_gpu = shares(said, [node["Resources"] for node in nodes], num)
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".tunesmith_ray_", dir=out.parent) as scratch:
            environ = {name: value for name, value in os.environ.items() if name.startswith(OWN)}
            place = Place(len(nodes), cpus, has_gpu, Path(scratch), Path.cwd(), environ)
            refuse_apart(nodes, place)
            yield place


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """To a cluster. One that this process is connected to already is taken, and stays."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at {address or os.environ.get('RAY_ADDRESS')} ({error}): start one with `ray "
            "start --head`, name its address in --ray-address or RAY_ADDRESS, or leave both out for this machine"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def shares(said: str, hosts: Sequence[Mapping[str, float]], num: int) -> tuple[int, bool]:
    """(CPUs of each of `num`, whether each has a GPU). `hosts`: resources, as Ray names them."""

    def room(kind: str, each: int) -> int:
        return sum(int(host.get(kind, 0) // each) for host in hosts)

    gpus, cpus = room("GPU", 1), room("CPU", 1)
    fits = [each for each in range(1, cpus + 1) if room("CPU", each) >= num]
    if 0 < gpus < num or not fits:
        there = f"{gpus} GPUs" if fits else f"{cpus} CPUs"
        raise InputError(f"{said}, and the Ray cluster has {there}: one each, at least. Ask for fewer, or add hosts to "
                         "it with `ray start --address`")  # fmt: skip
    return (1 if gpus else fits[-1]), gpus > 0


def refuse_apart(nodes: Sequence[Mapping[str, Any]], place: Place) -> None:
    """InputError where a host does not see what the run is written to, or its recipe is seen from."""
    folders = [str(place.home), str(place.scratch)]
    asked = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked.append(missing.options(scheduling_strategy=there).remote(folders))
    for node, found in zip(nodes, ray.get(asked)):
        for folder in found:
            shown = place.scratch.parent if folder == folders[1] else folder
            raise InputError(
                f"{node['NodeManagerHostname']}, a host of the Ray cluster, does not see {shown}: any host may have "
                "to read the data and to write the run. Start from a folder that all share under the same path, and "
                "put --out in such a one"
            )


@ray.remote(num_cpus=0)
def missing(folders: list[str]) -> list[str]:
    """Those that this host does not see."""
    return [folder for folder in folders if not Path(folder).is_dir()]


def work(config: Mapping[str, Any]) -> None:
    """In each worker, in a thread of Ray's. It ends with an error only where a new start could mend it."""
    order: Order = ray.get(config["order"])
    order.place.enter(int(os.environ["LOCAL_WORLD_SIZE"]))  # who trains together divides them
    kind: type[TunesmithError] | None = None
    with suppress(SystemExit), joined() as ranks:  # a follower ends so
        try:
            found = led(order, Told(config["said"], order.place.scratch), ranks)
        except LostRank:
            raise
        except TunesmithError as error:
            kind, found = type(error), str(error)
        config["said"].put((ENDED, (kind, found)))


def led(order: Order, tell: Teller, ranks: Ranks) -> Any:
    """The leader's part. What a start before this one began is gone on with."""
    resume, begun = order.resume, order.place.scratch / BEGUN
    if begun.exists():
        for path in (p for name in ("", "seed_*/") for p in order.out.glob(f"{name}recipe.yaml")):
            with FileLock(path.with_name(LOCK), timeout=GRACE_S):
                resume = True
    begun.touch()
    return order.job(order.recipe, order.text, order.out, tell, resume=resume, ranks=ranks)


def followed(trainer: Any, said: Queue, tell: Teller, place: Place) -> Any:
    """What the leader's job came to. Ctrl-C goes to it: it finishes its update and saves; twice ends all at once."""
    end: tuple[Any, ...] | None = None
    with ThreadPoolExecutor(1) as pool, stopping.Stop(tell.say) as stop:
        stop.step = "the update"
        fitting: Future[Any] = pool.submit(trainer.fit)  # in a thread, where it listens to no signals
        try:
            is_done = False
            while not is_done:
                time.sleep(EVERY_S)
                is_done = fitting.done()
                if stop.is_asked:
                    (place.scratch / STOP).touch()
                end = heard(said, tell) or end
        except BaseException:
            trainer.shutdown()
            raise
    if end is None:
        why = str(fitting.exception()).strip().splitlines()[-1]
        raise RunError(
            f"a worker ended, and again after {RESTARTS} new starts of all ({why}). What was kept before is whole, and "
            "a run goes on with --resume; logs/ in its folder has the last words of each"
        )
    kind, found = end
    if kind is not None:
        raise again(kind, found)
    return found


def heard(said: Queue, tell: Teller) -> tuple[Any, ...] | None:
    """Tells what the leader said since; how its job ended, once it has."""
    for name, words in said.get_nowait_batch(said.size()):
        if name == ENDED:
            return tuple(words)
        getattr(tell, name)(*words)
    return None
