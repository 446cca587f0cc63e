"""A page as a real browser shows it, at several widths at once."""

import html
import json
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
SCREENS = {390: 844, 1280: 800}  # height by width: a phone, a laptop
# What is asked of the document in a frame. A label is a run of text that is shown; one that a
# person scrolls to inside of a box, or that a pointer brings up, is no label.
ASKS = """
function ask(frame) {
  const page = frame.contentDocument, window_ = frame.contentWindow, out = {};
  const details = page.querySelector('#details');
  const end = details ? details.getBoundingClientRect().top : page.body.scrollHeight;
  out.screens = end / frame.clientHeight;
  out.closed = page.querySelectorAll('details.section:not([open])').length;
  out.sections = page.querySelectorAll('h2:not(.part)').length;
  page.querySelectorAll('details').forEach(d => d.open = true);
  out.width = page.documentElement.scrollWidth;
  out.cut = [...page.querySelectorAll('.wide, .forest, .panels, .plots, .flow, .strip, dl')]
    .filter(box => box.scrollWidth > box.clientWidth + 1)
    .map(box => box.className + ' ' + box.scrollWidth + ' > ' + box.clientWidth);
  const labels = [], walk = page.createTreeWalker(page.querySelector('main'), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, words = node.textContent.trim();
    if (!words || node.parentElement.closest('title, .tip, pre, style')) continue;
    const range = page.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects())
      if (box.width > 1 && box.height > 1) labels.push([box, words, node]);
  }
  labels.sort((a, b) => a[0].top - b[0].top);
  out.labels = labels.length;
  out.overlaps = [];
  for (let i = 0; i < labels.length; i++)
    for (let j = i + 1; j < labels.length && labels[j][0].top < labels[i][0].bottom; j++) {
      const [a, b] = [labels[i][0], labels[j][0]];
      if (labels[i][2] === labels[j][2]) continue;
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 0.4 * Math.min(a.height, b.height))
        out.overlaps.push(labels[i][1].slice(0, 40) + ' | ' + labels[j][1].slice(0, 40));
    }
  out.plots = [...page.querySelectorAll('.forest, .panels')]
    .map(box => box.getBoundingClientRect().width / page.querySelector('main').clientWidth);
  out.in_view = [0, 0.5, 1].every(part => {
    window_.scrollTo(0, part * page.documentElement.scrollHeight);
    const nav = page.querySelector('nav').getBoundingClientRect();
    return nav.top >= -1 && nav.bottom <= frame.clientHeight + 1 && nav.height > 20;
  });
  return out;
}
"""


def look_at(page, widths=SCREENS):
    """By width, what a browser says of a page (see `ASKS`); skips where there is no browser."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip("no chromium here: apt-get install chromium")
    text = html.escape(page.read_text())
    frames = "".join(
        f'<iframe id="w{width}" width="{width}" height="{SCREENS.get(width, 800)}"'
        f' style="border:0;display:block" srcdoc="{text}"></iframe>'
        for width in widths
    )
    script = (
        f"{ASKS} onload = () => {{ const out = {{}};"
        " for (const frame of document.querySelectorAll('iframe'))"
        " out[frame.id.slice(1)] = ask(frame);"
        " const pre = document.createElement('pre'); pre.id = 'found';"
        " pre.textContent = JSON.stringify(out); document.body.replaceChildren(pre); }"
    )
    outer = page.with_name("outer.html")
    outer.write_text(f'<meta charset="utf-8"><script>{script}</script>{frames}')
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--disable-background-networking", "--virtual-time-budget=20000", "--dump-dom"]
    said = subprocess.run(
        [*command, outer.as_uri()], capture_output=True, text=True, timeout=240, check=True
    ).stdout
    found = re.search(r'<pre id="found">(.*?)</pre>', said, flags=re.DOTALL)
    assert found is not None
    return {int(width): seen for width, seen in json.loads(html.unescape(found[1])).items()}


def assert_readable(page, widths=SCREENS):
    """Nothing is cut or overlaps, the contents stay in view, and the details begin soon."""
    for width, seen in look_at(page, widths).items():
        assert seen["width"] <= width
        assert seen["labels"] > 10
        assert not seen["cut"], width
        assert not seen["overlaps"], width
        assert seen["in_view"], width
        assert seen["screens"] <= 6, width
        assert all(share > 0.99 for share in seen["plots"]), width
