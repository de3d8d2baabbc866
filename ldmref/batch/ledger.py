"""The account of a run: which rows are done, which have failed, and which are still to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ldmref.batch.folder import BatchFolder, ManifestLine, is_named_after, name_image
from ldmref.batch.planning import PlannedRow
from ldmref.batch.rows import RowFailure, make_failure
from ldmref.batch.tasks import RowOutcome
from ldmref.errors import LdmrefError

IMAGE_FIELDS = ("index", "file", "sha256", "params", "warnings")


@dataclass
class BatchLedger:
    """The rows of a batch by key, and the images that exist for them.

    Args:
        folder: The folder of the batch.
        planned: All rows that can be generated, with their keys.
        wrong: The rows that cannot.
        done: The lines of the images of each key that is complete and verified.
        failed: The failure of each key whose generation failed.
    """

    folder: BatchFolder
    planned: Sequence[PlannedRow]
    wrong: Sequence[RowFailure]
    done: dict[str, list[ManifestLine]] = field(default_factory=dict)
    failed: dict[str, LdmrefError] = field(default_factory=dict)
    _rows: dict[str, list[PlannedRow]] = field(default_factory=dict, init=False)
    _orphans: list[ManifestLine] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        for planned in self.planned:
            self._rows.setdefault(planned.key, []).append(planned)

    def rows_of(self, key: str) -> list[PlannedRow]:
        """Return the rows of a key, in the order of their lines."""
        return self._rows[key]

    # -- what exists ------------------------------------------------------------------------------

    def read(self, retry_errors: bool = False) -> None:
        """Read the manifests and errors of the folder, and verify every file by its digest."""
        known: dict[str, dict[int, ManifestLine]] = {}
        for line in self.folder.read_all("manifest"):
            if isinstance(line.get("key"), str) and isinstance(line.get("index"), int):
                known.setdefault(line["key"], {})[line["index"]] = line
        for key, rows in self._rows.items():
            lines = [known.get(key, {}).get(i) for i in range(rows[0].images)]
            whole = [line for line in lines if line is not None and self.folder.verify(line)]
            if len(whole) == rows[0].images:
                self.done[key] = [{name: line.get(name) for name in IMAGE_FIELDS} for line in whole]
        gone = [lines for key, lines in sorted(known.items()) if key not in self._rows]
        self._orphans = [
            {**line, "line": None}
            for lines in gone
            for _, line in sorted(lines.items())
            if is_named_after(line) and (self.folder.path / line["file"]).is_file()
        ]
        for line in () if retry_errors else self.folder.read_all("errors"):
            key = line.get("key")
            if key in self._rows and key not in self.done:
                code, message, hint = (str(line.get(k)) for k in ("code", "message", "hint"))
                self.failed[key] = LdmrefError(message, code=code, hint=hint)

    def begin(self) -> list[RowFailure]:
        """Write the failures that are known before anything is generated, and return them."""
        failures = self.list_failures()
        self.folder.write_sorted(self.folder.errors, [f.to_json() for f in failures])
        return failures

    def list_open(self) -> list[PlannedRow]:
        """Return the first row of every key that is neither done nor failed."""
        return [
            rows[0]
            for key, rows in self._rows.items()
            if key not in self.done and key not in self.failed
        ]

    def list_files(self) -> Iterator[str]:
        """Yield the name of every file of the rows."""
        for key, rows in self._rows.items():
            first = rows[0]
            for i in range(first.images):
                yield name_image(key, first.row.custom_id, i, first.images)

    # -- what is new ------------------------------------------------------------------------------

    def record(self, outcome: RowOutcome) -> list[ManifestLine]:
        """Write the images of a row, or its error, and return the lines of the manifest.

        Raises:
            OutputError: They cannot be written.
        """
        if outcome.error is not None:
            code, message, hint = outcome.error
            self.record_failure(outcome.key, LdmrefError(message, code=code, hint=hint))
            return []
        first = self._rows[outcome.key][0]
        images: list[ManifestLine] = []
        for i, image in enumerate(outcome.images):
            name = name_image(outcome.key, first.row.custom_id, i, len(outcome.images))
            self.folder.write_image(name, image.png)
            values = (i, name, image.sha256, dict(image.params), list(outcome.warnings))
            images.append(dict(zip(IMAGE_FIELDS, values, strict=True)))
        self.done[outcome.key] = images
        lines = [line for row in self._rows[outcome.key] for line in self._lines_of(row)]
        self.folder.append(self.folder.manifest, lines)
        return lines

    def record_failure(self, key: str, error: LdmrefError) -> None:
        """Write the error of a row."""
        self.failed[key] = error
        failures = [failure.to_json() for failure in self.failures_of(key)]
        self.folder.append(self.folder.errors, failures)

    # -- numbers ----------------------------------------------------------------------------------

    def count_done(self) -> int:
        """Return the number of rows that are done."""
        return sum(row.key in self.done for row in self.planned)

    def count_images(self) -> int:
        """Return the number of images of the rows; equal rows share theirs."""
        return sum(len(lines) for lines in self.done.values())

    # -- the files at the end ---------------------------------------------------------------------

    def failures_of(self, key: str) -> list[RowFailure]:
        """Return the failures of the rows of a key; none unless it failed."""
        error = self.failed.get(key)
        if error is None:
            return []
        return [make_failure(p.row.line, p.row.custom_id, error, key) for p in self._rows[key]]

    def list_failures(self) -> list[RowFailure]:
        """Return all failures, sorted by line."""
        generated = [failure for key in self.failed for failure in self.failures_of(key)]
        return sorted([*self.wrong, *generated], key=lambda failure: failure.line)

    def finish(self) -> None:
        """Write the sorted manifest and errors; those of shards are part of a whole batch's.

        Images of rows that the requests no longer hold keep their lines, with `line` null.
        """
        lines = [line for row in self.planned for line in self._lines_of(row)]
        self.folder.write_sorted(self.folder.manifest, [*lines, *self._own_orphans()])
        failures = [failure.to_json() for failure in self.list_failures()]
        self.folder.write_sorted(self.folder.errors, failures)
        self.folder.remove_shards()

    def _own_orphans(self) -> Iterable[ManifestLine]:
        """Return the lines to keep; a shard leaves them to the whole batch."""
        return self._orphans if self.folder.shard is None else ()

    def _lines_of(self, planned: PlannedRow) -> list[ManifestLine]:
        row = planned.row
        start = {"line": row.line, "custom_id": row.custom_id, "key": planned.key}
        return [start | image for image in self.done.get(planned.key, ())]
