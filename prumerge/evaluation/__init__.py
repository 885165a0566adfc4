"""LLaVA evaluation with the field's standard harness, lmms-eval, with reduced visual tokens.

    plugin      tells lmms-eval of the model ``prumerge_llava``
    harness     that model: requests in, answers out, in batches, resumable
    options     its arguments, checked and turned into settings
    answering   questions about pictures, answered in batches of unequal visual token counts
    sharing     a picture asked about several times is encoded once per batch
    journal     answers on disk as they are given, so that a killed run goes on
    mini_tasks  the six mini benchmarks, drawn from seeds with the truth known, and their files
    scoring     prompts and scores of the tasks, by the harness's own functions
    sources     where the data sets of the real benchmarks are
    results     what the harness returns, as a row per score and a row per question
    effort, memory  what answers took
    certainty   how sure a score is, and what the best constant answer scores
    comparison  several methods on the same questions
    saved       comparisons as files
    tables      comparisons for a reader; ``beside`` puts printed numbers beside LLaVA-1.5's
    speed       questions per second, methods in turns
    runs        all of it in one call; ``python -m prumerge.evaluation`` from a shell
    preflight   what a run needs and how long it takes, before it starts; ``inventory`` looks for
                the questions, ``trial`` asks one of each task

lmms-eval comes with the extra ``eval``: ``harness``, ``scoring``, ``results``, ``runs`` and what
builds on them need it.
"""
