#!/bin/sh
# Optuna 5.0.0: the thread that records a trial's heartbeat ends with the first beat that the storage does not take.
# The trial itself runs on and is in good health, but after the grace period any other worker that asks for stale trials
# fails it, and a retry callback would start it a second time.
# Here a database is locked for four seconds; the trial runs on for eight more and has not beaten again.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check optuna==5.0.0 sqlalchemy==2.1.9
cat > "$folder/show.py" <<'PYTHON'
import sqlite3
import sys
import threading
import time
import warnings

import optuna

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)
threading.excepthook = lambda given: print(f"  a thread ended: {given.thread.name}: {given.exc_type.__name__}")
url = f"sqlite:///{sys.argv[1]}/trials.db"


def storage():
    # An answer within half a second, a beat every second, dead after four seconds without one.
    return optuna.storages.RDBStorage(
        url, engine_kwargs={"connect_args": {"timeout": 0.5}}, heartbeat_interval=1, grace_period=4
    )


def beat():
    with sqlite3.connect(f"{sys.argv[1]}/trials.db") as database:
        return database.execute("select heartbeat from trial_heartbeats").fetchone()[0]


def objective(trial):
    time.sleep(2.5)
    print(f"  before the outage: last beat {beat()}, {threading.active_count()} threads")
    database = sqlite3.connect(f"{sys.argv[1]}/trials.db", isolation_level=None)
    database.execute("begin exclusive")
    time.sleep(4)
    database.execute("rollback")
    database.close()
    first = beat()
    time.sleep(8)
    print(f"  8 s after it:      last beat {beat()}, {threading.active_count()} threads")
    seen["still"] = beat() == first
    other = optuna.load_study(study_name="one", storage=storage())
    optuna.storages.fail_stale_trials(other)
    seen["state"] = other.trials[0].state.name
    print(f"  another worker asked for stale trials: the trial that runs is now {seen['state']}")
    return 1.0


seen = {}
print(f"optuna {optuna.__version__}")
study = optuna.create_study(study_name="one", storage=storage())
try:
    study.optimize(objective, n_trials=1)
except Exception as error:
    print(f"  its result is refused: {type(error).__name__}: {error}")
expected = {"still": True, "state": "FAIL"}
print("as described" if seen == expected else f"changed: {seen} instead of {expected}")
sys.exit(seen != expected)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder"
