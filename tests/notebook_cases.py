"""Which notebooks there are, and with which other values each must run too.

A case is chosen at an edge: the smallest input, a degenerate one, another method. The values in
the notebooks themselves are not repeated: nbval runs those. No cell may take longer than TIMEOUT_S.
"""

TIMEOUT_S = 120

# By name, so that a notebook that gets lost is missed.
EXPECTED = [
    "00_quickstart",
    "01_attention_sparsity",
    "02_iqr_selection",
    "train_mini_llava",
]

# notebook -> case -> parameters
CASES: dict[str, dict[str, dict]] = {}
