"""All images of the gallery as one archive, read by Python's own reader of ZIP files."""

from __future__ import annotations

import io
import json
import time
import zipfile

from ldmref.io.images.metadata import read_parameters


def generate(page, **texts):
    for label, text in texts.items():
        page.get_by_label(label, exact=True).fill(str(text))
    page.get_by_role("button", name="Generate", exact=True).click()


def download_all(region):
    with region.page.expect_download() as got:
        region.get_by_role("button", name="Download all", exact=True).click()
    return got.value.suggested_filename, zipfile.ZipFile(io.BytesIO(got.value.path().read_bytes()))


def test_the_archive_holds_the_images_and_their_records(page, server):
    generate(page, Prompt="a cät", Steps=2, Seed=2**64 - 1)
    page.get_by_role("button", name="Download", exact=True).wait_for()
    generate(page, Prompt="a dog", Seed=7, Images=2)
    page.get_by_role("button", name="Show image 2, seed 8").wait_for()
    page.get_by_label("Steps", exact=True).fill("3")
    page.get_by_role("button", name="Generate", exact=True).click()
    gallery = page.get_by_role("region", name="Gallery")
    gallery.get_by_text("5", exact=True).wait_for()
    name, archive = download_all(gallery)
    assert name == "ldmref-5-images.zip"
    assert archive.testzip() is None
    lines = archive.read("manifest.jsonl").decode().splitlines()
    records = {line["file"]: line["params"] for line in map(json.loads, lines)}
    assert len(records) == 5 and {*archive.namelist()} == {*records, "manifest.jsonl"}
    assert {"a-dog-7.png", "a-dog-7-2.png", f"a-ca-t-{2**64 - 1}.png"} <= {*records}
    served = {image.png for job in server.engine.jobs() for image in job.images}
    for file, params in records.items():
        data = archive.read(file)
        assert data in served
        assert read_parameters(io.BytesIO(data))["ldmref"] == params
    year = archive.infolist()[0].date_time[0]
    assert abs(year - time.localtime().tm_year) <= 1


def test_the_images_of_one_request_are_an_archive(page):
    generate(page, Prompt="a dog", Steps=2, Seed=7, Images=2)
    _, archive = download_all(page.get_by_role("region", name="Result"))
    assert archive.namelist() == ["a-dog-7.png", "a-dog-8.png", "manifest.jsonl"]


def test_an_archive_of_any_files(page):
    """Empty files, names of other alphabets, bytes of all values."""
    files = {"empty.bin": b"", "ä/🐶.txt": b"Hund", "all.bin": bytes(range(256)) * 300}
    sent = [[name, list(data)] for name, data in files.items()]
    made = page.evaluate(
        """async (files) => {
          const {makeZip} = await import("/page/js/zip.js");
          const time = new Date(2026, 10, 25, 22, 13, 12).getTime();
          const toBlob = (data) => new Blob([Uint8Array.from(data)]);
          const blobs = files.map(([name, data]) => ({name, time, blob: toBlob(data)}));
          return [...new Uint8Array(await (await makeZip(blobs)).arrayBuffer())];
        }""",
        sent,
    )
    archive = zipfile.ZipFile(io.BytesIO(bytes(made)))
    assert archive.testzip() is None
    assert {name: archive.read(name) for name in archive.namelist()} == files
    assert archive.infolist()[0].date_time == (2026, 11, 25, 22, 13, 12)
