"""A server that most of these tests share."""

from __future__ import annotations

import openai
import pytest

from serving import TEMPLATE, Server
from serving_requests import N_CTX, N_PARALLEL
from small_models import talking_llama


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    talking_llama(folder / "tiny.gguf")
    (folder / "template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="package")
def options(folder):
    return ("-c", str(N_CTX), "-t", "1", "--chat-template", str(folder / "template.jinja"))


@pytest.fixture(scope="package")
def server(folder, options):
    """Shared by most tests: each leaves it without requests."""
    more = ("--ranks", "2", "--parallel", str(N_PARALLEL), "--queue", "40")
    with Server(folder / "tiny.gguf", *options, *more) as server:
        yield server


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client
