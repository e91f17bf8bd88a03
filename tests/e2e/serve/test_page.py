"""The page of `pipeinfer serve`."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from pathlib import Path

import pytest

import browser
from serving import ANSWER_S, Server
from serving_requests import COMMON
from support import smollm2

pytestmark = pytest.mark.e2e


def test_the_page_and_its_events(server):
    with urllib.request.urlopen(server.url + "/", timeout=ANSWER_S) as answer:
        page = answer.read().decode()
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.findall(r"(?:src|href)=\"(?!data:)|https?://|@import|url\(", page)
    fates: set[str] = set()
    with urllib.request.urlopen(server.url + "/live", timeout=ANSWER_S) as events:
        assert events.readline().startswith(b"data: ")
        server.text(prompt=f"not cached yet: {COMMON}", max_tokens=30, ignore_eos=True)
        n_tokens = 0
        while not {"prompt", "decided"} <= fates:
            if not (line := events.readline()).startswith(b"data: "):
                continue
            for each in json.loads(line[6:])["events"]:
                fates |= {each["fate"]} if "fate" in each else set()
                n_tokens += len(each.get("spans", ()))
        assert n_tokens > 2, "each stage has its part of a run"


@pytest.mark.skipif(bool(browser.missing()), reason=f"{browser.missing()} is missing")
def test_the_page_in_a_browser(tmp_path):
    """Idle, while it answers, and stopped in the middle. TEST_PICTURES names a folder for PNGs."""
    pictures = Path(os.environ.get("TEST_PICTURES") or tmp_path)
    more = (
        "-c",
        "2048",
        "-t",
        "1",
        "--ranks",
        "2",
        "--strategy",
        "pipeinfer",
        "--drafter",
        "ngram",
    )
    with Server(smollm2(), *more) as server, browser.browser(tmp_path) as window:
        window.open(server.url)
        window.wait("$('state').className === 'ready' && $('about').textContent")
        assert window.value("$('about').textContent").startswith("smollm2")
        assert window.wait("$('tiles').children.length === 7")
        assert window.value("nStages") == 2
        window.picture(pictures / "idle.png")

        window.write("#tokens", "1500")
        window.write("#text", "Count from one to a hundred, again and again.")
        window.click("#send")
        assert window.wait("$('send').textContent === 'Stop'")
        window.wait("document.querySelector('.assistant').textContent.length > 40")
        assert set(window.wait("spans.length > 9 && spans.map((each) => each[0])")) == {0, 1}
        window.wait("spans.some((each) => each[3].match('drafted|wrong')) && cancels.length")
        window.picture(pictures / "chatting.png")

        window.click("#send")
        assert window.wait("document.querySelector('.assistant small').textContent") == "stopped"
        server.await_metric("requests_total", 1, end="cancelled")
        server.await_metric("requests_active", 0)
        window.wait("$('tiles').textContent.includes('0 + 0') && cancels.length")
        window.picture(pictures / "cancelled.png")
        assert window.value("$('send').textContent") == "Send"

        sources = window.value("performance.getEntriesByType('resource').map((each) => each.name)")
        assert sources and all(each.startswith(server.url) for each in sources)
        assert window.errors() == []
