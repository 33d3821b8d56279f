"""Writes what the site is built from, or renews the README's generated parts: make docs calls it.

python -m docs.generate                    into runs/site, for zensical
python -m docs.generate --readme           the README's table and picture
"""

from collections.abc import Sequence
from pathlib import Path

from utils.config.flags import Parser
from utils.errors import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages; exit code 2 for a wrong flag or an unknown block."""
    parser = Parser(prog="python -m docs.generate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--into", type=Path, default=Path("runs/site"), help="folder (default runs/site)")
    parser.add_argument("--readme", action="store_true", help="renew the README's table and picture instead")
    options = parser.parse_args(arguments)
    # Only now torch: a wrong flag has been answered already.
    from docs.generate.pages import renew_readme, write_site

    if options.readme:
        renew_readme()
    else:
        write_site(options.into)
    return 0


if __name__ == "__main__":
    run_command(main)
