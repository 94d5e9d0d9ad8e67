"""A preprocessor of mdBook: links that leave docs/ become links to the repository. Without them, no page of the book has a dead link."""

import json
import posixpath
import re
import sys

REPOSITORY = "https://github.com/burnish-rs/burnish/blob/main/"
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def outside(folder, target):
    """The link of a page in a folder of docs/, as a link to the repository if it leaves docs/."""
    if "://" in target or target.startswith("#"):
        return target
    path = posixpath.normpath(posixpath.join("docs", folder, target))
    if not path.startswith("docs/"):
        return REPOSITORY + path
    # mdBook renames these pages, but not the links to them.
    return re.sub(r"README\.md(?=$|#)", "index.md", target)


def visit(items):
    for item in items:
        chapter = item.get("Chapter") if isinstance(item, dict) else None
        if chapter and chapter.get("path"):
            folder = posixpath.dirname(chapter["path"])
            change = lambda match: match[1] + outside(folder, match[2]) + match[3]
            chapter["content"] = LINK.sub(change, chapter["content"])
        if chapter:
            visit(chapter["sub_items"])


if sys.argv[1:2] == ["supports"]:
    sys.exit(0)
_, book = json.load(sys.stdin)
visit(book.get("items", book.get("sections", [])))
json.dump(book, sys.stdout)
