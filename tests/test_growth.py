"""The check of growth that tests of hostile input rest on."""

import pytest
from helpers.growth import assert_linear


def test_quadratic_code_is_told_from_linear_code():
    assert_linear(lambda size: sum(range(size)), 200_000)
    with pytest.raises(AssertionError, match="more than linear"):
        assert_linear(lambda size: sum(i * j for i in range(size) for j in range(size)), 150)
