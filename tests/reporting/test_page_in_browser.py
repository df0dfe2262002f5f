"""The page in a real browser: no errors, no requests, no sideways scrolling, links that open."""

import pytest

from medcolor_tf.reporting.output import write

pytestmark = pytest.mark.slow

OPEN = "[...document.querySelectorAll('main details[open]')].map((d) => d.id)"


@pytest.fixture(scope="module")
def report(full_report, tmp_path_factory):
    """Path of the written page."""
    return write(full_report, tmp_path_factory.mktemp("report"))


def test_browser_would_notice(open_in_chromium, tmp_path):
    """Without this test all others could pass by seeing nothing."""
    (tmp_path / "bad.html").write_text(
        "<!DOCTYPE html><img src='missing.png'><img src='http://127.0.0.1:9/x.png'>"
        "<div style='width: 900px'>wide</div>"
        "<script>console.warn('a\\nb'); console.error('bad'); throw new Error('thrown')</script>"
    )
    seen = open_in_chromium(tmp_path / "bad.html", script="return page.innerHeight")
    assert seen.console == ('"a\nb"', '"bad"', '"Uncaught Error: thrown"')
    assert seen.requests == ("http://127.0.0.1:9/x.png",)
    assert seen.broken_images == 2
    assert (seen.inner_width, seen.result) == (360, 800)
    assert seen.scroll_width > 900


def test_policy_refuses_requests_and_foreign_scripts(open_in_chromium, report, tmp_path):
    text = report.read_text(encoding="utf-8")
    more = "<img src='http://127.0.0.1:9/x.png'><script>document.title = 'taken'</script>"
    (tmp_path / "index.html").write_text(text.replace("<main", more + "<main"), encoding="utf-8")
    seen = open_in_chromium(tmp_path / "index.html", script="return document.title")
    assert len(seen.console) == 2
    assert all("Content Security Policy" in message for message in seen.console)
    assert seen.result.startswith("Report")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_opens_cleanly(open_in_chromium, report, width):
    script = f"""
      const closed = {OPEN};
      document.querySelectorAll("details").forEach((d) => {{ d.open = true; }});
      await pause();
      const width = (image) => image.clientWidth;
      const natural = [...document.images].map((image) => image.naturalWidth);
      const room = [...document.images].map((image) => image.parentElement.clientWidth);
      const whole = [...document.images].map(width);
      const switches = [...document.querySelectorAll(".enlarge")].map((l) => l.offsetWidth > 0);
      document.querySelectorAll(".enlarge input").forEach((input) => input.click());
      await pause();
      const enlarged = [...document.images].map(width);
      const scripts = document.scripts.length;
      return {{ closed, natural, room, whole, switches, enlarged, scripts }};
    """
    seen = open_in_chromium(report, width, script=script)
    seen.assert_clean()
    assert seen.inner_width == width
    assert seen.result["closed"] == []
    assert seen.result["scripts"] == 1  # no name has become one
    natural, whole = seen.result["natural"], seen.result["whole"]
    assert len(natural) == 2
    for size, shown, room in zip(natural, whole, seen.result["room"], strict=True):
        assert min(size, 0.9 * room) <= shown <= min(size, room)  # a figure is seen whole
    assert seen.result["switches"] == [width < 1024] * 2
    if width < 1024:  # and enlarged, its type is legible
        assert seen.result["enlarged"] == natural
    else:
        assert whole == natural


def test_wide_table_scrolls_in_its_own_region(open_in_chromium, report):
    script = """
      const region = document.querySelector("#table-table1 .scroll");
      const caption = region.querySelector("caption > div");
      const before = caption.getBoundingClientRect();
      region.focus();
      region.scrollLeft = 150;
      await pause();
      const after = caption.getBoundingClientRect();
      return {
        wide: region.scrollWidth > region.clientWidth,
        focused: document.activeElement === region,
        caption: [before.left, before.right, after.left, after.right],
      };
    """
    seen = open_in_chromium(report, 360, script=script)
    seen.assert_clean()
    assert seen.result["wide"]
    assert seen.result["focused"]
    left, right, *after = seen.result["caption"]
    assert 0 <= left < right <= 360
    assert after == [left, right]


@pytest.mark.parametrize(
    ("anchor", "opened"),
    [
        ("", []),
        ("results", []),
        ("runs-1", ["runs-1"]),
        ("folded", ["folded"]),
        ("table-folded", ["folded"]),
        ("figure-images", ["images"]),
    ],
)
def test_anchor_opens_details(open_in_chromium, report, anchor, opened):
    top = "document.getElementById(page.location.hash.slice(1))?.getBoundingClientRect().top"
    seen = open_in_chromium(report, anchor=anchor, script=f"return [{OPEN}, {top}]")
    seen.assert_clean()
    assert seen.result[0] == opened
    if opened:
        assert 0 <= seen.result[1] < 800


def test_link_opens_details_again_and_again(open_in_chromium, report):
    script = f"""
      const seen = [];
      for (const target of ["runs-1", "runs-1", "table-folded"]) {{
        document.querySelectorAll("details").forEach((d) => {{ d.open = false; }});
        document.querySelector(`td a[href="#${{target}}"]`).click();
        await pause();
        const top = document.getElementById(target).getBoundingClientRect().top;
        seen.push([{OPEN}, 0 <= top && top < page.innerHeight]);
      }}
      return seen;
    """
    seen = open_in_chromium(report, script=script)
    seen.assert_clean()
    assert seen.result == [
        [["runs-1"], True],
        [["runs-1"], True],
        [["folded"], True],
    ]


def test_stacked_table_needs_no_scrolling_on_a_phone(open_in_chromium, report):
    script = """
      document.getElementById("folded").open = true;
      await pause();
      const region = document.querySelector("#table-folded .scroll");
      const cell = region.querySelector("td").getBoundingClientRect();
      const label = page.getComputedStyle(region.querySelector("td"), "::before").content;
      return { wide: region.scrollWidth > region.clientWidth, right: cell.right, label };
    """
    seen = open_in_chromium(report, 360, script=script)
    seen.assert_clean()
    assert not seen.result["wide"]
    assert seen.result["right"] <= 360
    assert seen.result["label"] == '"p"'
    assert open_in_chromium(report, 1280, script=script).result["label"] == "none"


def test_contents_lead_to_every_part(open_in_chromium, report):
    script = """
      const nav = document.querySelector("nav");
      nav.querySelector("details").open = true;
      const links = [...nav.querySelectorAll("details a, .parts a")];
      nav.querySelector("a[href='#table-folded']").click();
      await pause();
      const top = document.getElementById("table-folded").getBoundingClientRect().top;
      return { shown: links.every((link) => link.offsetHeight > 0), count: links.length, top };
    """
    seen = open_in_chromium(report, 360, script=script)
    seen.assert_clean()
    assert (seen.result["shown"], seen.result["count"]) == (True, 5)
    assert 0 <= seen.result["top"] < 800
