"""Experts: how many of them a batch of tokens needs."""


def touched_experts(n_routed_experts, num_experts_per_tok, tokens):
    """Experts of one layer that at least one of `tokens` chooses, on average, if every choice were equally likely.

    A token leaves a given expert out with probability 1 - k/E, and all tokens together with that to the power of their
    number. A real router has favourites, so that it touches fewer.

    >>> round(touched_experts(256, 8, 64), 1)
    222.4
    """
    return n_routed_experts * (1 - (1 - num_experts_per_tok / n_routed_experts) ** tokens)
