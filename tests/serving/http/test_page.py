"""The web page, used in a real Chromium against a real server of the embedded model."""

import base64
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from http_client import Client
from servers import Server, running_server

from ovml_deploy import assets

pytest.importorskip("playwright")

import browser as browsers
from browser import Visit, chromium, visit
from playwright.sync_api import Browser, expect

if browsers.CHROMIUM is None:
    pytest.skip("Chromium is not installed (Debian's package 'chromium')", allow_module_level=True)
if not (assets.MINI / "bundle.json").is_file():
    pytest.skip("the embedded model is absent", allow_module_level=True)

KEY = "0123456789abcdef"
WORDS = "cat, coffee, rocket, house"
CAT, COFFEE, ROCKET = (
    next(path for path in assets.sample_photographs() if path.stem == name)
    for name in ("cat", "coffee", "rocket")
)
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}

#: Gives the page a file as the mouse or the clipboard would.
GIVE = """([kind, name, type, data]) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name, { type }));
    const told = { bubbles: true, cancelable: true };
    const event = kind === "paste"
        ? new ClipboardEvent(kind, { ...told, clipboardData: carried })
        : new DragEvent(kind, { ...told, dataTransfer: carried });
    document.body.dispatchEvent(event);
    return event.defaultPrevented;
}"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(assets.MINI) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def surf(browser: Browser, server: Server) -> Iterator[Visit]:
    """The page, which at the end has had no errors, and asked nobody but its server."""
    with at(browser, server) as page:
        yield page
    assert page.problems == []
    assert page.hosts == {Client(server.url).host}


def at(browser: Browser, server: Server, **context: Any) -> AbstractContextManager[Visit]:
    return visit(browser, server.url, **context)


def tagged(server: Server, photograph: Path, **question: Any) -> dict[str, str]:
    """What the API says of a photograph, in the page's way of writing."""
    image = base64.b64encode(photograph.read_bytes()).decode()
    found = Client(server.url).post("/v1/tag", images=[image], **question).json["results"][0]
    return {tag["label"]: f"{tag['score']:.2f}" for tag in found["tags"]}


def give(page: Visit, kind: str, photograph: Path) -> bool:
    data = base64.b64encode(photograph.read_bytes()).decode()
    return page.page.evaluate(GIVE, [kind, photograph.name, "image/jpeg", data])


def test_photographs_are_tagged_with_the_active_vocabulary(surf: Visit, server: Server) -> None:
    expect(surf.page.locator("#vocabulary")).to_have_value("words")
    surf.add(CAT, COFFEE)
    assert surf.tags(0) == tagged(server, CAT)
    assert surf.tags(1) == tagged(server, COFFEE)
    assert len(surf.tags(0)) == 5
    expect(surf.page.locator("#status")).to_contain_text("1,396 words: matched in ")
    expect(surf.page.locator(".times").first).to_contain_text(
        re.compile(r"decode [\d.]+ · queue [\d.]+ · engine [\d.]+\s*round trip [\d.]+ ms")
    )


def test_tags_change_with_the_words_and_no_picture_is_sent_again(
    surf: Visit, server: Server
) -> None:
    surf.add(CAT, ROCKET)
    surf.write(WORDS)
    labels = WORDS.split(", ")
    assert surf.tags(0) == tagged(server, CAT, labels=labels)
    assert next(iter(surf.tags(1))) == "rocket"
    expect(surf.page.locator("#status")).to_contain_text("2 pictures, 4 words: matched in ")
    expect(surf.page.locator("#vocabulary")).to_have_value("")
    surf.page.locator("#labels").press_sequentially(", kitten")
    surf.matched()
    assert surf.tags(0) == tagged(server, CAT, labels=[*labels, "kitten"])
    assert surf.count("/v1/encode") == 2


def test_words_may_stand_one_a_line_and_twice(surf: Visit) -> None:
    surf.add(CAT)
    surf.write("cat\n dog ,\n\ncat, ")
    assert set(surf.tags()) == {"cat", "dog"}
    expect(surf.page.locator("#count")).to_have_text("2")


def test_words_typed_before_the_vocabularies_came_stay(browser: Browser, server: Server) -> None:
    window = browser.new_context()
    page = window.new_page()
    held = []
    page.route("**/v1/vocabularies", lambda route: held.append(route))
    page.goto(server.url)
    page.fill("#labels", "cat, dog")
    while not held:
        page.wait_for_timeout(10)
    held[0].continue_()
    expect(page.locator("#vocabulary option").nth(1)).to_be_attached()
    assert page.input_value("#labels") == "cat, dog"
    assert page.input_value("#vocabulary") == ""
    window.close()


def test_only_the_last_edit_counts(surf: Visit) -> None:
    surf.add(CAT)
    held = []
    surf.page.route("**/v1/match", lambda route: held.append(route), times=1)
    with surf.page.expect_event("requestfailed") as failed:  # cancelled by the edit after it
        surf.page.fill("#labels", "dog, horse")
        while not held:
            surf.page.wait_for_timeout(10)
        surf.write("cat, kitten")
    assert '"horse"' in failed.value.post_data
    assert set(surf.tags()) == {"cat", "kitten"}


def test_sliders_bound_the_tags(surf: Visit, server: Server) -> None:
    surf.add(CAT)
    for slider, value, question in (
        ("#top-k", "2", {"top_k": 2}),
        ("#threshold", "0.99", {"top_k": 2, "threshold": 0.99}),
        ("#threshold", "1", {}),
    ):
        surf.page.fill(slider, value)
        surf.matched()
        assert surf.tags() == (tagged(server, CAT, **question) if question else {})
    expect(surf.page.locator("#pictures .note")).to_have_text("No word fits.")


def test_no_words_ask_nothing(surf: Visit) -> None:
    surf.add(CAT)
    before = surf.count("/v1/match")
    surf.page.click("#empty-words")
    expect(surf.page.locator("#results")).to_have_class("stale")
    surf.write("cat")
    assert surf.count("/v1/match") == before + 1
    expect(surf.page.locator("#results")).not_to_have_class("stale")


def test_too_many_words_are_told_so(surf: Visit) -> None:
    surf.add(CAT)
    expect(surf.page.locator("#labels")).not_to_be_empty()
    surf.page.locator("#labels").press("Control+End")
    surf.page.locator("#labels").press_sequentially(", cats")
    error = surf.page.locator("#words-error")
    expect(error).to_contain_text("A request may bring 1,000 words; these are 1,397.")
    surf.page.select_option("#vocabulary", "words")
    expect(error).to_be_hidden()


def test_what_the_server_refuses_is_shown_in_its_words(surf: Visit) -> None:
    surf.add(CAT)
    surf.page.fill("#labels", "cat, " + "x" * 300)
    expect(surf.page.locator("#words-error")).to_contain_text("has 300 characters; at most 256")
    surf.write("cat")
    expect(surf.page.locator("#words-error")).to_be_hidden()
    assert 422 in surf.statuses


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_pictures_are_pasted_and_dropped(surf: Visit, server: Server, kind: str) -> None:
    expect(surf.page.locator("#count")).to_have_text("1,396")
    give(surf, kind, CAT)
    expect(surf.page.locator(".card")).to_have_count(1)
    surf.settle()
    assert surf.tags() == tagged(server, CAT)


def test_a_picture_that_is_dragged_over_the_page_is_awaited(surf: Visit) -> None:
    expect(surf.page.locator("#count")).to_have_text("1,396")
    assert give(surf, "dragover", CAT)  # or the browser would leave the page for the picture
    expect(surf.page.locator("body")).to_have_class(re.compile("dragging"))
    assert give(surf, "drop", CAT)
    expect(surf.page.locator("body")).not_to_have_class(re.compile("dragging"))


def test_a_bad_file_is_its_own_error(surf: Visit, server: Server, tmp_path: Path) -> None:
    bad = tmp_path / "broken.jpg"
    bad.write_bytes(CAT.read_bytes()[:200])
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    surf.add(bad, CAT, text)
    errors = surf.page.locator("#pictures .error")
    expect(errors.nth(0)).to_contain_text("cannot be read")
    expect(errors.nth(2)).to_contain_text("not an image that can be read")
    expect(errors.nth(1)).to_be_hidden()
    assert surf.tags(1) == tagged(server, CAT)
    surf.write("cat, dog")
    assert set(surf.tags(1)) == {"cat", "dog"}


def test_pictures_are_removed(surf: Visit) -> None:
    surf.add(CAT, COFFEE, ROCKET)
    surf.page.get_by_role("button", name="Remove coffee.jpg").click()
    expect(surf.page.locator("#pictures .card")).to_have_count(2)
    surf.write("rocket, cat")
    assert next(iter(surf.tags(1))) == "rocket"
    surf.page.click("#remove-all")
    expect(surf.page.locator("#drop")).to_be_visible()


def test_a_tag_shows_the_query_that_answered_and_where_it_looked(surf: Visit) -> None:
    surf.add(CAT)
    surf.write(WORDS)
    tag = surf.page.locator("#pictures .tag")
    heat = surf.page.locator("#pictures canvas")
    tag.first.focus()
    surf.page.keyboard.press("Enter")
    expect(surf.page.locator(".note")).to_contain_text(
        re.compile("^Query \\d+ of 12 answered “cat”, logit ")
    )
    expect(heat).to_be_visible()
    first = heat.evaluate("canvas => canvas.toDataURL()")
    tag.nth(1).click()
    expect(tag.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(tag.first).to_have_attribute("aria-pressed", "false")
    assert surf.count("/v1/attention") == 1
    surf.page.wait_for_function(
        "first => document.querySelector('#pictures canvas').toDataURL() !== first", arg=first
    )
    tag.nth(1).click()
    expect(heat).to_be_hidden()


def test_the_heat_is_where_the_query_looked(surf: Visit, server: Server) -> None:
    surf.add(ROCKET)
    surf.write("rocket")
    image = base64.b64encode(ROCKET.read_bytes()).decode()
    client = Client(server.url)
    (found,) = client.post("/v1/attention", images=[image]).json["results"]
    (tags,) = client.post("/v1/tag", images=[image], labels=["rocket"]).json["results"]
    queries, rows, columns = found["grid"]["shape"]
    numpy = pytest.importorskip("numpy")
    grid = numpy.frombuffer(base64.b64decode(found["grid"]["data"]), "<f4")
    looked = grid.reshape(queries, rows * columns)[tags["tags"][0]["query"]]
    surf.page.locator("#pictures .tag").click()
    expect(surf.page.locator("#pictures canvas")).to_be_visible()
    pixels = surf.page.locator("#pictures canvas").evaluate(
        "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    red = numpy.array(pixels).reshape(-1, 4)[:, 0]  # the glow is red, the veil is not
    assert len(red) == rows * columns
    assert red.argmax() == looked.argmax()
    veil = numpy.array(pixels).reshape(-1, 4)[:, 3]
    assert veil[looked.argmin()] == veil.max()


def test_words_are_saved_as_a_vocabulary_and_activated(browser: Browser) -> None:
    with running_server(assets.MINI) as server, at(browser, server) as surf:
        surf.add(CAT)
        surf.write(WORDS)
        surf.page.get_by_text("Save as vocabulary").click()
        surf.page.fill("#name", "words")
        surf.page.get_by_role("button", name="Save", exact=True).click()
        status = surf.page.locator("#save-status")
        expect(status).to_contain_text("'words'")  # the bundle's own cannot be changed
        assert Client(server.url).get("/v1/model").json["vocabulary"] == "words"

        surf.page.fill("#name", "mine")
        surf.page.get_by_role("button", name="Save", exact=True).click()
        expect(status).to_have_text("Saved as mine, version 1, and active.")
        expect(surf.page.locator("#vocabulary")).to_have_value("mine")
        assert Client(server.url).get("/v1/model").json["vocabulary"] == "mine"
        assert Client(server.url).get("/v1/vocabularies/mine").json["texts"] == WORDS.split(", ")

        surf.page.reload()
        expect(surf.page.locator("#labels")).to_have_value(WORDS)
        surf.add(CAT)
        assert surf.tags() == tagged(server, CAT, vocabulary="mine")
        surf.page.select_option("#vocabulary", "words")
        expect(surf.page.locator("#count")).to_have_text("1,396")
        assert surf.problems == []


def test_a_vocabulary_may_be_saved_and_not_activated(surf: Visit, server: Server) -> None:
    surf.page.fill("#labels", "cat, red, green, blue, violet")
    surf.page.get_by_text("Save as vocabulary").click()
    surf.page.fill("#name", "colours")
    surf.page.uncheck("#activate")
    surf.page.get_by_role("button", name="Save", exact=True).click()
    expect(surf.page.locator("#save-status")).to_have_text("Saved as colours, version 1.")
    assert Client(server.url).get("/v1/model").json["vocabulary"] == "words"


def test_the_page_asks_for_the_key(browser: Browser) -> None:
    options = ("--max-body-mb", "1")
    with (
        running_server(assets.MINI, *options, env={"OVML_API_KEY": KEY}) as server,
        at(browser, server) as surf,
    ):
        dialog = surf.page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        for key in ("ключ", "emoji 🐈 key"):  # no header could carry them
            surf.page.get_by_label("API key", exact=True).fill(key)
            surf.page.keyboard.press("Enter")
            expect(dialog).to_contain_text("A key has no such characters")
            assert surf.page.evaluate("sessionStorage.length") == 0
        for key in ("not the key", KEY):
            surf.page.get_by_label("API key", exact=True).fill(key)
            surf.page.keyboard.press("Enter")
            if key != KEY:
                expect(dialog).to_contain_text("That key is not the server’s.")
        expect(dialog).to_be_hidden()
        surf.add(CAT)
        assert "cat" in surf.tags()
        surf.page.reload()
        expect(surf.page.locator("#count")).to_have_text("1,396")
        expect(dialog).to_be_hidden()  # for it is kept in this tab
        _too_large_a_file_is_told_so(surf)
        assert surf.problems == []


def _too_large_a_file_is_told_so(surf: Visit) -> None:
    before = surf.count("/v1/encode")
    large = {"name": "large.png", "mimeType": "image/png", "buffer": bytes(1_100_000)}
    surf.page.set_input_files("#files", [large])
    expect(surf.page.locator("#pictures .error")).to_have_text(
        "This file has 1,100,000 bytes; the server reads 1,048,576."
    )
    assert surf.count("/v1/encode") == before


def test_a_busy_server_is_asked_again(browser: Browser) -> None:
    with running_server(assets.MINI, "--max-queue", "1") as server, at(browser, server) as surf:
        surf.add(CAT, COFFEE, ROCKET)
        assert 429 in surf.statuses
        assert surf.page.locator("#pictures .card .tag").count() > 2
        for card in surf.page.locator("#pictures .error").all():
            expect(card).to_be_hidden()


def test_the_camera_is_tagged_and_a_frame_kept(surf: Visit) -> None:
    surf.page.fill("#labels", WORDS)
    surf.page.click("#camera")
    live = surf.page.locator("#live")
    expect(live.locator(".tag")).to_have_count(4)
    before = surf.count("/v1/tag")
    surf.page.wait_for_function("() => document.querySelector('#live video').videoWidth > 0")
    while surf.count("/v1/tag") < before + 3:
        surf.page.wait_for_timeout(10)
    surf.page.get_by_role("button", name="Keep this frame").click()
    expect(surf.page.locator("#pictures .card")).to_have_count(1)
    surf.settle()
    assert set(surf.tags()) == set(WORDS.split(", "))
    surf.page.get_by_role("button", name="Switch camera").click()
    expect(live.locator(".tag")).to_have_count(4)
    track = "document.querySelector('#live video').srcObject.getTracks()[0].readyState"
    surf.page.evaluate(f"window.state = () => {track}")
    surf.page.get_by_role("button", name="Stop the camera").click()
    expect(live).to_be_hidden()
    assert surf.page.evaluate("window.state()") == "ended"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Browser, server: Server, scheme: str) -> None:
    with at(browser, server, **PHONE, color_scheme=scheme) as surf:
        width = "document.documentElement.scrollWidth"
        assert surf.page.evaluate(width) == 360
        surf.add(CAT, COFFEE)
        surf.page.fill("#labels", "cat, " + "supercalifragilisticexpialidocious" * 3)
        surf.page.get_by_text("Save as vocabulary").tap()
        surf.page.tap("#camera")
        expect(surf.page.locator("#live .tag")).to_have_count(2)
        expect(surf.page.locator("#status")).to_contain_text("2 words")
        surf.page.locator("#pictures .tag").first.tap()
        expect(surf.page.locator("#pictures canvas").first).to_be_visible()
        assert surf.page.evaluate(width) == 360
        paper = surf.page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(int(part) for part in re.findall(r"\d+", paper)) > 380
        assert light == (scheme == "light")
        assert surf.problems == []


def test_each_control_has_a_name_and_the_keyboard_reaches_it(surf: Visit) -> None:
    surf.add(CAT)
    surf.page.get_by_text("Save as vocabulary").click()
    names = surf.page.evaluate(
        """() => [...document.querySelectorAll('main button, main input, main select, main textarea')]
        .filter((e) => e.checkVisibility()).map((e) =>
            e.getAttribute('aria-label') || e.labels?.[0]?.textContent.trim() || e.textContent.trim())"""
    )
    assert len(names) > 12
    assert all(names), names
    reached = set()
    surf.page.evaluate("document.activeElement.blur()")
    for _ in range(40):
        surf.page.keyboard.press("Tab")
        reached.add(
            surf.page.evaluate("document.activeElement.id || document.activeElement.className")
        )
    wanted = "empty-words vocabulary labels top-k threshold name activate choose camera remove tag"
    assert set(wanted.split()) <= reached
