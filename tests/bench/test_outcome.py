import pytest

from tests.bench import outcome


def test_memory_without_pages_of_libraries_is_the_peak_less_files_above_the_first_start():
    """Of 0.70 GiB at its peak a first trial has 0.20 in files, of 0.85 a second has 0.20: 0.65 at most, above 0.40 before both."""
    first = {"anonymous_before_gb": 0.40, "peak_gb": 0.70, "files_after_gb": 0.20}
    second = {"anonymous_before_gb": 0.45, "peak_gb": 0.85, "files_after_gb": 0.20}
    assert outcome.anonymous_above_runtime_gb([first, second]) == pytest.approx(0.25)
