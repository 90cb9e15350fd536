from __future__ import annotations

from exo_lite.domain.repeats import MAX_SUBJECTS, Backoff, Repeats


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_first_lines_are_told_and_the_next_span_says_how_many_were_not():
    clock = Clock()
    repeats = Repeats(clock, burst=2, every_s=30.0)
    assert [repeats.tell("disk") for _ in range(5)] == [0, 0, None, None, None]
    assert repeats.tell("net") == 0  # another subject
    clock.now_s = 29.9
    assert repeats.tell("disk") is None
    clock.now_s = 30.0
    assert repeats.tell("disk") == 4
    assert repeats.tell("disk") == 0
    clock.now_s = 1000.0
    assert repeats.tell("disk") == 0


def test_subjects_without_number_take_no_memory_without_bound():
    repeats = Repeats(Clock())
    for number in range(3 * MAX_SUBJECTS):
        assert repeats.tell(str(number)) == 0
    assert len(repeats._windows) == MAX_SUBJECTS
    assert repeats.tell(str(3 * MAX_SUBJECTS - 1)) is None


def test_pauses_double_up_to_a_longest():
    backoff = Backoff(first_s=0.25, longest_s=5.0)
    assert [backoff.pause_s(number) for number in (1, 2, 3, 4, 5, 6, 1000)] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
