"""Tables of the README, made from committed rows, so that no number in them is typed.

A block of the README between two markers holds what the function of that name gives::

    <!-- rows: mini-scores -->
    ...
    <!-- end of rows -->

``TABLES`` lists the functions: add one that reads a file of ``data`` and returns lines of
Markdown, put the two markers into the README, and run ``python -m prumerge.readme`` (or
``make readme``). A test compares the README with what the rows give today.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from prumerge.models.checks import needs
from prumerge.paths import MINI, ROOT, written_whole
from prumerge.settings import suggestion

with needs("notebooks"):
    import pandas as pd

    from prumerge.experiments.evaluation.comparison import main_scores, score_table
    from prumerge.experiments.evaluation.results import read_results
    from prumerge.experiments.finetuning import arms
    from prumerge.experiments.markdown import markdown_table, percent
    from prumerge.experiments.statistics import compare, interval
    from prumerge.experiments.sweeps.tables import read_sweep_rows
    from prumerge.experiments.timing.tables import efficiency_table

_BLOCK = re.compile(r"(<!-- rows: (\S+) -->\n)(.*?)(<!-- end of rows -->)", re.DOTALL)


def mini_scores() -> list[str]:
    """Return how the mini-LLaVA answers each family of questions, beside the best constant."""
    scores = pd.read_csv(MINI / "scores.csv")
    table = pd.DataFrame({"family of questions": scores["family"]})
    table["right with all tokens"] = scores["correct"].map(percent)
    table["best constant answer"] = scores["best_constant"].map(percent)
    return markdown_table(table)


def leaderboard(budget: int = 64) -> list[str]:
    """Return all tokens' answers, then every method at one budget, best first, against PruMerge."""
    rivals = read_sweep_rows("rivals")
    pictures, base = rivals.questions["picture"], "prumerge"
    scores = rivals.where(budget=budget).scores("method")
    table = compare(scores, pictures, base)
    every = rivals.where(method="all").scores("method")["all"]
    ahead = every.mean() - scores[base].mean()
    rows = [_standing("all 576 tokens", *interval(every, pictures), ahead, "-")]
    for name, found in table.iterrows():
        beyond = "yes" if found["p_holm"] < 0.05 else "no"
        told = (found["difference"], beyond) if name != base else (None, "-")
        rows.append(_standing(name, *found[["accuracy", "low", "high"]], *told))
    columns = ["method", "right", "95 % interval", f"points against `{base}`", "beyond chance"]
    return markdown_table(pd.DataFrame(rows, columns=columns))


def _standing(
    name: str, mean: float, low: float, high: float, ahead: float | None, beyond: str
) -> list[str]:
    apart = "-" if ahead is None else f"{100 * ahead:+.1f}"
    return [name, f"{100 * mean:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}", apart, beyond]


def evaluation() -> list[str]:
    """Return the mini-LLaVA's scores on its six benchmarks by method, with intervals."""
    table = score_table(main_scores(read_results("mini")[0])).fillna("")
    return markdown_table(table.rename_axis("method").reset_index())


def tuning_arms() -> list[str]:
    """Return the arms of notebook 09: tokens sent, untuned beside tuned, means over the seeds."""
    answers = pd.read_csv(arms.ROWS / "answers.csv")
    right = 100 * answers.pivot_table("correct", "question", ["tokens", "tuned"])
    rows = [
        [tokens, *(_with_interval(right[tokens, tuned]) for tuned in (False, True))]
        for tokens in arms.TOKENS
    ]
    return markdown_table(pd.DataFrame(rows, columns=["visual tokens", "untuned", "tuned alike"]))


def _with_interval(values: pd.Series) -> str:
    return "{:.1f} % ({:.1f} to {:.1f})".format(*interval(values))


TABLES: dict[str, Callable[[], list[str]]] = {
    "mini-scores": mini_scores,
    "leaderboard": leaderboard,
    "efficiency": efficiency_table,
    "evaluation": evaluation,
    "arms": tuning_arms,
}


def render(text: str, tables: Mapping[str, Callable[[], list[str]]] | None = None) -> str:
    """Fill every marked block of a text anew, without ``tables`` by :data:`TABLES`.

    A name without function, or a marker without partner, is a ValueError.

    Example:
        >>> text = "<!-- rows: two -->\\nold\\n<!-- end of rows -->"
        >>> render(text, {"two": lambda: ["1", "2"]}).splitlines()[1:3]
        ['1', '2']
    """
    tables = TABLES if tables is None else tables
    blocks = _BLOCK.findall(text)
    if not len(blocks) == text.count("<!-- rows:") == text.count("<!-- end of rows"):
        raise ValueError("a marker has no partner: <!-- rows: NAME --> ... <!-- end of rows -->")
    for _, name, *_ in blocks:
        if name not in tables:
            raise ValueError(f"no table {name!r}: {suggestion(name, tables)}")
    return _BLOCK.sub(lambda b: "".join([b[1], "\n".join(tables[b[2]]()), "\n", b[4]]), text)


def main(readme: Path = ROOT / "README.md") -> int:
    """Bring the README up to its rows; say which tables it holds."""
    text = readme.read_text(encoding="utf-8")
    try:
        filled = render(text)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with written_whole(readme) as partial:
        partial.write_text(filled, encoding="utf-8")
    print(f"{readme.name} {'was up to date' if filled == text else 'changed'}: {', '.join(TABLES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
