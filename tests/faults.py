"""Does a run survive what happens to runs? A campaign of faults against small trainings, each in a process of its own.

    python tests/faults.py [--runs N] [--seed S] [--only WORDS]

Every fault must end in one of two ways: the resumed run has the metrics and the export of the undisturbed one, bit for bit, or
the program stops with a sentence. An export that is neither absent nor the undisturbed one's is a failure in any case. The seed
chooses the moments; what a process is doing at one is up to the machine. A table is printed; the exit code is 1 if a run failed.
"""

import argparse
import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from processes import free_port
from world import CLOCK, config_file, make_world, metrics

from mpo_jax.checkpoints.run_state import UNSIGNED, flaw

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ["--config.epochs=6", "--config.metrics.tensorboard=True", "--config.compilation_cache="]
RESUME = "--config.checkpoint.resume=auto"
SILENCE = 10  # seconds after which a process that says nothing is given up
PATIENCE = 600  # seconds for a run to end, on the slowest machine


@dataclasses.dataclass
class Campaign:
    """Where the runs are, what the undisturbed ones took and left, by their number of processes, and the dice."""

    folder: Path
    dice: random.Random
    undisturbed: dict[int, tuple[Path, float]] = dataclasses.field(default_factory=dict)

    def start(self, name: str, count: int, *settings: str) -> "Process":
        config = config_file(self.folder / "world", self.folder / name)
        return Process(self.folder / name, [f"--config={config}", *SETTINGS, *settings], self.folder / "compiled", count)

    def whole(self, count: int) -> Path:
        return self._undisturbed(count)[0]

    def seconds(self, count: int) -> float:
        return self._undisturbed(count)[1]

    def _undisturbed(self, count: int) -> tuple[Path, float]:
        if count not in self.undisturbed:
            for name in (f"first of {count}", f"whole of {count}"):  # the first one compiles
                process, began = self.start(name, count), time.monotonic()
                assert process.end() == 0, process.said
            self.undisturbed[count] = process.run, time.monotonic() - began
        return self.undisturbed[count]

    def the_same(self, process: "Process") -> bool:
        whole = self.whole(process.count)
        return metrics(process.run) == metrics(whole) and exported(process.run) == exported(whole)


class Process:
    """A training that runs beside us, in `count` processes of one device each; their output goes to files."""

    def __init__(self, folder: Path, arguments: list[str], compiled: Path, count: int):
        self.folder, self.run, self.count = folder, folder / "run", count
        # Every program is kept, however fast it compiles: a resumed run then starts in a few seconds.
        fast = {"JAX_COMPILATION_CACHE_DIR": str(compiled), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        fast |= {"XLA_FLAGS": "--xla_backend_optimization_level=0", "HF_HUB_OFFLINE": "1"}
        meet = [f"--config.hosts.{x}" for x in (f"coordinator=127.0.0.1:{free_port()}", f"count={count}", f"timeout={SILENCE}")]
        self.all: list[subprocess.Popen] = []
        for index in range(count):
            with (folder / f"out{index}.txt").open("w") as out, (folder / f"err{index}.txt").open("w") as err:
                command = [sys.executable, "-m", "mpo_jax.train", *arguments]
                command += [*meet, f"--config.hosts.index={index}"] if count > 1 else []
                self.all.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | fast, stdout=out, stderr=err))
        self.process = self.all[0]

    def wait_for(self, happens: Callable[[], bool]) -> bool:
        """Whether that happened before the process ended."""
        while self.process.poll() is None:
            if happens():
                return True
            time.sleep(0.001)
        return False

    def end(self) -> int:
        """Of the first process, when all are over. None may take longer than `PATIENCE`: it hangs, and is killed."""
        until = time.monotonic() + PATIENCE
        try:
            for process in self.all:
                process.wait(timeout=until - time.monotonic())
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end after {PATIENCE} s: {self.said[-2000:]}") from None
        return self.process.returncode

    def kill(self) -> None:
        for process in self.all:
            process.kill()
        for process in self.all:
            process.wait()

    @property
    def codes(self) -> str:
        """Of all processes, which are over."""
        return ("code " if self.count == 1 else "codes ") + ", ".join(str(process.returncode) for process in self.all)

    @property
    def said(self) -> str:
        return "".join((self.folder / f"{what}{i}.txt").read_text() for what in ("out", "err") for i in range(self.count))

    @property
    def sentence(self) -> str | None:
        """The one that the program ended with, if it did. Libraries that fail to close their files may add to it."""
        said = [line for line in (self.folder / "err0.txt").read_text().splitlines() if line.startswith("error: ")]
        return said[-1] if said and self.process.returncode == 2 else None


def exported(run: Path) -> dict[str, list[bytes]] | None:
    """The bytes of every file; the card without its lines on the clock and the port at which processes meet."""
    own = (*(name.encode() for name in CLOCK), b'  "coordinator":')
    lines = lambda path: [line for line in path.read_bytes().splitlines() if not line.startswith(own)]  # noqa: E731
    folder = run / "export"
    return {path.name: lines(path) for path in sorted(folder.iterdir())} if folder.is_dir() else None


def shown(sentence: str) -> str:
    """Short, and without the folders of the moment."""
    return re.sub(r"/\S*/", "", sentence)[:90] + " ..."


def lines_of(process: Process) -> int:
    path = process.run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


# ---- moments


def at_random(campaign: Campaign, process: Process) -> None:
    until = time.monotonic() + campaign.dice.uniform(0, campaign.seconds(process.count))
    process.wait_for(lambda: time.monotonic() > until)


def in_an_update(campaign: Campaign, process: Process) -> None:
    lines = campaign.dice.randint(2, len(metrics(campaign.whole(process.count))) - 3)
    process.wait_for(lambda: lines_of(process) >= lines)
    time.sleep(campaign.dice.uniform(0, 0.02))


def in_a_save(campaign: Campaign, process: Process) -> None:
    lines = campaign.dice.randint(1, 10)
    process.wait_for(lambda: lines_of(process) >= lines)
    process.wait_for(lambda: any(process.run.glob("checkpoints/*tmp*")))
    time.sleep(campaign.dice.uniform(0, 0.15))


def in_the_export(campaign: Campaign, process: Process) -> None:
    process.wait_for((process.run / "reward_gap.json").exists)  # the start of a run also tries whether it may write there
    process.wait_for((process.run / "export.partial").exists)
    time.sleep(campaign.dice.uniform(0, 0.02))


# ---- faults: each leaves the process ended, and says what happened


def killed(moment: Callable[[Campaign, Process], None]) -> Callable[[Campaign, Process], str]:
    def fault(campaign: Campaign, process: Process) -> str:
        moment(campaign, process)
        process.kill()
        return process.codes

    return fault


def killed_one(moment: Callable[[Campaign, Process], None]) -> Callable[[Campaign, Process], str]:
    """The other process has to end by itself, and not as if all were well."""

    def fault(campaign: Campaign, process: Process) -> str:
        moment(campaign, process)
        victim = campaign.dice.choice(process.all)
        victim.kill()
        began = time.monotonic()
        process.end()
        assert all(other.returncode not in (0, 2, 42) for other in process.all), process.said[-2000:]
        return f"{process.codes}, the other {time.monotonic() - began:.0f} s later"

    return fault


def asked_one(campaign: Campaign, process: Process) -> str:
    """Both stop after the same update."""
    in_an_update(campaign, process)
    campaign.dice.choice(process.all).send_signal(signal.SIGTERM)
    process.end()
    assert [each.returncode for each in process.all] in ([42, 42], [0, 0]), process.said[-2000:]
    return process.codes + "".join(f", {stop}" for stop in re.findall(r"interrupted after update \d+", process.said))


def asked(number: signal.Signals, moment: Callable[[Campaign, Process], None]) -> Callable[[Campaign, Process], str]:
    def fault(campaign: Campaign, process: Process) -> str:
        moment(campaign, process)
        process.process.send_signal(number)
        code = process.end()
        assert code in (0, 42, -number), process.said[-2000:]
        return f"code {code}" + "".join(f", {stop}" for stop in re.findall(r"interrupted after update \d+", process.said))

    return fault


def damaged(how: Callable[[random.Random, Path], None], *, every: bool = False) -> Callable[[Campaign, Process], str]:
    """A file of the newest checkpoint, or of `every` one, after a kill."""

    def fault(campaign: Campaign, process: Process) -> str:
        process.wait_for(lambda: lines_of(process) >= 8 and len(kept(process)) > 1)
        process.kill()
        hurt = []
        for step in kept(process) if every else kept(process)[-1:]:
            files = [path for path in sorted(step.rglob("*")) if path.is_file() and path.name not in UNSIGNED]
            how(campaign.dice, file := campaign.dice.choice(files))
            hurt.append(str(file.relative_to(process.run / "checkpoints")))
        return " ".join(hurt)

    return fault


def kept(process: Process) -> list[Path]:
    found = [path for path in process.run.glob("checkpoints/step_*") if path.name.removeprefix("step_").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def truncate(dice: random.Random, path: Path) -> None:
    os.truncate(path, dice.randrange(path.stat().st_size))


def flip(dice: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def remove(dice: random.Random, path: Path) -> None:
    path.unlink()


def changed_data(campaign: Campaign, process: Process) -> str:
    """And changed back once the run has refused it. Without a checkpoint it would be a new run."""
    in_an_update(campaign, process)
    process.wait_for(lambda: any(flaw(step) is None for step in kept(process)))
    process.kill()
    file = campaign.folder / "world" / campaign.dice.choice(["rows.jsonl", "model/tokenizer_config.json", "model/config.json"])
    before = file.read_bytes()
    lines = before.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[1:] + lines[:1]) if file.suffix == ".jsonl" else before + b"\n")
    try:
        again = campaign.start(process.folder.name, 1, RESUME)
        code = again.end()
    finally:
        file.write_bytes(before)
    assert again.sentence and "belongs to another run" in again.sentence, again.said[-2000:]
    return f"{file.name}: code {code}"


def full_disk(moment: Callable[[Campaign, Process], None]) -> Callable[[Campaign, Process], str]:
    """The output folder is a small file system, which is filled at the moment and has room again afterwards."""

    def fault(campaign: Campaign, process: Process) -> str:
        moment(campaign, process)
        ballast = process.run / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        code = process.end()
        ballast.unlink()
        assert code == 0 or process.sentence, process.said[-2000:]
        return f"code {code}" + (f", {shown(process.sentence)}" if process.sentence else "")

    return fault


FAULTS: dict[str, Callable[[Campaign, Process], str]] = {
    "SIGKILL at random": killed(at_random),
    "SIGKILL in an update": killed(in_an_update),
    "SIGKILL in a save": killed(in_a_save),
    "SIGKILL in the export": killed(in_the_export),
    "SIGTERM in an update": asked(signal.SIGTERM, in_an_update),
    "SIGTERM at random": asked(signal.SIGTERM, at_random),
    "SIGINT in an update": asked(signal.SIGINT, in_an_update),
    "a flipped bit": damaged(flip),
    "a truncated file": damaged(truncate),
    "a missing file": damaged(remove),
    "every checkpoint hurt": damaged(flip, every=True),
    "a changed file": changed_data,
    "full disk in a save": full_disk(in_a_save),
    "full disk at the end": full_disk(in_the_export),
    "two: SIGKILL of one in an update": killed_one(in_an_update),
    "two: SIGKILL of one in a save": killed_one(in_a_save),
    "two: SIGKILL of both at random": killed(at_random),
    "two: SIGTERM of one": asked_one,
}


def one(campaign: Campaign, number: int, name: str) -> tuple[str, str, bool]:
    """(what happened, how it ended, whether that is well) of one fault and the runs that follow it."""
    folder = campaign.folder / f"{number}"
    mounted = name.startswith("full disk") and mount(folder / "run")
    if name.startswith("full disk") and not mounted:
        return "no small file system could be mounted here", "skipped", True
    process = None
    try:
        count = 2 if name.startswith("two:") else 1
        whole = exported(campaign.whole(count))
        process = campaign.start(folder.name, count, *([RESUME] if mounted else []))
        what = FAULTS[name](campaign, process)
        process.kill()
        for _ in range(3):
            if exported(process.run) not in (None, whole):
                return what, "an export that is not the undisturbed run's", False
            process = campaign.start(folder.name, count, RESUME)
            if (code := process.end()) == 0:
                went_on = [line for line in process.said.splitlines() if line.startswith("checkpoint: continuing")]
                since = went_on[-1].removeprefix("checkpoint: continuing ") if went_on else "from the start"
                nothing_lost = "interrupted" not in what or what.endswith(f"interrupted {since}")
                same = campaign.the_same(process)
                return what, f"{since}: " + ("the same" if same else "other numbers"), same and nothing_lost
            if sentence := process.sentence:
                return what, shown(sentence), exported(process.run) in (None, whole)
        return what, f"code {code}: {process.said[-2000:]}", False
    except AssertionError as error:
        return " ".join(str(error).split()), "a traceback, a code that is not documented, or no end", False
    finally:
        if process is not None:
            process.kill()
        if mounted:
            subprocess.run(["umount", "--lazy", folder / "run"], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def mount(folder: Path) -> bool:
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=len(FAULTS), help="the faults in turn, until so many are done")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="the faults with this in their name")
    given = parser.parse_args()
    names = [name for name in FAULTS if given.only in name]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), random.Random(given.seed))
        make_world(campaign.folder / "world")
        print(f"an undisturbed run takes {campaign.seconds(1):.0f} s\n")
        print("| fault | what happened | afterwards | s |\n|---|---|---|---|", flush=True)
        for number in range(given.runs):
            name, began = names[number % len(names)], time.monotonic()
            what, ended, well = one(campaign, number, name)
            failed += not well
            print(f"| {name} | {what} | {'' if well else 'FAILED: '}{ended} | {time.monotonic() - began:.0f} |", flush=True)
    print(f"\n{given.runs - failed} of {given.runs} went on to the same numbers or stopped with a sentence")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
