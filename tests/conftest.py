"""What all tests share: one fixed Hypothesis profile, and the shape of a refusal."""

import re

import pytest
from hypothesis import settings

# derandomize: the same examples on every machine; no deadline: the first fake pass of a process imports for seconds
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")


@pytest.fixture
def refuses():
    """`refuses(call, *words)`: the call raises ValueError with one sentence that names all the words."""

    def check(call, *words):
        with pytest.raises(ValueError) as caught:
            call()
        sentence = str(caught.value)
        assert re.search(r"\n|[.!?]\s+[A-Z]", sentence) is None, f"more than one sentence: {sentence}"
        assert [word for word in words if str(word) not in sentence] == [], sentence

    return check
