"""Looks at a report in a real browser: screenshots in two themes at three widths and on paper, and what is wrong.

    pip install playwright axe-playwright-python pillow    # and a Chromium: apt-get install chromium
    python docs/screenshots.py runs/tiny/report.html --out=docs/screenshots --chromium=/usr/bin/chromium

Prints, for every width and theme, what axe-core finds, what the console says, and how far the page is wider than the
window; ends with status 1 if there is anything that axe calls serious or critical, an error in the console, or a page
that is too wide. `--whole` takes the whole page instead of its top; `--pdf=FILE` also prints it.
"""

import argparse
import io
import pathlib
import sys

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import sync_playwright

WIDTHS = {1400: 900, 768: 1024, 390: 844}  # and heights, of a desktop, a tablet and a telephone
GRAVE = ("serious", "critical")


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("report", nargs="+", type=pathlib.Path)
    flags.add_argument("--out", type=pathlib.Path, help="folder of the screenshots; none are taken without")
    flags.add_argument("--name", default="", help="what their names begin with, instead of the run's")
    flags.add_argument("--chromium", default="/usr/bin/chromium")
    flags.add_argument("--whole", action="store_true")
    flags.add_argument("--pdf", type=pathlib.Path)
    args, wrong = flags.parse_args(), []
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        for report in args.report:
            for theme in ("light", "dark"):
                for width, height in WIDTHS.items():
                    context = browser.new_context(
                        viewport={"width": width, "height": height}, color_scheme=theme,
                        device_scale_factor=1.5 if width < 500 else 1,
                    )  # fmt: skip
                    found = look(context.new_page(), report, width)
                    about = f"{report.resolve().parent.name}, {width} px, {theme}"
                    print(f"{about}: {'; '.join(found.values()) or 'nothing found'}", flush=True)
                    wrong += [about] if found else []
                    if args.out:
                        args.out.mkdir(parents=True, exist_ok=True)
                        name = f"{args.name or report.resolve().parent.name}-{width}-{theme}.webp"
                        save(context.pages[0].screenshot(full_page=args.whole), args.out / name)
                    context.close()
            if args.pdf:
                page = browser.new_page(color_scheme="dark")  # paper stays white whatever the screen is
                page.goto(report.resolve().as_uri())
                page.pdf(path=args.pdf, format="A4")
        browser.close()
    return 1 if wrong else 0


def look(page, report, width: int) -> dict:
    """Opens a report; {kind: what is wrong}, empty if nothing is."""
    said, found = [], {}
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(report.resolve().as_uri())
    wide = page.evaluate("document.documentElement.scrollWidth")
    if wide > width:
        found["width"] = f"the page is {wide} px wide"
    page.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    broken = Axe().run(page).response["violations"]
    if grave := [v for v in broken if v["impact"] in GRAVE]:
        found["axe"] = "; ".join(_violation(v) for v in grave)
    for v in broken:
        if v not in grave:
            print(f"  {v['impact']}: {_violation(v)}")
    page.evaluate("document.querySelectorAll('details').forEach((one) => one.open = false)")
    if said:
        found["console"] = f"console: {'; '.join(said)}"
    return found


def _violation(v) -> str:
    return f"{v['id']}, {len(v['nodes'])} times, as in {v['nodes'][0]['html'][:120]}"


def save(png: bytes, path) -> None:
    """As a WebP file of few bytes."""
    Image.open(io.BytesIO(png)).convert("RGB").save(path, quality=72, method=6)


if __name__ == "__main__":
    sys.exit(main())
