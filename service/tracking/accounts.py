"""Gives trainings a user of their own in MLflow: ``python -m service.tracking.accounts DATABASE``.

It runs beside MLflow's server, on its database, so that nobody but the server has the administrator's password. The
user may read everything and change what it has made, which is MLflow's rule where the default permission is READ.
What was made under its names before, by an administrator, is handed over.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from pipelines.components import ConfigError
from pipelines.exit_codes import ExitCode, exit_with
from service.tracking.tracker import TrackingError, client, failing_clearly


class Account(NamedTuple):
    """A user, and the names under which what it owns is made.

    Attributes:
        experiment: its name.
        models: what the names of its registered models begin with.
    """

    username: str
    password: str
    experiment: str
    models: str


def admit(account: Account, database: str) -> list[str]:
    """Let the user be there with this password, and own what has its names. Returns what that is.

    Done again, it changes nothing, but for a password that is another by now.

    Args:
        database: URI of MLflow's own, which holds its users as well.

    Raises:
        ConfigError: the name is an administrator's.
        TrackingError: the database cannot be reached, or MLflow wants a longer password.
    """
    with failing_clearly():
        from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

        server, users = client(database), SqlAlchemyStore()
        users.init_db(database)
        if not users.has_user(account.username):
            users.create_user(account.username, account.password)
        elif users.get_user(account.username).is_admin:
            raise ConfigError(f"{account.username} is an administrator of MLflow; give trainings another name")
        elif not users.authenticate_user(account.username, account.password):
            users.update_user(account.username, password=account.password)
        owned = []
        if experiment := server.get_experiment_by_name(account.experiment):
            users.grant_user_permission(account.username, "experiment", experiment.experiment_id, "MANAGE")
            owned.append(f"experiment {experiment.name}")
        page = None
        while page is None or page.token:
            page = server.search_registered_models(page_token=page.token if page else None)
            for model in page:
                if model.name.startswith(account.models):
                    users.grant_user_permission(account.username, "registered_model", model.name, "MANAGE")
                    owned.append(f"model {model.name}")
    return owned


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns an `ExitCode`."""
    parser = argparse.ArgumentParser(
        prog="python -m service.tracking.accounts",
        description="Lets MLFLOW_TRACKING_USERNAME log in with MLFLOW_TRACKING_PASSWORD, with no more rights than "
        "trainings need. Run it where MLflow's server runs; run it again after a change of the password.",
    )
    parser.add_argument("database", help="URI of MLflow's database, as --backend-store-uri takes it")
    parser.add_argument("--experiment", default="selfgan", help="its name, as tracking.experiment says [%(default)s]")
    parser.add_argument("--models", default="selfgan-", help="what names of models begin with [%(default)s]")
    chosen = parser.parse_args(arguments)
    username, password = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
    try:
        if not username or not password:
            raise ConfigError("MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD say who is to log in; set both")
        owned = admit(Account(username, password, chosen.experiment, chosen.models), chosen.database)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except TrackingError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.FAILED
    print(f"{username} may log in, and owns {', '.join(owned) or 'what it will make'}")
    return ExitCode.DONE


if __name__ == "__main__":
    exit_with(main)
