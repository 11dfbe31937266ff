"""Open every page of the site in Chromium: `make site-check`. Needs `pip install -e .[browser]` and a Chromium.

Looks for: requests to another host, errors in the console, pages wider than the window, serious violations of
accessibility (axe-core), at two window widths and in both colour schemes; and that the search finds a word.
"""

import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTHS = (1280, 390)
WORD = "excitation"


def serve(folder: Path) -> tuple[http.server.ThreadingHTTPServer, str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/"


def check(folder: Path) -> list[str]:
    """One line per problem."""
    from playwright.sync_api import sync_playwright

    server, address = serve(folder)
    found: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for scheme in ("light", "dark"):
            page = Watched(browser.new_page(color_scheme=scheme), address, found)
            for path in sorted(folder.rglob("*.html")):
                for width in WIDTHS:
                    page.visit(path.relative_to(folder).as_posix(), width, scheme)
        page.search(WORD)
        browser.close()
    server.shutdown()
    return found


class Watched:
    """A browser's page that notes what goes wrong on the pages that it visits."""

    def __init__(self, page: "Page", address: str, found: list[str]) -> None:
        self.page, self.address, self.found, self.place = page, address, found, ""
        self.reading = True  # the page itself loads, and not axe, which looks for its style sheets in the wrong folder
        page.on("console", lambda message: message.type == "error" and self.note(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.note(f"error: {error}"))
        page.on("request", lambda request: self.is_foreign(request.url) and self.note(f"loads {request.url}"))

    def note(self, problem: str) -> None:
        if self.reading:
            self.found.append(f"{self.place}: {problem}")

    def is_foreign(self, url: str) -> bool:
        return not url.startswith((self.address, "data:", "blob:"))

    def visit(self, name: str, width: int, scheme: str) -> None:
        from axe_playwright_python.sync_playwright import Axe

        self.place = f"{name} ({scheme}, {width} px)"
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.goto(self.address + name)
        if self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            self.note("wider than the window")
        self.page.wait_for_load_state("networkidle")
        self.reading = False
        violations = Axe().run(self.page).response["violations"]
        self.page.wait_for_timeout(200)
        self.reading = True
        for violation in violations:
            if violation["impact"] in ("serious", "critical"):
                where = violation["nodes"][0]["target"][0]
                self.note(f"axe: {violation['id']} at {where} ({len(violation['nodes'])})")

    def search(self, word: str) -> None:
        self.place = f"search for {word!r}"
        self.page.goto(f"{self.address}search.html?q={word}")
        self.page.wait_for_timeout(5000)
        if not self.page.locator("ul.search li a").count():
            self.note("nothing found")


def main(folder: Path) -> int:
    found = check(folder)
    print("\n".join(found) or f"no problem found in {folder}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "site").resolve()))
