"""`python -m exo_lite.engine.detect ENGINE auto|cpu|cuda:N|mps`: print what an engine finds as JSON, or exit 1.

A daemon starts it: what an engine imports to look around takes seconds and memory that a daemon is not to have.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from exo_lite.engine.table import ENGINES


def main(engine: str, wanted: str) -> None:
    try:
        found = ENGINES[engine].detect(wanted)
    except (LookupError, ValueError) as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
