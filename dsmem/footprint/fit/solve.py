"""The largest whole number for which something still fits: the line through two points, then halving; exact."""

from collections.abc import Callable

BOUND = 2**40
"""Where the search ends: a number this large that still fits is not limited by memory."""


def largest(spare: Callable[[int], int], least: int = 1, most: int | None = None, bound: int = BOUND) -> int | None:
    """The largest n from `least` to `most` for which `spare(n)` is at least 0; 0 where `least` itself does not fit.

    spare: bytes that are left with n, never more for a larger n. most: None for none; then None is returned where even
    `bound` fits. Where bytes grow by a line, as the capacity equation has it, the first guess is right, and two
    more points prove it: n fits and n + 1 does not. Elsewhere halving goes on until they do.

    >>> largest(lambda n: 1000 - 7 * n), largest(lambda n: 1000 - 7 * n, most=9), largest(lambda n: 3 - 7 * n)
    (142, 9, 0)
    """
    seen = {}

    def at(n):
        if n not in seen:
            seen[n] = spare(n)
        return seen[n]

    if (most is not None and most < least) or at(least) < 0:
        return 0
    low, high = _reach(at, least, bound) if most is None else (least, most)
    if at(high) >= 0:
        return most
    turn = 0
    while high - low > 1:
        guess = (low + high) // 2 if turn % 3 == 2 else _crossing(at, low, high)
        guess = min(max(guess, low + 1), high - 1)
        low, high = (guess, high) if at(guess) >= 0 else (low, guess)
        turn += 1
    return low


def _reach(at, least, bound):
    """A number that fits and a larger one that does not, from small ones up; or `bound` itself."""
    low, high = least, 2 * least
    while high < bound and at(high) >= 0:
        beyond = _crossing(at, low, high) + 1 if at(low) > at(high) else 0
        low, high = high, min(max(2 * high, beyond), bound)
    return low, high


def _crossing(at, low, high):
    """Where the line through two points falls to 0, rounded down."""
    return low + at(low) * (high - low) // (at(low) - at(high))
