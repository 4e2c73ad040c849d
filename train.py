"""python train.py [VERB] [OVERRIDES]: see `python train.py --help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # First on the path: a snapshot runs its own code, whatever is installed beside it.
    sys.path.insert(0, str(Path(__file__).resolve().parent))

    from cli.main import main

    sys.exit(main(sys.argv[1:]))
