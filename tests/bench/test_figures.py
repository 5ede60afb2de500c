"""What is reckoned from the rounds."""

import pytest

from figures import BASELINE, OURS, Round, lines, paired_ratios, percentile, rate_until_last_rise, spread


def test_the_spread_is_of_all_values() -> None:
    found = spread([4, 1, 9, 2])
    assert (found.median, found.lowest, found.highest, found.count) == (3, 1, 9, 4)


@pytest.mark.parametrize(
    ("part", "expected"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (99, 99), (99.9, 100), (100, 100)]
)
def test_a_percentile_is_one_of_the_values(part: float, expected: float) -> None:
    assert percentile(range(100, 0, -1), part) == expected


def test_a_percentile_of_few_values_is_not_made_up() -> None:
    assert percentile([7], 99.9) == 7
    assert percentile([1, 2], 99) == 2
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_ratios_are_of_rounds_that_were_neighbours() -> None:
    assert paired_ratios({1: 20, 2: 30, 3: 40, 4: 1}, {1: 10, 3: 10, 4: 0, 5: 10}) == [2, 4]


def test_a_rate_ends_with_the_last_one() -> None:
    samples = [(10.0, 100), (11.0, 150), (12.0, 300), (13.0, 300), (14.0, 300)]
    assert rate_until_last_rise(samples) == 100
    assert rate_until_last_rise([(1.0, 5), (2.0, 5)]) == 0
    assert rate_until_last_rise([]) == 0


def test_a_round_that_does_not_count_is_not_in_the_table() -> None:
    rounds = [
        Round("accept", OURS, 1, {"a second": 20}),
        Round("accept", OURS, 2, {"a second": 1000}, refused="3 answers were no 2xx"),
        Round("accept", OURS, 3, {"a second": 40}),
        Round("accept", BASELINE, 1, {"a second": 10}),
        Round("accept", BASELINE, 2, {"a second": 10}),
        Round("accept", BASELINE, 3, {"a second": 10}),
        Round("warm session", "limit", 1, {"a second": 5}),
    ]
    accept, warm = lines(rounds)
    assert (accept.measure, accept.figure) == ("accept", "a second")
    assert accept.sides[OURS] == spread([20, 40])
    assert accept.ratio == spread([2, 4])
    assert warm.ratio is None
    assert list(warm.sides) == ["limit"]


def test_a_round_survives_its_journey() -> None:
    once = Round("accept", OURS, 1, {"a second": 20.5}, refused="why")
    assert Round.from_json(once.to_json()) == once
