"""A canonical Huffman code of bytes, vectorised in NumPy: frequent symbols get short codes.

Codes have at most `LIMIT` bits, so that one lookup in a table of 2**LIMIT entries finds a symbol and its length. A code
must be read from its start; so the text is cut into chunks of `CHUNK` symbols whose starts are kept, and all chunks are
decoded at once, symbol by symbol. (A GPU's decoder does the same with its threads.)
"""

import dataclasses

import numpy as np

LIMIT = 15  # as in RFC 1951, section 3.2.7
CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Coded:
    """Coded bytes: the bits, the code's length for each of 256 symbols (0: never used), and where each chunk starts."""

    data: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray
    count: int

    @property
    def nbytes(self) -> int:
        """Bits of all symbols, half a byte for each length, and 8 bytes for each start."""
        return self.data.nbytes + len(self.lengths) // 2 + self.starts.nbytes


def code_lengths(counts: np.ndarray, limit: int = LIMIT) -> np.ndarray:
    """Bits of each symbol's code, 0 for a symbol that never comes: the best code of at most `limit` bits.

    counts: (symbols,), how often each comes. By the package-merge of Larmore and Hirschberg (J. ACM 37, 1990). A single
    symbol gets one bit. Raises ValueError for no symbols, or for more than `limit` bits can tell apart.

    >>> code_lengths(np.array([5, 0, 1, 1])).tolist()
    [1, 0, 2, 2]
    """
    used = np.flatnonzero(counts)
    if not 1 <= len(used) <= 2**limit:
        raise ValueError(f"counts has {len(used)} symbols that come; allowed: 1 to {2**limit}, which {limit} bits tell")
    lengths = np.zeros(len(counts), dtype=np.uint8)
    if len(used) == 1:
        lengths[used] = 1
        return lengths
    coins = sorted(((int(counts[symbol]), (place,)) for place, symbol in enumerate(used)), key=_worth)
    packages = []
    for _ in range(limit):
        coins_and_packages = sorted(coins + packages, key=_worth)
        pairs = zip(coins_and_packages[::2], coins_and_packages[1::2], strict=False)
        packages = [(a[0] + b[0], a[1] + b[1]) for a, b in pairs]
    for _, places in packages[: len(used) - 1]:
        np.add.at(lengths, used[list(places)], 1)
    return lengths


def codes(lengths: np.ndarray) -> np.ndarray:
    """The canonical codes of such lengths, as whole numbers: in order of length, then of symbol (RFC 1951, 3.2.2).

    >>> [f"{code:b}" for code in codes(np.array([1, 2, 2]))]
    ['0', '10', '11']
    """
    found, code, before = np.zeros(len(lengths), dtype=np.uint32), 0, 0
    for symbol in sorted(np.flatnonzero(lengths), key=lambda symbol: (lengths[symbol], symbol)):
        code <<= int(lengths[symbol]) - before
        before = int(lengths[symbol])
        found[symbol] = code
        code += 1
    return found


def encode(symbols: np.ndarray) -> Coded:
    """Code `symbols`, (count,) of uint8. Raises ValueError for none.

    >>> coded = encode(np.array([7, 7, 7, 9], dtype=np.uint8))
    >>> coded.data.tolist(), decode(coded).tolist()  # one bit each: 0, 0, 0, 1
    ([16], [7, 7, 7, 9])
    """
    lengths = code_lengths(np.bincount(symbols, minlength=256))
    code, width = codes(lengths)[symbols], lengths[symbols]
    ends = np.cumsum(width, dtype=np.int64)
    begins = ends - width
    bits = np.zeros(int(ends[-1]), dtype=np.uint8)
    for place in range(int(width.max())):
        longer = width > place
        bits[begins[longer] + place] = code[longer] >> (width[longer] - place - 1) & 1
    return Coded(np.packbits(bits), lengths, begins[::CHUNK], len(symbols))


def decode(coded: Coded) -> np.ndarray:
    """The symbols again: (count,), uint8."""
    symbol_of, length_of = _table(coded.lengths)
    data = np.append(coded.data, np.zeros(3, dtype=np.uint8)).astype(np.uint32)
    windows = data[:-2] << 16 | data[1:-1] << 8 | data[2:]  # 24 bits from each byte on
    places = coded.starts.copy()
    out = np.zeros((min(CHUNK, coded.count), len(coded.starts)), dtype=np.uint8)
    for row in out:
        # past its end the last chunk reads on, to no harm: what it finds there is cut off below
        window = windows[np.minimum(places >> 3, len(windows) - 1)]
        window = window >> (24 - LIMIT - (places & 7)).astype(np.uint32) & (2**LIMIT - 1)
        row[:] = symbol_of[window]
        places += length_of[window]
    return out.T.reshape(-1)[: coded.count]


def _table(lengths):
    """For each number of LIMIT bits the symbol that it begins with, and its length."""
    symbol_of, length_of = np.zeros(2**LIMIT, dtype=np.uint8), np.ones(2**LIMIT, dtype=np.int64)
    for symbol, code in enumerate(codes(lengths)):
        spare = LIMIT - int(lengths[symbol])
        if lengths[symbol]:
            span = slice(int(code) << spare, int(code) + 1 << spare)
            symbol_of[span], length_of[span] = symbol, lengths[symbol]
    return symbol_of, length_of


def _worth(coin):
    return coin[0]
