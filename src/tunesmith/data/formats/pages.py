"""The words of PDF files, page by page. Pictures of words are none: that needs character recognition first."""

from __future__ import annotations

import io
import logging
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.extras import needed

_TAIL = 2048
"""A PDF file ends with %%EOF, with a little behind it in some; where it is missing the end of the file is."""


def text_of_pdf(content: bytes, path: Path) -> tuple[str, int, int]:
    """The text, an empty line between pages, with the number of pages and of those without any text.

    Errors: data.extra_missing, data.broken_file, data.locked_document, data.no_words (pictures alone).
    """
    pypdf = needed("pypdf", "documents", "pdf")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its warnings repeat what the file says
    broken = TunesmithError("data.broken_file", path=str(path), format="pdf")
    if b"%PDF-" not in content[:_TAIL] or b"%%EOF" not in content[-_TAIL:]:
        raise broken
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        locked = reader.is_encrypted and not reader.decrypt("")
        pages = [] if locked else [str(page.extract_text()).strip() for page in reader.pages]
    except Exception as error:  # of damaged files the library raises classes of its own and nearly all of Python's
        raise broken from error
    if locked:
        raise TunesmithError("data.locked_document", path=str(path))
    said = [page for page in pages if page]
    if not said:
        raise TunesmithError("data.no_words", path=str(path), pages=len(pages))
    return "\n\n".join(said), len(pages), len(pages) - len(said)
