"""Import and export over HTTP."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from humanward.errors import InputError
from humanward.feedback.formats import FORMATS, export_file
from humanward.feedback.service.auth import Me, TheStore, signed_in, store_of
from humanward.feedback.service.review_schemas import ImportReply
from humanward.feedback.service.schemas import Id
from humanward.feedback.store.errors import RefusedError, invalid
from humanward.feedback.store.loading import load_files
from humanward.feedback.store.people import require
from humanward.feedback.store.runs import feedback_for

router = APIRouter(tags=["data"])
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".jsonl.gz", ".ndjson.gz", ".json.gz", ".csv.gz", ".tsv.gz")
ENDING_OF = {"csv": "csv", "label-studio": "json", "argilla": "json"}
WRITTEN = [name for name, form in FORMATS.items() if form.write]


@router.post(
    "/projects/{project_id}/import",
    openapi_extra={"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}},
)
async def import_data(
    project_id: Id,
    request: Request,
    format: Annotated[str, Query(max_length=40)] = "auto",
    filename: Annotated[str, Query(max_length=200)] = "upload.jsonl",
    skip_bad: bool = False,
) -> ImportReply:
    """Add a file's records (admins); the body is the file, ``filename`` says by its ending what it is."""
    actor = await run_in_threadpool(signed_in, request)
    store = store_of(request)

    def allowed() -> None:
        with store.read() as db:
            require(db, actor, project_id, "admin")

    await run_in_threadpool(allowed)
    ending = next((end for end in sorted(ENDINGS, key=len, reverse=True) if filename.lower().endswith(end)), None)
    if ending is None:
        raise invalid("filename", f"{filename[:60]!r} does not end in one of {', '.join(ENDINGS)}")
    if format != "auto" and format not in FORMATS:
        raise invalid("format", f"{format!r} is unknown; use auto or one of {', '.join(FORMATS)}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{ending}"
        with path.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        return await run_in_threadpool(_import, store, actor, project_id, path, format, skip_bad)


def _import(store: TheStore, actor: Me, project_id: int, path: Path, format: str, skip_bad: bool) -> ImportReply:
    try:
        loaded = load_files(store, actor, project_id, [path], format, skip_bad=skip_bad)
    except InputError as error:
        # The path of a temporary file says nothing to whoever sent it.
        raise RefusedError(422, "bad_input", str(error).replace(str(path), "upload")) from None
    return ImportReply(
        rows=loaded.rows,
        good=loaded.rows - loaded.bad_rows,
        bad=loaded.bad_rows,
        reasons=[reason.replace(str(path), "upload") for reason in loaded.reasons[:200]],
        notes=loaded.notes,
        **vars(loaded.added),
    )


@router.get("/projects/{project_id}/export", response_class=FileResponse)
def export_data(
    project_id: Id, store: TheStore, actor: Me, format: Annotated[str, Query(max_length=40)] = "humanward"
) -> FileResponse:
    """All records in a format (admins); ``humanward`` is lossless."""
    with store.read() as db:
        project = require(db, actor, project_id, "admin")
    if format not in WRITTEN:
        raise invalid("format", f"{format!r} cannot be written; use one of {', '.join(WRITTEN)}")
    feedback = feedback_for(store, project_id, format)
    if not feedback.prompts:
        raise RefusedError(409, "nothing_there", f"project {project.name}: holds nothing yet; import something")
    ending = ENDING_OF.get(format, "jsonl")
    handle, name = tempfile.mkstemp(suffix=f".{ending}")
    os.close(handle)
    path = Path(name)
    try:
        export_file(path, format, feedback)
    except InputError as error:
        path.unlink(missing_ok=True)
        # The path of a temporary file says nothing to whoever asks.
        raise RefusedError(409, "cannot_hold", str(error).replace(str(path), project.name)) from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in project.name)
    kind = {"csv": "text/csv", "json": "application/json"}.get(ending, "application/x-ndjson")
    return FileResponse(
        path, media_type=kind, filename=f"{safe}-{format}.{ending}", background=BackgroundTask(path.unlink, True)
    )
