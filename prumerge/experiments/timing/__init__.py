"""What a visual token costs on a machine: every stage of an answer timed by itself.

``python -m prumerge.timing`` (or ``make timing``) writes rows to ``data/results/timing``: one per
stage, batch, budget, attention implementation and output length, with every parameter beside it.

Stages
    preprocess  pictures to pixel values on the device
    encode      vision tower, as far as the features need it, and scores; the stock model runs all,
                and projects and packs tiles and frames at once
    reduce      scores and features to the tokens sent; no row where nothing is reduced
    prefill     projector, prompt of embeddings, language model up to the first new token
    decode      the further new tokens, one step each
    whole       preprocess and ``generate`` as a user calls them, all their overhead included

    clock   medians with spread, synchronised; peak memory of a call
    stages  the models that are timed, and the stages of one answer as calls
    runs    a grid of cases in turns: rows, resumed, kept when memory runs out
    tables  what rows say: stages, throughput, break-even length, the reduction, README's table
    peaks   measured beside the roofline, at a card's peaks or those measured on the spot
    bench   ``make bench``: the reduction alone, by the benchmarks in ``tests/speed``
"""

from prumerge.models.checks import needs

with needs("notebooks"):
    from prumerge.experiments.timing.clock import Spread, measure, peak_mib
    from prumerge.experiments.timing.peaks import beside_roofline, measure_peaks
    from prumerge.experiments.timing.runs import Grid, time_grid
    from prumerge.experiments.timing.stages import Case, Subject, load_subject
    from prumerge.experiments.timing.tables import (
        answer_times,
        break_even,
        efficiency_table,
        per_token,
        read_bench,
        read_rows,
        reduction_times,
        throughput,
    )
