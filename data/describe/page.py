"""The description as one HTML page."""

from __future__ import annotations

from pathlib import Path

from mlx_phi3v.files import write_text

from .figures import Description


def write_page(path: Path, description: Description) -> None:
    """Write the description as one HTML file that needs nothing else, whole or not at all."""
    import jinja2

    # The text of a catalogue is untrusted: every value is escaped, and the page may load nothing.
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    write_text(path, environment.get_template("page.html").render(d=description))
