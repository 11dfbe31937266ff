"""Write environment.yml, for conda users, with the pins of requirements.lock. `make lock` runs it."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"^([A-Za-z0-9][^\s\\]*==[^\s\\]+(?: ; [^\\]+?)?)\s*\\?$", re.MULTILINE)

HEADER = """\
# Written by `make lock` from requirements.lock: do not edit. Conda brings Python; the versions are pip's own.
name: senet
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def environment(lock: str) -> str:
    """The text of environment.yml, given the text of requirements.lock."""
    pins = [pin.strip() for pin in PIN.findall(lock)]
    lines = [f'      - "{pin}"\n' for pin in (*pins, "--editable .")]
    return HEADER + "".join(lines)


if __name__ == "__main__":
    text = environment((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    (ROOT / "environment.yml").write_text(text, encoding="utf-8")
