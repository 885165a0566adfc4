"""Rows of whole grids with made-up answers, for rules that read them."""

import numpy as np

from prumerge.experiments.rows import write_csv
from prumerge.experiments.sweeps import grids, tables
from prumerge.experiments.sweeps.answers import Outcome, draw_questions
from prumerge.experiments.sweeps.grids import weights_of

SUFFIX = "-40-per-family"
ASKED = {name: draw_questions(name, 4).table for name in ("choose", "report")}
QUESTIONS = 360


def write_rows(folder, share, *names, keep=lambda point: True):
    """Write grids' tables into a folder: a point answers the same questions as worse ones, more.

    ``share`` of right answers by method and settings; only the points that ``keep`` keeps.
    """
    hard = np.random.default_rng(0).permutation(np.arange(QUESTIONS) / QUESTIONS)
    for name in names:
        points = [p for p in grids.read_sweep(name, per_family=40).points if keep(p)]
        rows = []
        for point in points:
            settings = point.resolved.settings
            kept = np.full(QUESTIONS // 4, settings.budget or 576)
            outcome = Outcome(hard < share(point.method, settings), kept)
            asked = ASKED[point.questions]
            rows.append(tables.row_of(point, outcome, weights_of("mini"), asked, "cpu", 1.0))
        tables.write_table(folder / f"{name}{SUFFIX}.csv", rows)
        asked = ASKED[points[0].questions]
        copies = asked.iloc[np.arange(QUESTIONS) % len(asked)]
        copies = copies.assign(picture=np.arange(QUESTIONS) // 4)
        write_csv(copies, folder / f"questions-{points[0].questions}{SUFFIX}.csv")
