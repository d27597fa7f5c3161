from textkit import wrap


def test_wrap():
    assert wrap("one two three", width=7) == ["one two", "three"]


def test_long_words_stay_whole():
    assert wrap("a incomprehensible b", width=5) == ["a", "incomprehensible", "b"]
