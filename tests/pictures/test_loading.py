"""Pictures from files, data: URLs and http, and what of them is refused."""

from __future__ import annotations

import base64
import contextlib
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxconv.errors import BackendUnavailable, UsageError
from jaxconv.pictures import Picture, PictureAccess, loading
from jaxconv.pictures.loading import read_picture
from tests.support.multimodal import picture

PNG = picture(20, 31)


def encoded(image: Any, form: str, **options: Any) -> bytes:
    """A picture as a file."""
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def test_files_and_data_urls(tmp_path: Path) -> None:
    """Relative paths start from the base."""
    (tmp_path / "a.png").write_bytes(PNG)
    for reference in ("a.png", tmp_path / "a.png", f"data:image/png;base64,{base64.b64encode(PNG).decode()}"):
        assert read_picture(reference, PictureAccess(tmp_path)).data == PNG


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("none.png", r"none\.png cannot be read .*relative to"),
        (".", "cannot be read"),
        ("a\0b", "cannot be read"),
        ("data:image/png,abc", "not in base64"),
        ("data:image/png;base64,a?", "is not base64"),
        ("ftp://host/a.png", "URL that is not read here"),
        ("http://host/a.png", r"another machine.*--allow-remote-images .*allow_remote_images=True"),
        ("HTTPS://host/a.png", "--allow-remote-images"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, reference: str, message: str) -> None:
    """Missing files, damaged URLs, and addresses of other machines."""
    with pytest.raises(UsageError, match=message):
        read_picture(reference, PictureAccess(tmp_path))


def test_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are decoded."""
    monkeypatch.setattr(loading, "MAX_BYTES", len(PNG) - 1)
    (tmp_path / "a.png").write_bytes(PNG)
    for reference in ("a.png", f"data:image/png;base64,{base64.b64encode(PNG).decode()}"):
        with pytest.raises(UsageError, match=f"more than {len(PNG) - 1} bytes"):
            read_picture(reference, PictureAccess(tmp_path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no format that is read here"),
        (b"a text", "no format that is read here"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no format that is read here"),
        (PNG[:60], "damaged"),
        (PNG[:-40], "damaged"),
    ],
)
def test_damaged_pictures(data: bytes, message: str) -> None:
    """The message names the picture and what to do."""
    with pytest.raises(UsageError, match=rf"picture x\.png .*({message})"):
        Picture("x.png", data).image()


@pytest.mark.parametrize("side", [2**13 + 1, 2**15])
def test_decompression_bombs(side: int) -> None:
    """Few bytes of very many pixels are refused by their header, Pillow's own limits reached or not."""
    header = side.to_bytes(4, "big") * 2
    chunk = b"IHDR" + header + PNG[24:29]
    bomb = PNG[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + PNG[33:]
    started = time.monotonic()
    with pytest.raises(UsageError, match="at most 67108864 are read"):
        Picture("x.png", bomb).image()
    assert time.monotonic() - started < 1


def test_transparent_parts_are_white_and_exif_turns() -> None:
    """As vLLM decodes pictures."""
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, :, 3] = 255
    clear = Picture("x.png", encoded(Image.fromarray(pixels), "PNG")).image()
    assert clear.mode == "RGB"
    assert np.asarray(clear).tolist() == [[[0, 0, 0]] * 3, [[255, 255, 255]] * 3]
    palette = Image.new("P", (4, 4))
    assert np.asarray(Picture("x.gif", encoded(palette, "GIF", transparency=0)).image()).min() == 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert Picture("x.jpg", encoded(Image.new("RGB", (8, 16)), "JPEG", exif=exif)).image().size == (16, 8)


class Handler(BaseHTTPRequestHandler):
    """Answers with a picture, a redirect, too much, or slowly."""

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/a.png")
            self.end_headers()
        elif self.path == "/to-ftp":
            self.send_response(302)
            self.send_header("Location", "ftp://localhost/a.png")
            self.end_headers()
        elif self.path in ("/a.png", "/slow"):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # the client has had enough
                for index in range(0, len(PNG), 8):
                    self.wfile.write(PNG[index : index + 8])
                    time.sleep(0.02 if self.path == "/slow" else 0)
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server of pictures on this machine."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


def test_http_is_fetched_where_it_is_allowed(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirects are followed to http alone; size and time have limits."""
    allowed = PictureAccess(remote=True)
    assert read_picture(f"{server}/a.png", allowed).data == PNG
    assert read_picture(f"{server}/redirect", allowed).data == PNG
    for path, message in {"none": "404", "to-ftp": "redirects to ftp"}.items():
        with pytest.raises(UsageError, match=f"cannot be fetched .*{message}"):
            read_picture(f"{server}/{path}", allowed)
    with pytest.raises(UsageError, match="cannot be fetched"):
        read_picture("http://127.0.0.1:1/a.png", allowed)
    monkeypatch.setattr(loading, "SECONDS", 0.1)
    with pytest.raises(UsageError, match=r"takes longer than 0\.1 s"):
        read_picture(f"{server}/slow", allowed)
    monkeypatch.setattr(loading, "SECONDS", 30.0)
    monkeypatch.setattr(loading, "MAX_BYTES", 50)
    with pytest.raises(UsageError, match="more than 50 bytes"):
        read_picture(f"{server}/a.png", allowed)


def test_a_missing_pillow_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(BackendUnavailable, match=r"Pillow.*pip install 'jaxconv\[pictures\]'"):
        Picture("x.png", PNG).image()
