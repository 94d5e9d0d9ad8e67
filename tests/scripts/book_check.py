"""Checks every link between the pages of the built book: python3 tests/scripts/book_check.py target/book"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.ids = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


root = Path(sys.argv[1]).resolve()
pages = {path: Page(path.read_text()) for path in root.rglob("*.html")}
dead = []
for path, page in pages.items():
    # All pages in one, whose links are those of the others.
    if path.name in ("print.html", "toc.html", "404.html"):
        continue
    for link in page.links:
        if "://" in link or link.startswith(("mailto:", "data:")):
            continue
        file, fragment = urldefrag(link)
        there = (path.parent / unquote(file)).resolve() if file else path
        if there.is_dir():
            there /= "index.html"
        if not there.exists():
            dead.append(f"{path.relative_to(root)}: {link}: there is no such file")
        elif fragment and there in pages and unquote(fragment) not in pages[there].ids:
            dead.append(f"{path.relative_to(root)}: {link}: the page has no such heading")
print(f"{len(pages)} pages, {len(dead)} dead links")
print("\n".join(dead))
sys.exit(bool(dead) or not pages)
