"""Says which package is missing for comparisons and searches; train.py needs none of them."""

import importlib.util

from utils.errors import UserError

OPTUNA = "python -m pip install optuna"
POSTGRESQL = 'python -m pip install "psycopg[binary]"'


def check_optuna() -> None:
    """Raise UserError with the command that installs Optuna where it is missing."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError(f"comparisons and searches need Optuna, which is not installed: {OPTUNA}")


def check_postgresql() -> None:
    """Raise UserError with the command that installs PostgreSQL's client where it is missing."""
    if importlib.util.find_spec("psycopg") is None:
        raise UserError(f"--storage postgresql://... needs psycopg, which is not installed: {POSTGRESQL}")
