"""Entry of the Pulumi program; `stacks.estate` is the program itself."""

import sys
from pathlib import Path

# Pulumi puts this folder first on the module path; the packages are one above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from stacks.estate import main

main()
