"""What is measured: answers, settings, time, tuning; and what these share.

evaluation  benchmarks, by lmms-eval
sweeps      grids of settings and methods on held-out questions
timing      every stage of an answer by the clock
finetuning  LoRA through the reduction
statistics  intervals over pictures, paired differences, significance, ranks
rows        where a result comes from, and how it is written
attention   how uneven it is, by block and head; how much of a picture kept patches see
printed     the tables that papers print
arguments   ``name=value`` on a command line, where a command puts its rows
parameters  the values a notebook is run with
"""
