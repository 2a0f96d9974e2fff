"""Pages in a headless browser, and what they are made of."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --virtual-time-budget=3000"
).split()
# shows a page in frames of several widths, asks each the same, and writes down the answers: one start of the browser.
# A frame with `srcdoc` has the page's own Content-Security-Policy, and its parent may look into it.
PROBE = """<!DOCTYPE html><html lang="en"><title>probe</title><body><script>
const page = PAGE, ask = QUESTION, answers = {};
for (const width of WIDTHS) {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 2400px; border: 0`;
  frame.addEventListener("load", async () => {
    answers[width] = await ask(frame.contentWindow, frame.contentDocument);
    const found = document.createElement("pre");
    found.className = "answers"; // a page may have such elements itself
    found.textContent = JSON.stringify(answers);
    document.body.append(found);
  }, { once: true });
  frame.srcdoc = page;
  document.body.append(frame);
}
</script>"""


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.images, self.headings = [], [], "", [], []
        self._heading = self._silent = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.text += " " if tag in ("td", "th", "tr", "p", "dd", "dt") else ""
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag == "img":
            self.images.append(dict(attrs))
        self._heading, self._silent = tag == "h2", tag in ("style", "script")
        if self._heading:
            self.headings.append("")

    def handle_endtag(self, tag):
        self._heading = self._silent = False

    def handle_data(self, data):
        if not self._silent:
            self.text += data
        if self._heading:
            self.headings[-1] += data

    @property
    def words(self):
        return " ".join(self.text.split())


def chromium(page, tmp_path, *flags):
    """Run the browser on a page; returns (stdout, its console messages)."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.fail("The report is tested in a browser: install chromium (apt-get install chromium).")
    command = [found, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def asked(page, tmp_path, question, widths=(390, 1280)):
    """What a page answers in frames of several widths.

    Args:
        page: the text of the page.
        question: JavaScript: a function of a frame's window and document that returns what JSON can hold.

    Returns:
        The answers by width, and the messages of the console.
    """
    values = {"PAGE": json.dumps(page).replace("</", "<\\/"), "QUESTION": question, "WIDTHS": json.dumps(list(widths))}
    text = re.sub("PAGE|QUESTION|WIDTHS", lambda found: values[found[0]], PROBE)
    (tmp_path / "probe.html").write_text(text, encoding="utf-8")
    dom, console = chromium(tmp_path / "probe.html", tmp_path, "--dump-dom")
    answers = re.findall(r'<pre class="answers">(.*?)</pre>', dom, re.DOTALL)
    assert len(answers) == len(widths), (answers, console)
    parsed = json.loads(html.unescape(max(answers, key=len)))
    return {int(width): answer for width, answer in parsed.items()}, console


def self_contained(text):
    """No attribute or style points outside, and the viewer's script is the only one; returns the parsed page."""
    page = Page(text)
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "action", "data", "poster"):
            assert value.startswith(("data:", "#")), (tag, name, value[:80])
        assert not name.startswith("on"), (tag, name)
    assert not {"iframe", "object", "embed", "base"} & set(page.tags)
    # its data and itself; the page's policy lets no other run
    assert page.tags.count("script") == 2 * page.tags.count("canvas") / 3
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and value.startswith("default-src"))
    assert ("script-src 'sha256-" in policy) == ("canvas" in page.tags) and "default-src 'none'" in policy
    outside = re.sub(r"data:[^\"]+", "", text)
    assert "http:" not in outside and "https:" not in outside and "url(" not in outside and "@import" not in outside
    return page
