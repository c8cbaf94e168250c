"""The records that the notebooks read, from wherever a notebook lies."""

import pytest

import d2l_utils as d2l


def test_results_has_one_row_per_run():
    runs = d2l.results("low_resolution_same_recipe")
    assert sorted(runs.variant) == ["same224", "same32", "same56", "same84"]
    assert [len(history) for history in runs.history] == [10] * 4


def test_speed_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = d2l.speed("nvidia-h100-80gb-hbm3")
    assert record["hardware"]["device"] == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("read", "name"), [(d2l.results, "low_resolutoin"), (d2l.speed, "nvidia-h200")]
)
def test_a_name_without_records_is_answered_with_those_that_have(read, name):
    with pytest.raises(FileNotFoundError, match=name) as error:
        read(name)
    assert "speed" not in str(error.value)
    assert any(there in str(error.value) for there in ("nvidia-h100", "low_resolution,"))
