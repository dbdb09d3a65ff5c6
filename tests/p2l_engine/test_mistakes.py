"""Mistakes: a list that stays one, and the nearest right word."""

import pickle

from p2l_engine.mistakes import Mistakes, did_you_mean, nearest


def test_mistakes_are_told_a_line_each_and_travel_between_processes() -> None:
    mistakes = Mistakes(["a: got 1\nand more", "b: got 2"])
    assert str(mistakes) == "a: got 1\nand more\nb: got 2"
    assert pickle.loads(pickle.dumps(mistakes)).problems == ["a: got 1\nand more", "b: got 2"]


def test_only_a_word_that_is_near_is_meant() -> None:
    assert nearest("focsu", ["glass", "focus"]) == "focus"
    assert nearest("aperture", ["glass", "focus"]) is None
    assert did_you_mean(None, ["none"]) == "; did you mean none?"
    assert did_you_mean("aperture", ["glass", "focus"]) == ""
