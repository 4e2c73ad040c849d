"""The console script `galley`, also `python -P -m galley`: runs train.py of the program that is installed."""

import runpy

from galley.paths import ROOT


def main() -> None:
    """Run train.py, which puts its own folder first on the path, and exit with its code."""
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


if __name__ == "__main__":
    main()
