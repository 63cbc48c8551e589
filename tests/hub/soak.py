"""Processes that are killed while they download, round after round: `nox -s soak`.

In every round 8 processes load the same kernel at once, and some of them get SIGKILL at random
moments. Afterwards every complete file in the cache must be right, the surviving processes must
have the kernel, and the next process gets it without downloading a complete file again.
"""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hub_server import Forks, Hub, Request, client_environment, kernel_files

ROUNDS = int(os.environ.get("SOAK_ROUNDS", "200"))
PROCESSES = 8
LONGEST = 60  # seconds that a load may take
REPOSITORY = "org/activation"

LOAD = f"""
from pathlib import Path
from kernels_core import get_kernel

module = get_kernel({REPOSITORY!r}, version=1)
package = Path(module.__file__).parent
files = [path for path in package.rglob("*") if path.is_file()]
result = {{path.relative_to(package).as_posix(): len(path.read_bytes()) for path in files}}
assert module.answer == 42
"""


def publish(hub: Hub, rng: random.Random) -> dict[str, int]:
    """Publish a kernel that takes a while to download, and return the sizes of its files."""
    sizes = [20_000, 200_000, 1_000_000]
    more = {f"part{number}.bin": rng.randbytes(size) for number, size in enumerate(sizes)}
    files = kernel_files(also=more, digest=True)
    hub.add(REPOSITORY, files, branch="v1", lfs=["*.bin"])
    hub.latency = 0.005
    hub.bandwidth = 1_500_000
    return {path.split("/", 2)[2]: len(content) for path, content in files.items()}


def complete_blobs(home: Path) -> set[str]:
    """The names of the complete files in the cache; each must be the hash of its content."""
    names = set()
    for path in home.rglob("blobs/*"):
        if path.suffix == ".incomplete":
            continue
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        assert path.name in (git, hashlib.sha256(content).hexdigest()), f"{path} is corrupt"
        names.add(path.name)
    for path in home.rglob("snapshots/*/build/*/*"):
        assert path.exists(), f"{path} leads nowhere"
    return names


def downloads(hub: Hub, requests: list[Request]) -> Counter[str]:
    """How often the content of each file was requested, by the name of its blob."""
    (commit,) = hub.repository(REPOSITORY).commits.values()
    count: Counter[str] = Counter()
    for request in requests:
        if request.path.startswith("/large-files/"):
            count[request.path.rpartition("/")[2]] += 1
        elif request.kind == "file":
            file = commit.files["build/" + request.path.partition("/build/")[2]]
            count[file.etag] += not file.lfs  # those are redirected
    return count


def one_round(forks: Forks, rng: random.Random) -> dict[str, Any]:
    """Eight processes at once, some of them killed, then one more."""
    with Hub() as hub, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        sizes = publish(hub, rng)
        environment = client_environment(hub.endpoint, home)
        moments = kill_moments(rng)
        with ThreadPoolExecutor(PROCESSES) as pool:
            results = list(pool.map(lambda at: load(forks, environment, at), moments))
        killed = PROCESSES - moments.count(None)
        assert all(found == sizes for found in results if found is not None)
        assert results.count(None) <= killed, "a process ended that nobody killed"
        often = downloads(hub, hub.forget())
        assert max(often.values(), default=0) <= 1 + killed, often
        complete = complete_blobs(home)

        assert load(forks, environment, None) == sizes
        again = downloads(hub, hub.forget())
        assert not complete & set(again), "what was complete was downloaded again"
        assert len(complete_blobs(home)) == len(sizes)

        # After that, only what may have changed is requested.
        assert load(forks, environment, None) == sizes
        assert {request.kind for request in hub.forget()} <= {"organization", "refs"}
        stage = "empty" if not complete else "partial" if len(complete) < len(sizes) else "whole"
        return {"killed": results.count(None), "again": len(again), stage: 1}


def kill_moments(rng: random.Random) -> list[float | None]:
    """For each process, after how many seconds it is killed; None for never."""
    # Often all of them: otherwise a process is left to finish what the others began.
    doomed = rng.choice([rng.randint(1, PROCESSES), PROCESSES])
    # A load takes a second, and does most of what it does in the first tenth of that.
    longest = 10 ** rng.uniform(-1.5, 0)
    moments = [rng.uniform(0, longest) if n < doomed else None for n in range(PROCESSES)]
    rng.shuffle(moments)
    return moments


def load(forks: Forks, environment: dict[str, str], moment: float | None) -> Any:
    """Load the kernel in a process of its own, which is killed at some moment of that."""
    process = forks.start(LOAD, environment)
    if moment is not None:
        time.sleep(moment)
        process.kill()
    return process.result(LONGEST)


def test_soak(forks: Forks, capsys: Any) -> None:
    seed = int(os.environ.get("SOAK_SEED", random.randrange(10**6)))
    totals: Counter[str] = Counter()
    start = time.monotonic()
    for number in range(ROUNDS):
        try:
            totals.update(one_round(forks, random.Random(f"{seed} {number}")))
        except BaseException as error:
            error.args = (f"round {number} of SOAK_SEED={seed}: {error}",)
            raise
    with capsys.disabled():
        print(
            f"\nsoak: {ROUNDS} rounds of {PROCESSES} processes in {time.monotonic() - start:.0f} s,"
            f" {totals['killed']} killed while loading; left behind: {totals['empty']} caches"
            f" without a file, {totals['partial']} with some, {totals['whole']} with all of them;"
            f" {totals['again']} files fetched by those who came next; seed {seed}"
        )
