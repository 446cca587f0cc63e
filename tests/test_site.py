"""The documentation site: it builds without a warning, and no page is wider than its window."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("", "tutorials/own-folder/", "reference/commands/", "reference/python/", "results/")
WIDTHS, SCHEMES = (1280, 390), ("light", "dark")

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        importlib.util.find_spec("mkdocs") is None, reason="the extra docs is not installed"
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_every_command_and_key_has_a_place(site):
    for page, words in {
        "reference/commands": ("mmv pretrain", "--workdir"),
        "reference/config-keys": ("rows.length", "objective.mae"),
        "reference/python": ("load_encoder", "Raises"),
    }.items():
        text = (site / page / "index.html").read_text()
        assert all(word in text for word in words), page


def test_no_page_asks_another_host(site):
    for page in PAGES:
        text = (site / page / "index.html").read_text()
        for tag in ('<script src="http', '<link rel="stylesheet" href="http', '<img src="http'):
            assert tag not in text, page


def test_no_page_is_wider_than_a_window(site):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_path = shutil.which("chromium")
    if browser_path is None:
        pytest.skip("chromium is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--allow-file-access-from-files"]
        )
        for width in WIDTHS:
            for scheme in SCHEMES:
                context = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme
                )
                tab = context.new_page()
                for page in PAGES:
                    tab.goto((site / page / "index.html").as_uri())
                    assert tab.evaluate("document.documentElement.scrollWidth") <= width, page
        browser.close()
