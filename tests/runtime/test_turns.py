"""Ways of doing the same thing are timed in turns, and compared turn by turn."""

from ovml_deploy.runtime.turns import ratio, take_turns


def test_ratios_are_of_turns() -> None:
    ours = [[1.0, 1.0], [10.0, 10.0], [4.0, 4.0]]  # the machine slowed down in the second turn
    theirs = [[2.0, 2.0], [20.0, 20.0], [12.0, 12.0]]
    assert ratio(theirs, ours) == (2.0, 2.0, 2.5)


def test_the_first_call_of_a_turn_and_the_first_turn_do_not_count() -> None:
    calls: list[str] = []
    ways = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    found = take_turns(ways, 0.0)
    assert calls == [*"aaaabbbb"] * 3
    assert {name: [len(turn) for turn in taken] for name, taken in found.items()} == {
        "a": [3, 3],
        "b": [3, 3],
    }
