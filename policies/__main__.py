"""Entry of the policy pack: `pulumi preview --policy-pack policies`."""

import sys
from pathlib import Path

# Pulumi puts this folder first on the module path; the packages are one above.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from policies.pack import main

main()
