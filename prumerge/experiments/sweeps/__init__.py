"""Grids of settings, each point answered on the same questions, one tidy row per point.

    answers      two disjoint sets of questions, and right or wrong for a whole set under one method
    grids        YAML files in ``grids/`` to points, checked before anything runs, a few to a job
    tables       what points leave: rows with a checksum, answers and questions, read together
    run          the points that have no row yet, by Snakemake; a killed run goes on
    leaderboard  every method at one budget; the preset ``tuned``, chosen by a rule

Shell: ``make sweep SWEEP=neighbours``, ``make sweeps``, ``make leaderboard BUDGET=64``.
"""
