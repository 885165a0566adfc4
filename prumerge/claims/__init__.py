"""The paper's claims, one by one, each with what this workbook finds and a verdict.

A claim holds a function, its rule, that turns committed rows or arithmetic into a finding. No
finding and no verdict is typed: other rows, other verdicts. A claim whose rows are missing cannot
be tested here, and its finding is the command that makes them.

    evidence    the committed rows that claims rest on
    judging     claims, who makes them and what about, findings, verdicts
    rules       rules for verdicts, at equal handling
    method      what the text says of the method, its counts and its own cost
    results     Table 1: benchmarks
    tables      Tables 3 to 7: video, sampling, modules, training, other reducers
    efficiency  Table 2, and what was measured beside it
    users       what users of the release asked
    others      what other papers measured and reviews objected

    >>> from prumerge.claims import CLAIMS, Evidence, judge
    >>> table = judge([claim for claim in CLAIMS if claim.where.startswith("Table 2")], Evidence())
    >>> table.loc["2-memory", "verdict"]
    'does not hold'
"""

from prumerge.claims import efficiency, method, others, results, tables, users
from prumerge.claims.evidence import Evidence, Missing
from prumerge.claims.judging import BY, GROUPS, VERDICTS, Cell, Claim, Finding, judge

CLAIMS: tuple[Claim, ...] = (
    *method.CLAIMS,
    *results.CLAIMS,
    *efficiency.CLAIMS,
    *tables.ABLATIONS,
    *tables.AGAINST,
    *users.CLAIMS,
    *others.CLAIMS,
)
