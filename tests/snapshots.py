"""Small snapshots of the six real data sets: the hub's layout and columns, pictures of ours.

Columns and configurations are those that lmms-eval 0.7.3 reads; odd sizes of the pictures, a prompt
that is no word of the mini-LLaVA and missing options are as in the real ones.
"""

from pathlib import Path

import numpy as np

from prumerge.experiments.evaluation.mini_tasks import encode_picture, write

INSTRUCTION = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."

# By task: rows of its snapshot's split, what a perfect model answers, and the prompts it sees.
VQAV2 = [
    {
        "question": "What color is the car?",
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": number}
            for number, answer in enumerate(["red"] * 8 + ["dark red", "maroon"], start=1)
        ],
        "question_id": 262148000,
        "multiple_choice_answer": "red",
        "question_type": "what color is the",
        "answer_type": "other",
        "image_id": 262148,
    },
    {
        "question": "Is this man a professional?",
        "answers": [
            {"answer": "yes", "answer_confidence": "yes", "answer_id": number + 1}
            for number in range(10)
        ],
        "question_id": 262148001,
        "multiple_choice_answer": "yes",
        "question_type": "is this",
        "answer_type": "yes/no",
        "image_id": 262148,
    },
]
SCIENCEQA = [
    {
        "question": "Which animal is larger?",
        "choices": ["mouse", "elephant", "cat"],
        "answer": 1,
        "hint": "Look at the picture.",
        "subject": "natural science",
    },
    {
        "question": "Is it a solid?",
        "choices": ["no", "yes"],
        "answer": 0,
        "hint": "",
        "subject": "natural science",
    },
]
TEXTVQA = [
    {
        "question": "what is the brand of this camera?",
        "answers": ["dakota"] * 9 + ["clos culombu"],
        "question_id": 34602,
        "image_id": "003a8ae2ef43b901",
        "ocr_tokens": ["DAKOTA", "DIGITAL"],
    },
    {
        "question": "what does the small white text spell?",
        "answers": ["copenhagen"] * 10,
        "question_id": 34603,
        "image_id": "003a8ae2ef43b902",
        "ocr_tokens": [],
    },
]
POPE = [
    {
        "id": str(number),
        "question_id": str(number + 1),
        "question": f"Is there a {thing} in the image?",
        "answer": answer,
        "image_source": "COCO_val2014_000000310196",
        "category": "adversarial",
    }
    for number, (thing, answer) in enumerate(
        [("snowboard", "yes"), ("dining table", "no"), ("car", "yes"), ("bed", "no")]
    )
]
MME = [
    {
        "question_id": f"{category}/0001.png",
        "question": f"Is this {thing}? Please answer yes or no.",
        "answer": answer,
        "category": category,
    }
    for category in ("OCR", "code_reasoning")
    for thing, answer in (("a word", "Yes"), ("a number", "No"))
]
MMBENCH = [
    {
        "index": 7 + 1_000_000 * turn,
        "question": "Which is the main topic of the image?",
        "hint": "nan",
        "answer": answer,
        **dict(zip("ABCD", options, strict=True)),
        "category": "image_topic",
        "source": "reading",
        "L2-category": "coarse_perception",
        "comment": "nan",
        "split": "dev",
    }
    for turn, (answer, options) in enumerate(
        [("B", ["A car", "A tree", "nan", "nan"]), ("A", ["A tree", "A car", "nan", "nan"])]
    )
]

REPOSITORIES = {
    "VQAv2": {("default", "validation"): VQAV2},
    "ScienceQA": {("ScienceQA-IMG", "test"): SCIENCEQA, ("ScienceQA-FULL", "test"): SCIENCEQA[:1]},
    "textvqa": {("default", "validation"): TEXTVQA},
    "POPE": {("Full", split): POPE for split in ("adversarial", "popular", "random")}
    | {("default", "test"): POPE},
    "MME": {("default", "test"): MME},
    "MMBench": {("en", "dev"): MMBENCH},
}

ANSWERS = {
    "prumerge_vqav2_val": ["red", "Yes"],
    "prumerge_scienceqa_img": ["B", "A"],
    "prumerge_textvqa_val": ["Dakota", "Copenhagen."],
    "prumerge_textvqa_val_ocr": ["dakota", "copenhagen"],
    "prumerge_pope_random": ["Yes", "No", "yes", "no"],
    "prumerge_pope_popular": ["Yes", "No", "yes", "no"],
    "prumerge_pope_adversarial": ["Yes", "No", "yes", "yes"],  # one wrong, F1 of 0.8
    "prumerge_mme": ["Yes", "No", "Yes", "No"],
    "prumerge_mmbench_en_dev": ["B", "A"],
}

PROMPTS = {
    "prumerge_vqav2_val": "What color is the car?" + INSTRUCTION,
    "prumerge_scienceqa_img": "Context: Look at the picture.\nWhich animal is larger?\n"
    "A. mouse\nB. elephant\nC. cat" + LETTER,
    "prumerge_textvqa_val": "What is the brand of this camera?" + INSTRUCTION,
    "prumerge_textvqa_val_ocr": "What is the brand of this camera?\nReference OCR token: "
    "DAKOTA, DIGITAL" + INSTRUCTION,
    "prumerge_pope_random": "Is there a snowboard in the image?" + INSTRUCTION,
    "prumerge_mme": "Is this a word?" + INSTRUCTION,
    "prumerge_mmbench_en_dev": "Which is the main topic of the image? There are several options:\n"
    "A. A car\nB. A tree\n" + LETTER,
}


NUMBERS = {
    "vqav2": len(VQAV2),
    "scienceqa": len(SCIENCEQA),
    "textvqa": len(TEXTVQA),
    "pope": len(POPE),
    "mme": len(MME),
    "mmbench": len(MMBENCH),
}
"""Questions of these snapshots, in the place of those that the publishers state."""


def save_snapshots(folder: Path) -> Path:
    """Write a snapshot of each repository; return the folder."""
    rng = np.random.default_rng(0)
    for repository, splits in REPOSITORIES.items():
        for (config, split), rows in splits.items():
            pictures = rng.integers(0, 256, (len(rows), 40, 56, 3)).astype(np.uint8)
            path = folder / repository / config / f"{split}-00000-of-00001.parquet"
            write(path, [(encode_picture(p), r) for p, r in zip(pictures, rows, strict=True)])
        (folder / repository / "README.md").write_text(_card(splits), encoding="utf-8")
    return folder


def _card(splits) -> str:
    """The YAML head with which the hub tells configurations and splits."""
    lines = ["---", "configs:"]
    for config in dict.fromkeys(config for config, _ in splits):
        lines += [f"- config_name: {config}", "  data_files:"]
        for name, split in splits:
            if name == config:
                lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    return "\n".join([*lines, "---", ""])
