"""Grids of settings, each point answered on the same questions, one tidy row per point.

    questions    two disjoint sets: ``choose`` and ``report``
    encodings    what the encoder makes of them, computed once, shared on disk
    answers      right or wrong for a whole set under one method, quickly
    points       a point: method, settings and questions, checked before anything runs
    rows         what a point leaves: a row with a checksum, right or wrong per question
    grids        YAML files in ``sweeps/`` to points to jobs
    worker       runs the points of a job, each on its own feet
    runner       Snakemake over the jobs that are not done
    tables       committed rows, answers and questions, read together
    leaderboard  every method at one budget
    tuning       the preset ``tuned``, chosen by a rule

Shell: ``make sweep SWEEP=neighbours``, ``make sweeps``, ``make leaderboard BUDGET=64``.
"""
