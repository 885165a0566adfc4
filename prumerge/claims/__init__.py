"""The paper's claims, one by one, each with what this workbook finds and a verdict.

A claim holds a function, its rule, that turns committed rows or arithmetic into a finding. No
finding and no verdict is typed: other rows, other verdicts. A claim whose rows are missing cannot
be tested here, and its finding is the command that makes them.

    claim       a claim, a finding, the four verdicts, the table of all
    evidence    committed rows, LLaVA-1.5's where there are some, else the mini-LLaVA's
    rules       verdicts from intervals, and the words for them
    text        what the text says of the method and of its counts
    cost        what the text says of the time of the reduction itself
    main        Table 1
    efficiency  Table 2, and what was measured beside it
    ablations   Tables 3 to 6: video, sampling, modules, training
    reducers    Table 7
    users       what users asked in the repository of the release
    others      what other papers measured and reviews objected

    >>> from prumerge.claims import CLAIMS, Evidence, judge
    >>> table = judge([claim for claim in CLAIMS if claim.group == "Table 2"], Evidence())
    >>> table.loc["2-memory", "verdict"]
    'does not hold'
"""

from prumerge.claims import ablations, cost, efficiency, main, others, reducers, text, users
from prumerge.claims.claim import VERDICTS, Cell, Claim, Finding, Missing, judge
from prumerge.claims.evidence import Evidence

CLAIMS: tuple[Claim, ...] = (
    *text.CLAIMS,
    *cost.CLAIMS,
    *main.CLAIMS,
    *efficiency.CLAIMS,
    *ablations.CLAIMS,
    *reducers.CLAIMS,
    *users.CLAIMS,
    *others.CLAIMS,
)
"""All of them: the paper's in its order, then what users and others say."""

__all__ = ["CLAIMS", "VERDICTS", "Cell", "Claim", "Evidence", "Finding", "Missing", "judge"]
