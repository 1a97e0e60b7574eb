"""Runs Python code in a process that can import one library and its dependencies, and nothing else."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution

REFUSAL = """\
import sys
sys.path.append(sys.argv[1])
for absent in ("crosscale", "flax", "optax", "PIL"):
    try:
        __import__(absent)
    except ImportError:
        continue
    raise SystemExit(f"{absent} can be imported")
"""


def link_library(name, folder):
    """Links the files of a library and of everything it needs into `folder`."""
    waiting, seen = [name], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        try:
            found = distribution(current)
        except PackageNotFoundError:  # needed on another platform only
            continue
        for entry in {file.parts[0] for file in found.files if ".." not in file.parts}:
            target = found.locate_file(entry)
            link = folder / entry
            if not link.exists() and not entry.endswith(".pth"):
                link.symlink_to(target)
        waiting += [re.match(r"[\w.-]+", need)[0] for need in found.requires or [] if "extra ==" not in need]


def run_isolated(code, folder, *words):
    """Standard output of the code; -I and -S keep the environment's packages and .pth files away."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", REFUSAL + code, str(folder), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
