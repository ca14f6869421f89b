"""A Slurm of this machine: programs that take jobs, run them and forget them, as Slurm's do.

``install`` writes them into a folder for ``PATH``. Their state is in files there: ``next`` holds
the number of the next job, ``jobs/NUMBER_INDEX`` the process of an element and the name of its job,
and ``cancelled.log`` the words of each ``scancel``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["FIRST", "install", "queue"]

FIRST = 4100
"""Number of the first job."""

SBATCH = """
import os, re, subprocess, sys
from pathlib import Path
state = Path(__file__).parent
if "--test-only" in sys.argv:
    sys.exit(0)
script = Path(sys.argv[-1])
text = script.read_text()
name = re.search(r"--job-name=(\\S+)", text)[1]
array = re.search(r"--array=0-(\\d+)", text)
number = int((state / "next").read_text())
(state / "next").write_text(str(number + 1))
for index in range(int(array[1]) + 1) if array else [None]:
    own = {"SLURM_JOB_ID": str(number)}
    if array:
        own |= {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(index)}
    process = subprocess.Popen(
        ["bash", str(script)], env=os.environ | own, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    element = f"{number}_{index}" if array else str(number)
    (state / "jobs" / element).write_text(f"{process.pid} {name}")
print(f"Submitted batch job {number}")
"""

SRUN = """
import os, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    option = words.pop(0)
    if option in ("--output", "--error"):
        words.pop(0)
os.execvp(words[0], words)
"""

SQUEUE = """
import os, sys
from pathlib import Path
wanted = sys.argv[sys.argv.index("-j") + 1].split(",")
for job in (Path(__file__).parent / "jobs").iterdir():
    pid = int(job.read_text().split()[0])
    try:
        alive = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        alive = False
    if alive and job.name.partition("_")[0] in wanted:
        print(job.name)
"""

SCANCEL = """
import os, signal, sys
from pathlib import Path
state = Path(__file__).parent
with (state / "cancelled.log").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
names = [word.removeprefix("--name=") for word in sys.argv[1:] if word.startswith("--name=")]
numbers = [word for word in sys.argv[1:] if not word.startswith("-")]
for job in (state / "jobs").iterdir():
    pid, name = job.read_text().split()
    if name in names or job.name.partition("_")[0] in numbers:
        try:
            os.killpg(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass
"""


def install(folder: Path, leave_out: str = "") -> Path:
    """Write the programs; return the folder for ``PATH``."""
    (folder / "jobs").mkdir(parents=True)
    (folder / "next").write_text(str(FIRST))
    programs = {"sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE, "scancel": SCANCEL}
    for name, text in programs.items():
        if name != leave_out:
            path = folder / name
            path.write_text(f"#!{sys.executable}{text}")
            path.chmod(0o755)
    return folder


def queue(folder: Path) -> list[str]:
    """Return the names of the jobs that are alive."""
    names = []
    for job in (folder / "jobs").iterdir():
        pid, name = job.read_text().split()
        try:
            os.kill(int(pid), 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            names.append(name)
    return names
