"""What all tests share: Hypothesis draws the same examples everywhere; figures are closed; a refusal's shape."""

import os
import re
import sys

import pytest
from hypothesis import Phase, settings

# derandomize: the same examples on every machine; no deadline: the first fake pass of a process imports for seconds
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
# HYPOTHESIS_PROFILE=random draws anew at each run, and prints how to see a failure again
settings.register_profile("random", deadline=None, database=None, print_blob=True)
# for `mutations`: that a test fails is enough, its smallest example is not looked for
settings.register_profile("quick", derandomize=True, deadline=None, database=None, phases=[Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(autouse=True)
def closed_figures():
    """No figure that a test drew with pyplot is there for the next one."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


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
