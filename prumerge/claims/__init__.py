"""The paper's claims, one by one, each with what this workbook finds and a verdict.

A claim holds a function, its rule, that turns committed rows or arithmetic into a finding. No
finding and no verdict is typed: other rows, other verdicts. A claim whose rows are missing cannot
be tested here, and its finding is the command that makes them.

    judging     claims, findings, verdicts; the committed rows they rest on; rules for verdicts
    method      what the text says of the method, its counts and its own cost
    results     Tables 1, 3 to 7: benchmarks, video, sampling, modules, training, other reducers
    efficiency  Table 2, and what was measured beside it
    others      what users asked, other papers measured and reviews objected

    >>> from prumerge.claims import CLAIMS, Evidence, judge
    >>> table = judge([claim for claim in CLAIMS if claim.group == "Table 2"], Evidence())
    >>> table.loc["2-memory", "verdict"]
    'does not hold'
"""

from prumerge.claims import efficiency, method, others, results
from prumerge.claims.judging import VERDICTS, Cell, Claim, Evidence, Finding, Missing, judge

CLAIMS: tuple[Claim, ...] = (
    *method.CLAIMS,
    *results.CLAIMS,
    *efficiency.CLAIMS,
    *results.ABLATIONS,
    *results.REDUCERS,
    *others.CLAIMS,
)
