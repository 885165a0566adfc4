"""What a visual token costs on a machine: every stage of an answer timed by itself.

``python -m prumerge.timing`` (or ``make timing``) writes rows to ``data/results/timing``: one per
stage, batch, budget, attention implementation and output length, with every parameter beside it.

Stages
    preprocess  pictures to pixel values on the device
    encode      vision tower, as far as the features need it, and scores; the stock model runs all
    reduce      scores and features to the tokens sent; no row where nothing is reduced
    prefill     projector, prompt of embeddings, language model up to the first new token
    decode      the further new tokens, one step each
    whole       preprocess and ``generate`` as a user calls them, all their overhead included

    clock       medians with spread, synchronised; peak memory of a call
    subjects    the models: mini-LLaVA, a checkpoint, or random weights of LLaVA-1.5's shape
    stages      the stages of one answer as calls
    grid        what is crossed: budgets, batches, output lengths, attention
    turns       the budgets of a batch in turns, so that a drift of the machine meets all of them
    runs        a grid of cases: rows, resumed, kept when memory runs out
    tables      from rows: stages of an answer, throughput, break-even length
    reductions  from rows of ``make bench``: the reduction against loops, encoder, its inputs
    peaks       measured beside the roofline, at a card's peaks or those measured on the spot
    efficiency  the efficiency table of the README: printed, computed, measured
"""

from prumerge.extras import needs

with needs("notebooks"):
    from prumerge.timing.clock import Spread, measure, peak_mib
    from prumerge.timing.efficiency import efficiency_table
    from prumerge.timing.grid import Grid
    from prumerge.timing.peaks import beside_roofline, measure_peaks
    from prumerge.timing.reductions import read_bench, reduction_times
    from prumerge.timing.runs import time_grid
    from prumerge.timing.stages import Case
    from prumerge.timing.subjects import Subject, load_subject
    from prumerge.timing.tables import (
        answer_times,
        break_even,
        per_token,
        read_rows,
        throughput,
    )

__all__ = [
    "Case",
    "Grid",
    "Spread",
    "Subject",
    "answer_times",
    "beside_roofline",
    "break_even",
    "efficiency_table",
    "load_subject",
    "measure",
    "measure_peaks",
    "peak_mib",
    "per_token",
    "read_bench",
    "read_rows",
    "reduction_times",
    "throughput",
    "time_grid",
]
