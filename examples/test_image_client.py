"""Test a client of OpenAI's images without a key or a GPU: `pytest test_image_client.py`."""

import subprocess
import sys

import openai
import pytest


@pytest.fixture(scope="session")
def client():
    command = [sys.executable, "-m", "ldmref", "serve", "--port", "8188", "--no-page"]
    with subprocess.Popen(command) as server:  # the client tries again until the server answers
        yield openai.OpenAI(base_url="http://127.0.0.1:8188/v1", api_key="none", max_retries=9)
        server.terminate()


def test_stream(client):
    seed = {"seed": 1}
    request = {"prompt": "a red heart", "extra_body": seed}
    *partial, completed = client.images.generate(**request, stream=True, partial_images=2)
    assert [image.partial_image_index for image in partial] == [0, 1]
    assert completed.b64_json == client.images.generate(**request).data[0].b64_json
