"""The web tier with three processes, and a parent that replaces one which is silent for 3 s. UNGUARDED: it does not look."""

import os
import sys
from functools import partial

from shop.web import process
from shop.web.__main__ import main
from workers import prefork

SILENT_S = 3.0

if __name__ == "__main__":
    silent_s = 3600.0 if os.environ.get("UNGUARDED") else SILENT_S
    process.prefork.serve = partial(prefork.serve, silent_s=silent_s)
    sys.argv += ["--workers", "3"]
    main()
