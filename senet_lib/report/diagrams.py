"""The diagrams of the README, docs/diagrams/*.svg: drawn from built networks, so that they show what the code does."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from senet_lib.analysis import plots
from senet_lib.files import replacing
from senet_lib.models import create_model
from senet_lib.models.inspection import describe
from senet_lib.project import project_root
from senet_lib.report.page import rendered

FOLDER = Path("docs") / "diagrams"
# file -> network, block and part
DRAWN = {
    "residual_block": ("resnet20", "1.1", "block"),
    "se_gate": ("se_resnet20", "1.1", "se"),
    "sk_unit": ("sk_resnet20", "1.1", "sk"),
}


def diagrams() -> dict[str, bytes]:
    """File name -> content."""
    found = {}
    with plt.rc_context(plots.house_style()):
        for name, (model, block, part) in DRAWN.items():
            axes = plots.diagram(describe(create_model(model), block, part=part))
            found[f"{name}.svg"] = rendered(axes.figure)["svg"]
            plt.close(axes.figure)
    return found


def main(root: Path | None = None) -> int:
    folder = (root or project_root()) / FOLDER
    folder.mkdir(exist_ok=True)
    for name, content in diagrams().items():
        with replacing(folder / name) as file:
            file.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
