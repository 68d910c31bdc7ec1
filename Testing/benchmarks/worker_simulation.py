"""What many workers and one GPU would do: a simulation of queues, from measured times."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Seconds per scan.

    Attributes
    ----------
    before, after : float
        On a processor, before and after the device: reading, registration, writing.
    device : float
        On the device.
    master : float
        In the process that hands out scans and writes the summary.
    spread : float
        Standard deviation of each, as a share of it.
    """

    before: float
    device: float
    after: float
    master: float
    spread: float = 0.1

    @property
    def of_worker(self) -> float:
        """Of a worker that never waits."""
        return self.before + self.device + self.after


@dataclass(frozen=True)
class Simulated:
    """What came out.

    Attributes
    ----------
    per_hour : float
        Scans.
    device_busy, master_busy, workers_busy : float
        Shares of the time, 0–1.
    limit : str
        What is busy nearly always.
    """

    per_hour: float
    device_busy: float
    master_busy: float
    workers_busy: float

    @property
    def limit(self) -> str:
        shares = {"the device": self.device_busy, "the master": self.master_busy, "workers": self.workers_busy}
        return max(shares, key=shares.__getitem__)


def simulate(times: Times, workers: int, turns: int, scans: int = 4000, seed: int = 0) -> Simulated:
    """So many scans through so many workers, of which `turns` may be on the device; first come, first served.

    The device does one thing at a time: with several turns, one scan's copying does not wait for another's computing,
    but two computations share it.
    """
    drawn = random.Random(seed)

    def draw(mean: float) -> float:
        return max(drawn.gauss(mean, times.spread * mean), 0.0)

    #: (time, order, what, worker); of equal times the first one made comes first.
    events: list[tuple[float, int, str, int]] = []
    made = 0

    def at(time: float, what: str, worker: int) -> None:
        nonlocal made
        made += 1
        heapq.heappush(events, (time, made, what, worker))

    waiting: list[int] = []
    device_free = master_free = 0.0
    on_device = begun = done = 0
    device_time = master_time = worker_time = now = 0.0
    for worker in range(min(workers, scans)):
        begun += 1
        at(draw(times.before), "prepared", worker)
    while done < scans:
        now, _, what, worker = heapq.heappop(events)
        if what == "prepared":
            waiting.append(worker)
        elif what == "explained":
            on_device -= 1
            at(now + draw(times.after), "written", worker)
        else:
            spent = draw(times.master)
            master_free = max(master_free, now) + spent
            master_time += spent
            done += 1
            if begun < scans:
                begun += 1
                at(master_free + draw(times.before), "prepared", worker)
        while waiting and on_device < turns:
            on_device += 1
            spent = draw(times.device)
            device_free = max(device_free, now) + spent
            device_time += spent
            at(device_free, "explained", waiting.pop(0))
    worker_time = scans * times.of_worker
    return Simulated(3600 * scans / now, device_time / now, master_time / now, worker_time / (now * workers))
