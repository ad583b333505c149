"""What fits into memory, under the limit of an environment variable."""

import pytest

from jaxprune import memory


def test_available_is_half_of_what_the_limit_of_the_environment_leaves(monkeypatch):
    # What is free changes with whatever else the machine does.
    monkeypatch.setattr(memory, "_free", lambda: 10**10)
    assert memory.available(None) == 5 * 10**9
    monkeypatch.setenv("JAXPRUNE_MEMORY", "1e15")
    assert memory.available(None) == 5 * 10**9
    monkeypatch.setenv("JAXPRUNE_MEMORY", "1e5")  # Python alone holds more
    assert memory.available(None) == 0
    with pytest.raises(MemoryError, match="needs"):
        memory.fits("something", 10, None)
    assert memory.available(7) == 7


@pytest.mark.parametrize("word", ["4GB", "-1", "0", "nan"])
def test_available_refuses_a_limit_that_is_no_number_of_bytes(monkeypatch, word):
    monkeypatch.setenv("JAXPRUNE_MEMORY", word)
    with pytest.raises(ValueError, match="JAXPRUNE_MEMORY: expected a number of bytes above 0, such as 4e9"):
        memory.available(None)
