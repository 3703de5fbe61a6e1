"""List a model's attention and FFN modules without loading weights: python scripts/inspect_targets.py mistral7b."""

import sys

from lorascope.cli.main import main

if __name__ == "__main__":
    main(["inspect", *sys.argv[1:]])
