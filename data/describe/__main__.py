"""Look at a catalogue before training on it.

Prints counts, categories, prices, photo sizes, tokens per row and duplicates, and writes them with a contact sheet
as one self-contained page next to the catalogue (or to --page).

    python -m data.describe runs/photos
    python -m data.describe runs/photos --model ~/Phi-3.5-vision --page photos.html
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlx_phi3v.cli import option, parse
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.outputs import output_path
from mlx_phi3v.ranges import MAX_CROPS, MAX_ROWS, MAX_SEED, MAX_TOKENS
from mlx_phi3v.text import printable


@dataclass(frozen=True)
class DescribeConfig:
    """One run of `data.describe`."""

    catalogue: Path = option(help="folder of the catalogue", positional=True)
    model: Path | None = option(None, help="folder of a model: its tokenizer counts the text and shows what is trained")
    num_crops: tuple[int, ...] = option((1, 4, 16), help="count tokens at these settings", at_least=1, at_most=MAX_CROPS)
    max_length: int | None = option(
        None, help="most tokens a row may take; by default the model's own limit", at_least=1, at_most=MAX_TOKENS
    )
    sample: int = option(1000, help="rows whose photos and tokens are looked at", at_least=0, at_most=MAX_ROWS)
    pictures: int = option(48, help="photos on the contact sheet", at_least=0, at_most=10_000)
    seed: int = option(0, help="the same seed looks at the same rows", at_least=0, at_most=MAX_SEED)
    page: Path | None = option(None, help="HTML page to write; by default NAME.html next to the catalogue", writes="html")
    json: bool = option(False, help="print progress and the figures as JSON lines")

    def check_values(self, where: str) -> None:
        """Raise UserError where no model is found, or nothing is to be counted."""
        if self.model is not None and not self.model.is_dir():
            raise UserError(f"--model is {self.model}, which is no folder; give the folder of a model")
        if not self.num_crops:
            raise UserError("--num-crops is empty; give numbers of 1 or more")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    settings = parse(DescribeConfig, "python -m data.describe", __doc__ or "", argv)
    from mlx_phi3v.catalogue import Catalogue  # with all that reads photos: --help and a wrong flag need none of it

    from .describe import describe
    from .figures import without_pictures
    from .page import write_page

    catalogue = Catalogue(settings.catalogue)
    folder = settings.catalogue.resolve()
    page = settings.page or output_path(folder.with_name(f"{folder.name}.html"), "html", "the page (--page names another)")
    description = describe(
        catalogue,
        model=settings.model,
        num_crops=settings.num_crops,
        max_length=settings.max_length,
        sample=settings.sample,
        pictures=settings.pictures,
        seed=settings.seed,
        as_json=settings.json,
    )
    write_page(page, description)
    if settings.json:
        figures = dataclasses.asdict(without_pictures(description))
        print(json.dumps(figures | {"task": description.task.to_dict(), "page": str(page)}))
    else:
        from rich.console import Console

        from .terminal import show

        show(description, Console())
        print(f"page: {printable(page)}")
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
