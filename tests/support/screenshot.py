"""Draws docs/page.jpg, the web page at work: ``python tests/support/screenshot.py``."""

import argparse
import io
from pathlib import Path

from browser import chromium, visit
from PIL import Image
from servers import running_server

from ovml_deploy import assets
from ovml_deploy.files import write_atomically

_OUT = Path(__file__).parents[2] / "docs/page.jpg"
_ORDER = ("cat", "coffee", "temple", "rocket", "flower", "clock", "astronaut", "camera_man")
_WORDS = (
    "cat, kitten, coffee, coffee mug, house, building, mountain, rocket, spacecraft, flowering plant, "
    "flower, timepiece, analog clock, helmet, tripod, dog"
)
_WIDE = {"width": 1280, "height": 800}
_SHOWN = 6  # the picture whose first tag's query is shown


def draw(size: dict[str, int], dark: bool) -> Image.Image:
    """Return the whole page with the sample photographs and words of one's own."""
    samples = {path.stem: path for path in assets.sample_photographs()}
    scheme = "dark" if dark else "light"
    with (
        running_server(assets.MINI) as server,
        chromium() as browser,
        visit(browser, server.url, viewport=size, color_scheme=scheme) as page,
    ):
        for name in _ORDER:  # one by one, for the times of a picture alone
            page.add(samples[name])
        page.page.fill("#top-k", "4")
        page.page.fill("#threshold", "0.1")
        page.write(_WORDS)
        page.page.locator("#labels").press_sequentially(", bicycle")
        page.matched()
        card = page.page.locator("#pictures .card").nth(_SHOWN)
        card.locator(".tag").first.click()
        card.locator("canvas").wait_for(state="visible")
        page.page.mouse.move(1, 1)
        page.page.wait_for_timeout(400)  # bars move
        page.page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
        return Image.open(io.BytesIO(page.page.screenshot(full_page=True))).convert("RGB")


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--phone", action="store_true", help="360 pixels wide")
    given = parser.parse_args()
    picture = draw({"width": 360, "height": 740} if given.phone else _WIDE, given.dark)
    with write_atomically(given.out) as temporary:
        picture.save(temporary, "JPEG", quality=88, optimize=True, progressive=True)
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
