"""Tables of the README, made from committed rows, so that no number in them is typed.

A block of the README between two markers holds what the function of that name gives::

    <!-- rows: mini-scores -->
    ...
    <!-- end of rows -->

``TABLES`` lists the functions: add one that reads a file of ``data`` and returns lines of
Markdown, put the two markers into the README, and run ``python -m prumerge.readme`` (or
``make readme``). A test compares the README with what the rows give today.
"""

import importlib
import json
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prumerge.models import families as packages
from prumerge.models.checks import needs
from prumerge.models.families import FAMILIES
from prumerge.paths import EMBEDDED, MINI, NOTEBOOKS, ROOT, written_whole
from prumerge.settings import suggestion

with needs("notebooks"):
    import nbformat
    import pandas as pd

    from prumerge.experiments.evaluation.comparison import main_scores, score_table
    from prumerge.experiments.evaluation.results import read_results
    from prumerge.experiments.finetuning import arms
    from prumerge.experiments.markdown import markdown_table, percent
    from prumerge.experiments.statistics import compare, interval
    from prumerge.experiments.sweeps import transfer
    from prumerge.experiments.sweeps.handling import (
        EQUAL,
        STEPS,
        at,
        best_handlings,
        read_handling,
        three_ways,
        told,
        worth,
    )
    from prumerge.experiments.sweeps.tables import read_sweep_rows
    from prumerge.experiments.sweeps.tuning import ladder
    from prumerge.experiments.timing.tables import efficiency_table

REDUCING = ["exact", "at most", "on average"]
"""What methods send that save tokens; ``enlarged_picture`` sends all whatever the budget."""

_BLOCK = re.compile(r"(<!-- rows: (\S+) -->\n)(.*?)(<!-- end of rows -->)", re.DOTALL)


def photographs() -> list[str]:
    """Return what notebook 01 has printed below its photographs, as it is committed."""
    path = NOTEBOOKS / "01_attention_sparsity.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    (cell,) = (cell for cell in cells if cell.id == "attention-sparsity-pictures-claim")
    told = "".join(output.text for output in cell.outputs)
    return textwrap.fill(told, 100, break_on_hyphens=False).splitlines()


def mini_scores() -> list[str]:
    """Return how the mini-LLaVA answers each family of questions, beside the best constant."""
    scores = pd.read_csv(MINI / "scores.csv")
    table = pd.DataFrame({"family of questions": scores["family"]})
    table["right with all tokens"] = scores["correct"].map(percent)
    table["best constant answer"] = scores["best_constant"].map(percent)
    return markdown_table(table)


def leaderboard(budget: int = 64) -> list[str]:
    """Return every method at one budget and equal handling, best first, and as it is published.

    Beyond chance: after a correction for all tests of the table. The last two columns leave equal
    handling: as the method's own code sends, and as other questions found best for it.
    """
    rivals = read_sweep_rows("rivals")
    own = read_sweep_rows("tuned").where(method="tuned", budget=budget)
    asked = rivals.where(budget=budget, sends=REDUCING) + own
    every = rivals.where(method="all")
    pictures, base = rivals.questions["picture"], "prumerge"
    ways = three_ways(asked, best_handlings(read_handling()))
    table = compare({name: found["equal"][1] for name, found in ways.items()}, pictures, base)
    (whole,) = every.scores("method").values()
    ahead = whole.mean() - ways[base]["equal"][1].mean()
    last = ["-", "-"]
    rows = [["all tokens", "576", *_standing(*interval(whole, pictures), ahead, "-"), *last]]
    for name, found in table.iterrows():
        beyond = "yes" if found["p_holm"] < 0.05 else "no"
        tested = (found["difference"], beyond) if name != base else (None, "-")
        cells = _standing(*found[["accuracy", "low", "high"]], *tested)
        last = [_in_handling(ways[name][way]) for way in ("published", "best")]
        rows.append([name, _tokens(at(asked.where(method=name)).rows), *cells, *last])
    columns = ["method", "tokens", f"right ({told(EQUAL)})", "95 % interval"]
    columns += [f"points against `{base}`", "beyond chance", "as published", "best handling"]
    return markdown_table(pd.DataFrame(rows, columns=columns))


def _standing(mean: float, low: float, high: float, ahead: float | None, beyond: str) -> list[str]:
    apart = "-" if ahead is None else f"{100 * ahead:+.1f}"
    return [f"{100 * mean:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}", apart, beyond]


def _in_handling(found: tuple | None) -> str:
    return "-" if found is None else f"{100 * found[1].mean():.1f} % ({told(found[0])})"


def _tokens(rows: pd.DataFrame) -> str:
    """Write tokens per picture: the mean, with fewest and most where pictures differ."""
    mean, fewest, most = rows["tokens_per_image"].mean(), rows["fewest_tokens"], rows["most_tokens"]
    spread = "" if fewest.min() == most.max() else f" ({fewest.min()} to {most.max()})"
    return f"{mean:.0f}{spread}" if not spread or mean == round(mean) else f"{mean:.1f}{spread}"


def handling(budget: int = 64) -> list[str]:
    """Return what order and position ids are worth for each method, in points with intervals.

    Bold: beyond chance after a correction for all tests of the table.
    """
    table = worth(read_sweep_rows("rivals").where(sends=REDUCING), budget)
    table["cell"] = [_gain(*row) for row in table[[*_GAIN, "p_holm"]].itertuples(index=False)]
    wide = table.pivot_table("cell", "method", "step", aggfunc="first")[list(STEPS)].fillna("-")
    best = table[table["step"] == "original positions"].set_index("method")["difference"]
    wide = wide.loc[best.sort_values(ascending=False, kind="stable").index]
    return markdown_table(wide.rename_axis("method").reset_index())


_GAIN = ["difference", "low", "high"]


def _gain(mean: float, low: float, high: float, p: float) -> str:
    cell = f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"**{cell}**" if p < 0.05 else cell


def two_towers() -> list[str]:
    """Return by budget how the rankings of both embedded models agree, at equal handling.

    Beyond chance: after a correction for all tests of both models and all budgets.
    """
    models = transfer.read_models()
    ranked, agree = transfer.rankings(models), transfer.agreements(models)
    ahead, first = transfer.ahead(ranked), transfer.leaders(ranked)
    rows = []
    for budget, found in agree.iterrows():
        agreed = "{:.2f} ({:.2f} to {:.2f})".format(*found[["mean", "low", "high"]])
        chance = f"{found['p_holm']:.4f}"
        better = ", ".join(ahead[budget]) or "none"
        rows.append([budget, int(found["methods"]), agreed, chance, *first.loc[budget], better])
    columns = ["tokens", "methods", "rank correlation", "p", *(f"leads on {m}" for m in first)]
    return markdown_table(pd.DataFrame(rows, columns=[*columns, "beats `prumerge` on both"]))


def tiles(budgets: Sequence[int] = (160, 320, 640)) -> list[str]:
    """Return what `mini-next` answers with few tokens, by what they are and how they are shared."""
    trials = read_sweep_rows("tiles-mini-next-48-per-family")
    usual = {"model": "mini-next", "markers": "rows", "positions": "original"}
    ways = {
        "the most attended patches, shared by size": ("top_k", "size", None),
        "the same, shared by the base's attention": ("top_k", "base", None),
        "the same, half to the base": ("top_k", "size", 0.5),
        "the same, crops alone": ("top_k", "size", 0.0),
        "the same, base first": ("top_k", "size", 1.0),
        "`prumerge`, shared by size": ("prumerge", "size", None),
        "random patches, shared by size": ("random", "size", None),
    }
    pictures, every = trials.questions["picture"], trials.where(method="all", **usual)
    whole = _with_interval(100 * every.right.mean(axis=1), pictures)
    rows = [[f"all patches, {_tokens(every.rows)}", *[whole] * len(budgets)]]
    for way, (method, share, part) in ways.items():
        own = trials.where(method=method, share=share, base_share=part, **usual)
        found = [100 * own.where(budget=budget).right.mean(axis=1) for budget in budgets]
        rows.append([way, *(_with_interval(right, pictures) for right in found)])
    columns = ["sent", *(f"right with {budget} tokens" for budget in budgets)]
    return markdown_table(pd.DataFrame(rows, columns=columns))


def tuned() -> list[str]:
    """Return what handling, PruMerge's own choices and merging add, over three budgets."""
    table, rows = ladder(), []
    bounds = ["difference", "difference_low", "difference_high", "p_holm"]
    for name, found in table.iterrows():
        right = "{:.1f} % ({:.1f} to {:.1f})".format(*100 * found[["accuracy", "low", "high"]])
        gain = _gain(*found[bounds]) if found["against"] else "-"
        rows.append([name, right, found["against"] or "-", gain])
    columns = ["sent", "right at 32, 64 and 128 tokens", "against", "points"]
    return markdown_table(pd.DataFrame(rows, columns=columns))


def evaluation() -> list[str]:
    """Return the mini-LLaVA's scores on its six benchmarks by method, with intervals."""
    table = score_table(main_scores(read_results("mini")[0])).fillna("")
    return markdown_table(table.rename_axis("method").reset_index())


def tuning_arms() -> list[str]:
    """Return the arms of notebook 09: tokens sent, untuned beside tuned, means over the seeds."""
    runs, answers = arms.read_rows()
    right = arms.right_by_arm(answers)
    sent = runs.groupby("tokens")["visual_tokens"].first()
    rows = [
        [sent[tokens], tokens, handling]
        + [_with_interval(right[tokens, handling, steps]) for steps in (0, arms.Plan.steps)]
        for tokens, handling in arms.ARMS
    ]
    columns = ["visual tokens", "which", "order, positions", "untuned", "tuned alike"]
    return markdown_table(pd.DataFrame(rows, columns=columns))


def _with_interval(values: pd.Series, pictures: pd.Series | None = None) -> str:
    return "{:.1f} % ({:.1f} to {:.1f})".format(*interval(values, pictures))


def families() -> list[str]:
    """Return the families that ``attach`` knows, and the trained models of each that are here.

    What they encode and where they are reduced is told by the docstring of their package.
    """
    lines = [line.split(maxsplit=2) for line in (packages.__doc__ or "").splitlines()]
    told = {line[1]: line[2] for line in lines if len(line) == 3}
    rows = []
    for kind, name in FAMILIES.items():
        family = importlib.import_module(f"{packages.__name__}.{name}").FAMILY
        rows.append(
            {
                "class of transformers": f"[`{kind}`](prumerge/models/families/{name}.py)",
                "tower, what is reduced": told[kind],
                "score": "received attention" if family.received else "class attention",
                "shown": " and ".join(_SHOWN[kind] for kind in family.pixels),
                "trained ones here": ", ".join(_trained_as(kind)) or "-",
            }
        )
    return markdown_table(pd.DataFrame(rows))


_SHOWN = {"image": "pictures", "video": "videos"}


def _trained_as(kind: str) -> list[str]:
    """Name the embedded models of a class."""
    configs = {name: folder / "config.json" for name, folder in EMBEDDED.items()}
    return [
        f"`{name}`"
        for name, path in configs.items()
        if path.exists() and json.loads(path.read_text())["architectures"] == [kind]
    ]


TABLES: dict[str, Callable[[], list[str]]] = {
    "photographs": photographs,
    "families": families,
    "mini-scores": mini_scores,
    "leaderboard": leaderboard,
    "handling": handling,
    "two-towers": two_towers,
    "tuned": tuned,
    "tiles": tiles,
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
