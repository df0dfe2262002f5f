"""The page in a browser: Gradio's part of it, which knows nothing of models.

Gradio keeps uploads in a folder of its own; ours is private, an upload is deleted once it is
answered, and the folder with the process. Telemetry, links to share and fonts from elsewhere are
off, and a Content-Security-Policy has the browser refuse whatever is not from this computer.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medcolor_tf.errors import InputError
from medcolor_tf.serving.film import FilmModel
from medcolor_tf.serving.film_html import (
    MOST_PICTURED,
    STYLE,
    answers_html,
    card_html,
    notice_html,
)

TITLE = "medcolor_tf"
MOST_FILES = 200
# Uploads that nobody asked an answer for (a tab closed meanwhile) go after this time.
UNANSWERED_SECONDS = 600.0
LARGEST_FILE = "200mb"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Before Gradio is imported: no telemetry, no look for a newer version.
ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_TEMP_DIR": "",
}
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Makes the folder for uploads, which only this user may read, and deletes it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="medcolor-page-"))
    try:
        os.environ.update(ENVIRONMENT | {"GRADIO_TEMP_DIR": str(folder)})
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def answer_files(model: FilmModel, paths: Sequence[str], folder: Path) -> str:
    """Answers uploads as HTML, and deletes them whatever comes of it.

    Args:
        model: that answers.
        paths: of the uploads; names are those of the user's files.
        folder: that the uploads are in; nothing outside it is read or deleted.
    """
    inside = [Path(path) for path in paths if _is_inside(Path(path), folder)]
    try:
        if len(inside) > MOST_FILES:
            return (
                "<div class='film-page'><p class='bad' role='alert'>"
                f"{len(inside)} files: expected at most {MOST_FILES} at a time; `python -m "
                "medcolor_tf.predict` takes folders of any number.</p></div>"
            )
        answers, pictured = [], 0
        for path in inside:
            answer = model.answer(path, path.name, panels=pictured < MOST_PICTURED)
            pictured += not answer.error
            answers.append(answer)
        return answers_html(model, answers)
    finally:
        for path in inside:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # Gradio's folder of this upload
                path.parent.rmdir()
        _sweep(folder)


def _sweep(folder: Path) -> None:
    """Deletes what has been in the folder for longer than any answer takes."""
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another answer may have deleted it
            if path.is_file() and time.time() - path.stat().st_mtime > UNANSWERED_SECONDS:
                path.unlink()


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve()) and path.is_file()


def build_page(model: FilmModel, folder: Path) -> Any:
    """Returns the page as a ``gradio.Blocks``.

    Args:
        model: that answers.
        folder: of the uploads, see :func:`private_folder`.
    """

    def answer(paths: list[str] | None):
        return None, answer_files(model, paths or [], folder)

    import gradio

    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 60)) as page:
        gradio.HTML(f"<h1>X-rays in colour, and what the model reads in them</h1>{notice_html()}")
        films = gradio.File(
            label="Films: JPEG, PNG, TIFF or DICOM, one or several",
            file_count="multiple",
            height=160,
        )
        answered = gradio.HTML("", elem_id="answer")
        gradio.HTML(card_html(model))
        films.upload(
            answer, films, [films, answered], api_visibility="private", show_progress="minimal"
        )
    return page


def serve(
    model: FilmModel, host: str, port: int, share: bool = False, block: bool = True
) -> Iterator[str]:
    """Serves the page; yields its address once it can be opened, ends with the process.

    Args:
        model: that answers.
        host: to listen on, 127.0.0.1 for this computer alone.
        port: to listen on; 0 for any free one.
        share: whether Gradio's servers give the page a public address.
        block: whether to wait until the process is interrupted.

    Raises:
        InputError: the address cannot be listened on.
    """
    with private_folder() as folder:
        page = build_page(model, folder)
        page.queue(max_size=32, default_concurrency_limit=1)
        try:
            _, address, shared = page.launch(
                server_name=host,
                server_port=port or None,
                share=share,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=LARGEST_FILE,
                ssr_mode=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=[],
                css=STYLE,
                theme=_theme(),
                app_kwargs={"middleware": [_policy()]},
            )
        except OSError as error:
            raise InputError(
                f"--host={host} --port={port}: cannot be listened on ({error}); expected an "
                "address of this computer and a free port (--port=0 takes any)"
            ) from None
        try:
            yield shared or address
            if block:
                page.block_thread()
        finally:
            page.close(verbose=False)


def _theme() -> Any:
    """The default look in the system's own fonts: Gradio's come from Google."""
    import gradio

    return gradio.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )


def _policy() -> Any:
    """A middleware that has the browser refuse what is not from this server."""
    from starlette.middleware import Middleware

    return Middleware(_PolicyHeader)


class _PolicyHeader:
    """Adds the Content-Security-Policy to every answer."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def with_header(message):
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", [])]
                headers += [
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, with_header)
