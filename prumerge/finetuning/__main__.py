"""``python -m prumerge.finetuning``; see :mod:`prumerge.finetuning.command`."""

import sys

from prumerge.extras import needs
from prumerge.finetuning.command import main

if __name__ == "__main__":
    with needs("notebooks", "train"):
        sys.exit(main())
