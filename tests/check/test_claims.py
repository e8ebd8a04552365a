"""Every claim has a verdict, and each computed figure is the one that is published or counted elsewhere."""

import pytest

from dsmem.check import claims
from dsmem.check.claims.claim import KINDS, VERDICTS, Evidence

# Figures from publications, checkpoints and data sheets, in the unit and the order of the evidence; None: ours alone.
COMPUTED = {
    "a": (26.08, 28.37, 30.46, 14.19, 7.093, 8.113),
    "b": (8.113, 6.525),
    "c": (0.25, None, 16.0, 9.281),
    "d": (0.25, 136.1, 456.0),
    "e": (5.88, 33.3),
    "f": (56.0, 60.92, 121.8, 137.1, 30.46),
    "g": (60.92, 30.46, 15.47, 25.0),
    "h": (120.0, 31.4, 16.6, 1.875),
    "i": (None, None, None),
    "j": (None, 70_272, 100 * (10 + 24 / 8 + 80 / 8) / (34 + 80)),
    "k": (71.11, 70_272),
    "l": (None, None, 23.5),
    "m": (476, 15.1),
    "n": (316, 121.6, 5.0, None, 9.0),
    "o": (15.23, 15.35, 121.8, 7.94),
    "p": (0.288, 2.147, 51),
    "q": (8.71, 3.5, 2e3 * (7_615_616_512 - 152_064 * 3584) / 204.8e9, 37.2),  # the embedding is not read
    "r": (56.25, 62.5, 1.27),
    "s": (None,),
    "t": (1178, 4800),
    "u": (64, 75),
    "v": (130.57, 121.6, 5.0),
    "w": (671_026_404_352, 37_552_282_624, 17.87),
    "x": (1.85, 7.92),
    "y": (70_272, 524_288),
    "z": (130.57, 15.23, 41.67),
    "ab": (None, None),
    "ac": (28.37, 8.25),
    "ad": (None, None, None, None, None),
    "ae": (None, None),
    "af": (None, None),
}
LETTERS = [*"abcdefghijklmnopqrstuvwxyz", "aa", "ab", "ac", "ad", "ae", "af"]


def test_no_claim_is_missing():
    assert list(claims.CLAIMS) == LETTERS


@pytest.mark.parametrize("claim", claims.CLAIMS.values(), ids=lambda claim: claim.letter)
def test_each_figure_is_found_anew(claim):
    assert claim.verdict in VERDICTS and claim.evidence and claim.because.endswith(".")
    computed = [each for each in claim.evidence if each.kind == "computed"]
    assert len(COMPUTED.get(claim.letter, ())) == len(computed)
    for each, published in zip(computed, COMPUTED.get(claim.letter, ()), strict=True):
        number = each.number
        assert number > 0 and (published is None or number == pytest.approx(published, rel=0.01)), each.what
        assert callable(each.value)  # no typed number


@pytest.mark.parametrize("claim", claims.CLAIMS.values(), ids=lambda claim: claim.letter)
def test_what_is_not_computed_has_a_source(claim):
    for each in claim.evidence:
        assert each.kind in KINDS and (each.source or each.kind == "computed"), each.what


def test_the_table_says_it_all():
    table = claims.table()
    assert table.column("claim") == LETTERS
    assert all(len(row) == 6 and all(row[:4]) for row in table)
    assert "14.19 GiB" in dict(zip(table.column("claim"), table.column("what is right"), strict=True))["a"]


def test_evidence_speaks_its_unit():
    assert Evidence("x", "computed", lambda: 2**31, "GiB").figure == "2 GiB"
    assert Evidence("x", "cited", 0.382, "%", "a paper").figure == "38.2%"
    assert str(Evidence("x", "cited", 0.037, "ms", "a paper")) == "x: 37 ms (a paper)"
    with pytest.raises(ValueError, match="kind='typed'"):
        Evidence("x", "typed", 1, "GB")
    with pytest.raises(ValueError, match="letter='ag'"):
        claims.claim("ag")
