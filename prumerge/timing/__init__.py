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
    stages      the stages of one case as calls
    runs        a grid of cases: rows, resumed, kept when memory runs out
    tables      from rows: stages of an answer, throughput, break-even length
    peaks       measured beside the roofline, at a card's peaks or those measured on the spot
    efficiency  the efficiency table of the README: printed, computed, measured
"""

from prumerge.timing.clock import Spread, measure, peak_mib
from prumerge.timing.efficiency import efficiency_table
from prumerge.timing.peaks import beside_roofline, measure_peaks
from prumerge.timing.runs import Grid, time_grid
from prumerge.timing.stages import Case, stages
from prumerge.timing.subjects import Subject, load_subject
from prumerge.timing.tables import (
    answer_times,
    break_even,
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
    "read_rows",
    "stages",
    "throughput",
    "time_grid",
]
