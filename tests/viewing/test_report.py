import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from incasem_like.errors import InputError
from incasem_like.viewing.figures import Curve, curves_figure, ortho_slices_figure
from incasem_like.viewing.report import Command, Picture, Report, Table, write_report

PNG = b"\x89PNG\r\n\x1a\n"


def decoded(png: bytes) -> np.ndarray:
    import io

    from matplotlib.image import imread

    return imread(io.BytesIO(png))


def test_curves_with_many_points_get_a_running_mean():
    steps = list(range(1000))
    png = curves_figure({"loss": [Curve("train", steps, np.random.default_rng(0).random(1000))], "dice": []})
    assert png.startswith(PNG)
    assert decoded(png).shape[1] > decoded(png).shape[0]


def planes(shape=(6, 8, 10), value=0) -> dict:
    z, y, x = shape
    return {"xy": np.full((y, x), value), "xz": np.full((z, x), value), "yz": np.full((z, y), value)}


def test_ortho_slices_show_the_overlay_in_its_colour_only_where_there_are_labels():
    raw = planes(value=0)
    empty, block = planes(value=0), planes(value=0)
    for plane in block.values():
        plane[2:5, 2:6] = 3
    aspect = dict.fromkeys(("xy", "xz", "yz"), 1.0)
    without = decoded(ortho_slices_figure(raw, {"truth": empty}, aspect))
    with_labels = decoded(ortho_slices_figure(raw, {"truth": block}, aspect))
    yellowish = (with_labels[..., 0] > 0.8) & (with_labels[..., 2] < 0.3)
    assert yellowish.sum() > 100
    assert not ((without[..., 0] > 0.8) & (without[..., 2] < 0.3)).any()


@pytest.fixture
def report() -> Report:
    return Report(
        title="Run <1>",
        summary="A & B",
        facts=[("dice", "0.91")],
        pictures=[Picture("Curves", "what to see", PNG + b"rest")],
        tables=[Table("Numbers", ("threshold", "dice"), [("0.5", "0.91")])],
        commands=[Command("python train.py", 12.34)],
        configuration="a: 1",
        links=[("checkpoint", "models/0001")],
    )


def test_a_report_stands_alone_and_escapes_what_it_shows(report, tmp_path):
    page = write_report(report, tmp_path / "deep" / "report.html").read_text()
    assert "Run &lt;1&gt;" in page
    assert "A &amp; B" in page
    assert base64.b64encode(PNG + b"rest").decode() in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    for words in ("0.91", "python train.py", "12.3 s", "a: 1", "models/0001"):
        assert words in page


def test_a_report_is_balanced_html_and_leaves_no_partial_file(report, tmp_path):
    path = write_report(report, tmp_path / "report.html")
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in {"meta", "link", "img", "br"}:
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(path.read_text())
    assert open_tags == []
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_in_the_pages_place_is_named_and_nothing_is_left_beside_it(report, tmp_path):
    (tmp_path / "pages").mkdir()
    with pytest.raises(InputError, match=r"pages is a folder"):
        write_report(report, tmp_path / "pages")
    assert [path.name for path in tmp_path.iterdir()] == ["pages"]


def test_a_file_that_is_no_page_is_not_replaced(report, tmp_path):
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(InputError, match=r"data\.json is not an HTML page and would be replaced: name another file"):
        write_report(report, tmp_path / "data.json")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("data.json", "{}")]
    assert write_report(report, write_report(report, tmp_path / "page.html")).is_file()
