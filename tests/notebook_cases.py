"""Which notebooks there are, and with which other values each must run too.

A case is chosen at an edge: the smallest input, a degenerate one, another method. The values in
the notebooks themselves are not repeated: nbval runs those. No cell may take longer than TIMEOUT_S.
"""

from pathlib import Path

import sklearn.datasets

from prumerge.paths import DATA, MINI

TIMEOUT_S = 120

FIXTURES = Path(__file__).parent / "fixtures"
# A folder of one's own pictures: the two photographs that come with scikit-learn.
PHOTOGRAPHS = str(Path(sklearn.datasets.__file__).parent / "images")

# By name, so that a notebook that gets lost is missed.
EXPECTED = [
    "00_quickstart",
    "01_attention_sparsity",
    "02_iqr_selection",
    "03_spatial_tokens",
    "04_token_merging",
    "05_open_choices",
    "06_rivals",
    "07_cost_model",
    "08_measured_speed",
    "09_finetuning",
    "10_llava_evaluation",
    "11_against_the_paper",
    "12_high_resolution",
    "13_video",
    "explorer",
    "train_mini_llava",
]

# notebook -> case -> parameters
CASES: dict[str, dict[str, dict]] = {
    "00_quickstart": {
        "another method, one question per family, no budget": {
            "method": "divprune", "budget": 0, "per_family": 1, "seed": 1,
        },
        "one token of photographs of one's own": {
            "images": PHOTOGRAPHS, "budget": 1, "method": "prumerge", "question": "what is there ?",
        },
        "a budget beyond the picture": {"budget": 1000, "method": "top_k", "per_family": 1},
    },
    "01_attention_sparsity": {
        "one photograph and one scene": {"count": 1, "scenes": 1, "seed": 3},
        "drawn scenes on top, the model's own tower, a model by its folder": {
            "images": "", "tower": "model", "model": str(MINI), "count": 2, "scenes": 5,
        },
    },
    "02_iqr_selection": {
        "one photograph, no distance to the fence": {"count": 1, "scenes": 1, "whisker": 0.0},
        "no outliers at all": {"count": 2, "scenes": 4, "whisker": 1.0e6, "tower": "model"},
        "photographs of one's own, all heads as one": {
            "images": PHOTOGRAPHS, "score": "full_width", "tower": "model", "scenes": 4,
        },
        "other quartiles, no class token, a tower by its folder": {
            "lower_quantile": 0.4, "upper_quantile": 0.6, "score": "received", "count": 2,
            "tower": str(MINI), "scenes": 4,
        },
    },
    "05_open_choices": {
        "another grid looked at closely": {"closer": "scores"},
    },
    "06_rivals": {
        "the fewest tokens, few questions of one's own": {"budget": 16, "per_family": 4},
    },
    "03_spatial_tokens": {
        "one photograph of one's own, two spaced tokens per outlier": {
            "images": PHOTOGRAPHS, "count": 1, "spatial_factor": 2, "budgets": [1, 1000],
        },
    },
    "04_token_merging": {
        "one photograph of one's own, a model by its folder, more neighbours than patches": {
            "images": PHOTOGRAPHS, "count": 1, "model": str(MINI), "neighbours": 1000,
        },
    },
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
    "09_finetuning": {
        "a file in LLaVA's format, photographs, everything sent, text among it": {
            "data": str(FIXTURES / "llava-instructions.json"), "images": PHOTOGRAPHS,
            "budget": 0, "steps": 1, "batch_size": 3, "rank": 1,
        },
        "one token, the model by its folder, bad records left out": {
            "budget": 1, "steps": 2, "batch_size": 1, "on_problem": "skip", "model": str(MINI),
        },
    },
    "11_against_the_paper": {
        "no rows but those of sweeps": {"results": str(FIXTURES)},
    },
    "12_high_resolution": {
        "the fewest tokens, drawn scenes alone": {"budget": 160, "images": "", "seed": 2},
    },
    "13_video": {
        "another clip, the fewest tokens, a task of three, a model by its folder": {
            "budget": 128, "clip": 30, "clips": 1, "model": str(DATA / "mini-video"),
            "tasks": ["mini_activitynetqa"], "limit": 1,
        },
    },
    "explorer": {
        "a photograph of one's own, another method and card": {
            "file": f"{PHOTOGRAPHS}/flower.jpg", "method": "visionzip", "budget": 64,
            "card": "A100",
        },
        "one object, one token, a model by its folder": {
            "objects": 1, "budget": 1, "model": str(MINI), "method": "prumerge", "costed": "mini",
            "photograph": "", "tower": "the model's own",
        },
    },
    "08_measured_speed": {
        "the larger model, which has rows of few batches": {
            "shown": "7b-random", "new_tokens": 16, "repeats": 1,
        },
        "rows of two devices, where all tokens ran out of memory and few did not; one token live": {
            "rows": str(FIXTURES / "rows-of-two-devices"), "measured_on": "1 threads",
            "new_tokens": 8, "live_batch": 1, "live_budget": 1, "repeats": 1,
        },
    },
    "10_llava_evaluation": {
        "one benchmark, a model with random weights": {
            "model": "random-7b-cut", "tasks": ["mini_mme"], "methods": ["full", "release@32"],
            "limit": 2, "rounds": 1,
        },
        "one method, a question of each, another folder": {
            "model": str(MINI), "methods": ["paper"], "limit": 1, "rounds": 1,
        },
    },
    "train_mini_llava": {
        "full size, the second round again, on from the shipped model, exported": {
            "grid": 24, "scale": 0.0004, "start": str(MINI), "skip": 5, "questions": 1,
            "export_to": "data/runs/smoke-mini",
        },
        "the smallest scenes, another seed": {"grid": 8, "scale": 0.001, "seed": 5, "questions": 1},
    },
}  # fmt: skip

# notebook -> case of it -> what this run must tell
SAYS: dict[str, dict[str, str]] = {
    "00_quickstart": {
        "a budget beyond the picture": "budget = 1000 is more than a picture has: all 576 tokens",
    },
}

# notebook -> what it refuses, in a sentence -> parameters
REFUSED: dict[str, dict[str, dict]] = {
    "07_cost_model": {
        "kept_tokens=[145, 700]: none can be above visual_tokens=576": {"kept_tokens": [145, 700]},
        "own_card=[1000, 150]: give GB/s": {"own_card": [1000, 150]},
    },
    "08_measured_speed": {
        "rows of shown='minni', measured_on='' have answers of [] tokens": {"shown": "minni"},
    },
    "00_quickstart": {
        "unknown method 'prumrge': did you mean 'prumerge'": {"method": "prumrge"},
    },
    "03_spatial_tokens": {
        "no model 'dinov9': give": {"tower": "dinov9"},
    },
    "12_high_resolution": {
        "budget=100 has no rows: choose one of [160, 320, 640]": {"budget": 100},
    },
    "13_video": {
        "budget=64 has no rows: choose one of [128, 256, 512]": {"budget": 64},
    },
    "explorer": {
        "photograph='dog' does not work: give one of": {"photograph": "dog"},
    },
    "01_attention_sparsity": {
        "tower='dinov2-smal' is no tower: did you mean 'dinov2-small'": {"tower": "dinov2-smal"},
        "broken.jpg is no readable picture": {
            "images": str(FIXTURES / "broken"),
            "tower": "model",
            "scenes": 1,
        },
    },
    "02_iqr_selection": {
        "whisker must be a finite number of at least 0, got -1.0": {"whisker": -1.0},
        "lower_quantile must be below upper_quantile, got 0.25 and 0.1": {"upper_quantile": 0.1},
    },
}
