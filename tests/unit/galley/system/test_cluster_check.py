from __future__ import annotations

from dataclasses import replace

import pytest

from galley.errors import ConfigError
from galley.system.cluster_check import HostReport, check_hosts

SAME = HostReport("a", "3.11.7", {"torch": "2.13.0", "numpy": "2.0"}, 1000.0)


def test_hosts_that_agree_pass() -> None:
    assert check_hosts([SAME, SAME, replace(SAME, host="b", time=1004.0)]) == []


def test_every_difference_is_named_with_its_hosts() -> None:
    other = replace(SAME, host="b", python="3.12.1", packages={"torch": "2.12.0"})
    with pytest.raises(ConfigError) as caught:
        check_hosts([SAME, other, replace(SAME, host="c")])
    text = str(caught.value)
    assert "torch: is not the same on all hosts: 2.12.0 on b; 2.13.0 on a, c" in text
    assert "numpy: is not the same on all hosts: 2.0 on a, c; missing on b" in text
    assert "python: is not the same on all hosts: 3.11.7 on a, c; 3.12.1 on b" in text
    assert len(caught.value.problems) == 3


def test_a_clock_that_is_off_is_a_warning() -> None:
    (warning,) = check_hosts([SAME, replace(SAME, host="b", time=1060.0)])
    assert "the clock of b is 60 s ahead of that of a" in warning
