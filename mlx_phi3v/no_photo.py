"""What a file is that people and servers give in place of a photo, by its first bytes."""

from __future__ import annotations

from typing import BinaryIO

_KINDS = {
    b"\xff\x0a": "a JPEG XL photo",
    b"\0\0\0\x0cJXL ": "a JPEG XL photo",
    b"%PDF": "a PDF document",
    b"8BPS": "a Photoshop file",
    b"PK\x03\x04": "a zip archive",
    b"\x1aE\xdf\xa3": "a video",
    b"FUJIFILMCCD-RAW": "a camera's raw file",
    b"II*\0\x10\0\0\0CR": "a camera's raw file",
    b"version https://git-lfs": "a pointer of Git LFS (run git lfs pull)",
}
_VIDEOS = (b"qt  ", b"isom", b"iso2", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"M4V ")


def other_kind(file: BinaryIO) -> str:
    """What a file without a readable photo is, such as "a web page"; "" where its first bytes do not say."""
    file.seek(0)
    start = file.read(512)
    if not start:
        return "an empty file"
    if start[4:8] == b"ftyp":
        return "a video" if start[8:12] in _VIDEOS else ""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page (a server's answer in place of a photo?)"
    if b"<svg" in text and text.startswith((b"<svg", b"<?xml", b"<!doctype svg")):
        return "an SVG drawing"
    return next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), "")
