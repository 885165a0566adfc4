"""Evaluation with the field's standard harness, lmms-eval, with reduced visual tokens.

Models are of any family of :mod:`prumerge.models.families`, asked about pictures; Video-LLaVA, in
``videos``, about clips.

    __main__    ``python -m prumerge.evaluation``; ``options`` are its arguments, checked
    tasks       the benchmarks by name: where their questions are, whether all are there
    mini_tasks  the six mini benchmarks, drawn from seeds with the truth known, and their files
    answering   questions about pictures in batches; answers kept on disk
    harness     the model for lmms-eval, which ``plugin`` tells of its name ``prumerge_llava``
    scoring     prompts and scores, how sure a score is, what the best constant answer scores
    results     what the harness returns as tables and files, a row per score, one per question
    comparison  one method, or several, on the same questions; tables; questions per second
    beside      printed numbers beside LLaVA-1.5's
    memory      the most memory that a run held
    preflight   what a run needs and how long it takes; one question of each task is tried

lmms-eval comes with the extra ``eval``: all but ``answering``, ``beside``, ``memory``,
``mini_tasks``, ``options`` and ``plugin`` need it.
"""
