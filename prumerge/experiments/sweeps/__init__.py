"""Grids of settings, each point answered on the same questions, one tidy row per point.

    answers      two disjoint sets of questions, and right or wrong for a whole set under one method
    grids        YAML files in ``grids/`` to points, checked before anything runs, a few to a job
    tables       what points leave: rows with a checksum, answers and questions, read together
    run          the points that have no row yet, by Snakemake; a killed run goes on
    handling     order and position ids as a factor: comparisons at one, each method's own and best
    leaderboard  every method at one budget and handling; the preset ``tuned``, chosen by a rule
    families    what guessing answers; questions split by what a smaller picture answers
    tuning       what the tuned presets add on other questions; what to recommend
    steps        from the released method to all tokens; every reading of the paper

Shell: ``make sweep SWEEP=neighbours``, ``make sweeps``, ``make leaderboard BUDGET=64``.
"""
