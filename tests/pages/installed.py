"""What someone gets who installs the wheel: run by the empty environment's own Python, from an empty folder.

python tests/pages/installed.py bare       # the wheel without extras
python tests/pages/installed.py digits     # with the extra `digits`: trains, and runs the README's Python
"""

import json
import re
import subprocess
import sys
from importlib.metadata import distribution, files
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from stand_ins import write_weights

ROOT = Path(__file__).parent.parent.parent
COMMAND = Path(sys.executable).parent / "crosscale"


def crosscale(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, check=False)


def check_bare() -> None:
    """The package is whole and alone, and says which extra is missing."""
    held = [Path(str(file)) for file in files("crosscale") or []]
    tops = {file.parts[0] for file in held if file.suffix in (".py", ".yaml", ".html", ".typed", ".jpg")}
    assert tops == {"crosscale"}, f"the wheel also brings {tops - {'crosscale'}}"
    wanted = {
        file.relative_to(ROOT)
        for file in (ROOT / "crosscale").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    missing = wanted - set(held)
    assert not missing, f"the wheel lacks {sorted(map(str, missing))}"
    metadata = distribution("crosscale").metadata
    done = crosscale("--version")
    assert done.stdout.split() == ["crosscale", metadata["Version"]], done
    assert metadata["Description-Content-Type"] == "text/markdown"
    done = crosscale("train", "--config", "smoke")
    assert done.returncode == 2, done
    assert "pip install 'crosscale[digits]'" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def check_digits() -> None:
    """The shortest run, and the first Python block of the README."""
    done = crosscale("train", "--config", "smoke", "--output-dir", "run", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["top1"] > 0.3, result
    write_weights(Path("crossvit_9_240.safetensors"), "crossvit_9_240")
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert snippet is not None
    scope: dict[str, object] = {"__name__": "readme"}
    exec(compile(snippet[1], "README.md", "exec"), scope)
    assert getattr(scope["logits"], "shape", None) == (1, 10)
    assert Path("timm.safetensors").is_file()


if __name__ == "__main__":
    import crosscale as package

    assert ROOT not in Path(package.__file__).parents or ".venv-dist" in package.__file__, package.__file__
    {"bare": check_bare, "digits": check_digits}[sys.argv[1]]()
    print(f"installed {sys.argv[1]}: as it should be")
