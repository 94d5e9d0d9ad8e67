"""Opens the pages of `burnish report` in headless Chromium, as phones and desktops show them, in both themes.

    python tests/scripts/judge_report.py target/release/burnish [--shots FOLDER]

Trains the quickstart's model three times, for a page of one run and one of all three. On each, no element may leave the window (only
tables in boxes that scroll), no text may have less contrast than WCAG asks for (4.5 : 1), and no script may fail. `--shots` keeps
pictures, to be looked at. Needs Chromium (Debian's package) and nothing else.
"""

import argparse
import html
import json
import pathlib
import re
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "recipes/assets/quickstart"
WIDTHS = {"phone": 390, "desktop": 1280}
THEMES = {"dark": 0, "light": 1}

# Windows are at least 500 pixels wide, so the page is checked in a frame.
FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><style>* {{ margin: 0; border: 0 }}</style>
<iframe width="{}" height="3000" srcdoc="{}">"""

# Put into the page; what it finds stands in an attribute of the frame's page.
CHECK = """
<script>
window.found = [];
window.addEventListener("error", (event) => window.found.push("script: " + event.message));
window.addEventListener("load", () => {
  const told = (element) => element.tagName + "." + element.className + ": " + element.textContent.trim().slice(0, 40);
  const colour = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([red, green, blue]) => [red, green, blue].map((one) => one / 255)
    .map((one) => one <= .04045 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4)
    .reduce((sum, one, at) => sum + one * [.2126, .7152, .0722][at], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const own = colour(getComputedStyle(element).backgroundColor);
      if (own.length < 4 || own[3] > 0) return own;
    }
    return [255, 255, 255];
  };
  document.querySelectorAll("details").forEach((details) => details.open = true);
  if (document.documentElement.scrollWidth > innerWidth) window.found.push("the page is wider than the window");
  for (const element of document.querySelectorAll("main *")) {
    const box = element.getBoundingClientRect();
    if (box.right > innerWidth + 1 && !element.closest(".scroll, svg")) window.found.push("leaves the window: " + told(element));
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!hasText || !box.width) continue;
    const pair = [colour(getComputedStyle(element).color), behind(element)].map(light).sort((a, b) => b - a);
    const contrast = (pair[0] + .05) / (pair[1] + .05);
    if (contrast < 4.5) window.found.push(`contrast ${contrast.toFixed(2)}: ` + told(element));
  }
  window.found.unshift(`${innerWidth} ${matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"}`);
  parent.document.body.setAttribute("data-found", JSON.stringify(window.found.slice(0, 20)));
});
</script>
"""


def chromium():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return name
    raise SystemExit("Chromium is not installed: apt-get install chromium")


def shown(page, width, theme, more):
    """What Chromium prints of a page."""
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        command += [f"--blink-settings=preferredColorScheme={theme}", f"--window-size={width},3000", *more, page.as_uri()]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--shots", type=pathlib.Path)
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        runs = [folder / f"rank-{rank}" for rank in (4, 16, 64)]
        for run in runs:
            command = [program, "--quiet", "train", "--model", QUICKSTART / "model", "--data", QUICKSTART / "data", "--backend", "cpu"]
            command += ["--output-dir", run, "--rank", run.name.split("-")[1], "--iters", "60", "--learning-rate", "2e-3"]
            command += ["--max-seq-length", "128", "--steps-per-eval", "20", "--val-batches", "4", "--samples", "3"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for name, of in {"one": runs[1:2], "three": runs}.items():
            page = folder / f"{name}.html"
            subprocess.run([program, "--quiet", "report", *of, "--output", page], check=True, stdout=subprocess.DEVNULL)
            text = html.escape(page.read_text().replace("<head>", "<head>" + CHECK))
            checked = folder / f"{name}-checked.html"
            for device, width in WIDTHS.items():
                for theme, number in THEMES.items():
                    checked.write_text(FRAME.format(width, text))
                    dom = shown(checked, width, number, ["--dump-dom"])
                    seen, *found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', dom)[1]))
                    assert seen == f"{width} {theme}", seen
                    assert not found, f"{name}, {device}, {theme}:\n" + "\n".join(found)
                    if arguments.shots:
                        arguments.shots.mkdir(parents=True, exist_ok=True)
                        shown(page, width, number, [f"--screenshot={arguments.shots.resolve()}/{name}-{device}-{theme}.png"])
                    print(f"{name}, {device} ({width} px), {theme}: nothing leaves the window, every text has contrast")


if __name__ == "__main__":
    main()
