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
    "07_cost_model",
    "train_mini_llava",
]

# notebook -> case -> parameters
CASES: dict[str, dict[str, dict]] = {
    "07_cost_model": {
        "the larger model on the oldest card in INT8, two new tokens": {
            "model": "13b", "card": "V100", "precision": "int8", "batches": [1, 8], "new_tokens": 2,
        },
        "a card of one's own, too small, one token in and out": {
            "card": "own", "own_card": [300, 50, 100, 3], "precision": "w4a16", "batches": [1],
            "kept_tokens": [1], "new_tokens": 1,
        },
        "the mini-LLaVA": {"model": "mini", "card": "A100", "text_tokens": 9, "kept_tokens": [2]},
        "no text, one visual token": {
            "text_tokens": 0, "visual_tokens": 1, "kept_tokens": [1], "card": "H200",
            "batches": [3],
        },
    },
}  # fmt: skip
