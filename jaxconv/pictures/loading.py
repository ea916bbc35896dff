"""Pictures as bytes, from files, data: URLs and, where that is allowed, http: a bounded size in a bounded time."""

from __future__ import annotations

import base64
import binascii
import re
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from jaxconv.errors import BackendUnavailable, UsageError

Image: TypeAlias = Any  # a PIL.Image.Image

MAX_BYTES = 64 * 2**20  # of a picture's file
MAX_PIXELS = 2**26  # of a picture: 8192 x 8192
SECONDS = 30.0  # that fetching a picture may take
BLOCK = 2**16
# Formats that Pillow reads by itself; vLLM takes these and rarer ones.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True, slots=True)
class PictureAccess:
    """Where pictures may come from.

    Attributes:
        base: The directory that relative paths start from.
        remote: Whether http and https addresses are fetched.
    """

    base: Path = Path()
    remote: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's file.

    Attributes:
        name: What messages and reports call it.
        data: Its bytes.
    """

    name: str
    data: bytes

    @property
    def url(self) -> str:
        """The file as a data: URL, as a request to a server has it."""
        kind = str(self._open().format).lower()
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"

    def image(self) -> Image:
        """The picture as vLLM decodes it: turned as its EXIF data says, transparent parts white, RGB.

        Raises:
            UsageError: The file is damaged, too large, or of no known format.
        """
        image = self._open()
        from PIL import Image, ImageOps

        try:
            image = ImageOps.exif_transpose(image)
            image.load()
            if not image.has_transparency_data:
                return image.convert("RGB")
            image = image.convert("RGBA")
            white = Image.new("RGB", image.size, (255, 255, 255))
            white.paste(image, mask=image.split()[3])
            return white
        except (OSError, SyntaxError, ValueError, ArithmeticError, LookupError) as error:
            raise UsageError(f"picture {self.name} is damaged ({error}). Save it again, as PNG or JPEG.") from None

    def _open(self) -> Image:
        """The picture with its header read and nothing decoded."""
        try:
            from PIL import Image
        except ImportError:
            raise BackendUnavailable(
                "pictures need Pillow, not installed here. Run: pip install 'jaxconv[pictures]'"
            ) from None
        Image.init()
        try:
            image = Image.open(BytesIO(self.data), formats=[name for name in FORMATS if name in Image.OPEN])
        except Image.DecompressionBombError:
            raise UsageError(_too_many(self.name, f"more than {MAX_PIXELS}")) from None
        except Image.UnidentifiedImageError:
            raise UsageError(
                f"picture {self.name} has {len(self.data)} bytes in no format that is read here; expected one of: "
                f"{', '.join(FORMATS)}. Save it as PNG or JPEG."
            ) from None
        except (OSError, SyntaxError, ValueError, LookupError) as error:
            raise UsageError(f"picture {self.name} is damaged ({error}). Save it again, as PNG or JPEG.") from None
        if image.width * image.height > MAX_PIXELS:
            raise UsageError(_too_many(self.name, f"{image.width} x {image.height}"))
        return image


def read_picture(reference: str | Path, access: PictureAccess) -> Picture:
    """Reads a picture's file; nothing is decoded.

    Args:
        reference: A path, a data: URL, or an http or https URL.
        access: Where pictures may come from.

    Raises:
        UsageError: The file is missing, unreadable, too large or takes too long, or http is not allowed.
    """
    check_reference(reference, access)
    text = str(reference)
    if text.startswith("data:"):
        return Picture(text[:40] + ("…" if len(text) > 40 else ""), _decoded(text))
    if _is_remote(reference):
        return Picture(text, _fetched(text))
    try:
        with _path(text, access).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(_unreadable(text, error, access)) from None
    _check_size(text, len(data))
    return Picture(text, data)


def check_reference(reference: str | Path, access: PictureAccess) -> None:
    """Raises `UsageError` for a picture that cannot be read, as far as that is seen without reading it.

    Args:
        reference: A path, a data: URL, or an http or https URL.
        access: Where pictures may come from.
    """
    text = str(reference)
    if text.startswith("data:"):
        return
    if _is_remote(reference):
        if not access.remote:
            raise UsageError(
                f"picture {text:.200} is on another machine; expected a file or a data: URL. Give --allow-remote-images "
                "(in Python allow_remote_images=True) to fetch it."
            )
    elif isinstance(reference, str) and SCHEME.match(text):
        raise UsageError(f"picture {text:.200} is a URL that is not read here; expected a path, http, https or data:.")
    else:
        try:
            _path(text, access).stat()
        except (OSError, ValueError) as error:
            raise UsageError(_unreadable(text, error, access)) from None


def _is_remote(reference: str | Path) -> bool:
    return isinstance(reference, str) and reference.lower().startswith(("http://", "https://"))


def _path(text: str, access: PictureAccess) -> Path:
    return access.base / Path(text).expanduser()


def _unreadable(text: str, error: Exception, access: PictureAccess) -> str:
    return f"picture {text:.200} cannot be read ({error}); expected a file, its path relative to {access.base.resolve()}."


def _too_many(name: str, size: str) -> str:
    return f"picture {name} has {size} pixels; at most {MAX_PIXELS} are read. Make it smaller."


def _check_size(name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise UsageError(f"picture {name:.200} has more than {MAX_BYTES} bytes. Make it smaller.")


def _decoded(url: str) -> bytes:
    """The bytes of a data: URL."""
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise UsageError(f"picture {url[:40]}… is not in base64; expected data:image/png;base64,… or another format's.")
    _check_size(head, len(body) * 3 // 4)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"picture {url[:40]}… is not base64 ({error}). Encode the file again.") from None


class _OnlyHttp(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise OSError(f"it redirects to {newurl:.200}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetched(url: str) -> bytes:
    """The bytes behind an http or https address."""
    deadline = time.monotonic() + SECONDS
    data = bytearray()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "jaxconv"})
        with urllib.request.build_opener(_OnlyHttp).open(request, timeout=SECONDS) as answer:
            while block := answer.read1(BLOCK):
                data += block
                _check_size(url, len(data))
                if time.monotonic() > deadline:
                    raise TimeoutError(f"it takes longer than {SECONDS:g} s")
    except (OSError, ValueError, HTTPException) as error:
        raise UsageError(f"picture {url:.200} cannot be fetched ({error}). Download it and give its path.") from None
    return bytes(data)
