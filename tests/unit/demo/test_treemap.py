"""The picture: the same bytes for the same summary, and what it shows is in it."""

import io

import pytest

from routilux_mp.demo.metrics import measure, summarise

Image = pytest.importorskip("PIL.Image")

from routilux_mp.demo.treemap import draw_treemap  # noqa: E402


def summary_of(sources):
    return summarise([{"path": path, **measure(source)} for path, source in sources.items()])


PLAIN = {"pkg/a.py": b"x = 1\n" * 300, "pkg/b.py": b"y = 2\n" * 100, "top.py": b"z = 3\n" * 200}


def test_same_summary_same_bytes():
    first = draw_treemap(summary_of(PLAIN), "title")
    assert first == draw_treemap(summary_of(dict(reversed(PLAIN.items()))), "title")
    assert first != draw_treemap(summary_of(PLAIN), "another title")
    assert first != draw_treemap(summary_of({**PLAIN, "top.py": b"z = 3\n" * 201}), "title")


def test_it_is_a_picture_of_the_promised_size_and_darker_where_there_are_more_branches():
    branched = {**PLAIN, "pkg/a.py": b"x = 1 if x else 2\n" * 300}
    plain, dark = (
        Image.open(io.BytesIO(draw_treemap(summary_of(sources), "t"))).convert("L") for sources in (PLAIN, branched)
    )
    assert plain.size == (1600, 1000)

    def mean(image):
        histogram = image.histogram()
        return sum(value * count for value, count in enumerate(histogram)) / sum(histogram)

    assert mean(dark) < mean(plain) - 20


def test_empty_files_and_no_files():
    assert draw_treemap(summary_of({"empty.py": b""}), "nothing")
    assert draw_treemap(summary_of({}), "nothing")
