def test_generate(server):
    body = {"parameters": {"prompt": "a cat", "seed": 3, "steps": 2}}
    answer = server.client.post("/v1/generate", json=body)
    assert answer.status_code == 200 and answer.content[:4] == b"\x89PNG"
    submitted = server.client.post("/v1/jobs", json=body)
    assert submitted.status_code == 202
    done = server.finish(submitted.json()["id"])
    assert done["state"] == "done"
    assert server.client.get(done["images"][0]["url"]).content == answer.content
    events = server.client.get(done["events"]).text
    assert events.rstrip().splitlines()[-2] == "event: done"
