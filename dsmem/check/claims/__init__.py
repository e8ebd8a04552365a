"""The article's claims, each with a verdict and evidence that is computed, measured or cited.

>>> from dsmem.check import claims
>>> claims.claim("v").verdict
'holds'
"""

from dsmem.check.claims import frontier, inference, machines, training
from dsmem.check.claims.claim import Claim, Evidence
from dsmem.table import Table
from dsmem.units import one_of

_ALL = inference.CLAIMS + training.CLAIMS + machines.CLAIMS + frontier.CLAIMS
CLAIMS: dict[str, Claim] = {
    each.letter: each for each in sorted(_ALL, key=lambda each: (len(each.letter), each.letter))
}
"""Every claim by its letter, a to x and y to af."""


def claim(letter: str) -> Claim:
    """The claim of that letter. Raises ValueError for a letter that no claim has."""
    return CLAIMS[one_of("letter", letter, CLAIMS, "a claim")]


def table() -> Table:
    """All claims: what the article says, the verdict, what is right, the kind of evidence, and the notebook."""
    columns = ("claim", "the article says", "verdict", "what is right", "evidence", "notebook")
    rows = [(c.letter, c.says, c.verdict, c.right, c.kinds, c.notebook) for c in CLAIMS.values()]
    return Table(dict.fromkeys(columns), rows, room={"the article says": 12, "what is right": 26})


def verdicts() -> dict[str, str]:
    """{letter: verdict} of every claim."""
    return {letter: each.verdict for letter, each in CLAIMS.items()}


__all__ = ["CLAIMS", "Claim", "Evidence", "claim", "table", "verdicts"]
