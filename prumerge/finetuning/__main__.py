"""``python -m prumerge.finetuning``; see :mod:`prumerge.finetuning.command`."""

import sys

from prumerge.finetuning.command import main

if __name__ == "__main__":
    sys.exit(main())
