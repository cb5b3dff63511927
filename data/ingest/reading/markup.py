"""XML and HTML by lxml, without network, DTD or entities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_phi3v.errors import UserError

from ..row import first_line
from .byte_streams import missing_package, open_bytes


def load_lxml(path: Path) -> Any:
    """The package lxml with its modules etree and html. Raises UserError, naming the file, where it is missing."""
    try:
        import lxml.etree
        import lxml.html
    except ImportError:
        raise missing_package(path, "lxml") from None
    return lxml


def xml_events(path: Path) -> Iterator[tuple[str, Any]]:
    """("start" or "end", element) of each element of a file. Raises UserError where it is not well-formed, or has entities."""
    etree = load_lxml(path).etree
    with open_bytes(path) as file:
        try:
            events = etree.iterparse(
                file,
                events=("start", "end"),
                resolve_entities=False,
                no_network=True,
                load_dtd=False,
                remove_comments=True,
                remove_pis=True,
            )
            for event, element in events:
                if isinstance(element.tag, str):
                    if event == "start" and element.getparent() is None:
                        _refuse_entities(path, element)
                    yield event, element
        except etree.XMLSyntaxError as error:
            raise UserError(f"{path} is not well-formed XML ({first_line(error)}); get it again") from None


def _refuse_entities(path: Path, root: Any) -> None:
    declared = root.getroottree().docinfo.internalDTD
    if declared is not None and any(True for _ in declared.iterentities()):
        raise UserError(f"{path} declares entities, which is refused; save it without a DOCTYPE")


def local_name(tag: str) -> str:
    """The name of an element without its namespace."""
    return tag.rpartition("}")[2]
