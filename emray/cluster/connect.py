"""Ray, started late and quietly.

Not for scheduling anything. The invariant: Ray runs only inside `connected`, and a cluster that this process started
ends with it.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from emray.cluster.closed import asks_for_a_token, closed
from emray.cluster.withheld import hub_token_lent, keys_withheld
from emray.ending import last_word, own_signals
from emray.errors import StageError, UserError

MIN_CPUS = 2  # an actor pool and the tasks around it need two slots, also on a one-core machine

# Ray and its libraries print tables, tips and bars of their own; emray's progress line says it once.
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_CORE_DIED = (
    "emray: the command ended without a word: it was killed, or Ray's core died under it (its last words: {logs}); "
    "run the same command to go on, all that is done is kept"
)
NOT_STARTED = "Ray did not start"
_OPEN = (
    "emray: the Ray cluster at {address} asks for no token: whoever reaches its ports can run code there and read its "
    "keys; start its nodes with RAY_AUTH_MODE=token, as cluster.yaml does"
)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Join the cluster at `address` (`auto`, `host:port`, `ray://...`), or start one on this machine.

    Raises StageError when there is no cluster at the address, UserError when the machine has no place for one.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with nullcontext() if address else closed(), ExitStack() as opened, _running(address, opened):
        yield


@contextmanager
def _running(address: str | None, opened: ExitStack) -> Iterator[None]:
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)  # it speaks before it reads what `init` is told
    with own_signals(), keys_withheld():
        _init(address, opened)
    if address and not asks_for_a_token():
        print(_OPEN.format(address=address), file=sys.stderr)
    import ray.data  # sets up its logging when it is imported, over what was set before

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    node = ray.worker._global_node  # None for a ray:// client, whose core runs elsewhere
    logs = Path(node.get_logs_dir_path()) / "emray-driver.err" if node else Path(os.devnull)
    try:
        with last_word(_CORE_DIED.format(logs=logs), to=2), _native_errors_to(logs), hub_token_lent():
            yield
    except ray.exceptions.RayTaskError:
        raise  # an error of a worker's own, which is not Ray's
    except ray.exceptions.RayError as error:
        raise StageError(
            f"Ray failed: {_said(error)}; run the same command to go on, all that is done is kept"
        ) from None
    finally:
        ray.shutdown()


def _said(error: BaseException) -> str:
    """What happened: Ray puts it above its advice."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _private_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="emray-spill-", ignore_cleanup_errors=True)


def _init(address: str | None, opened: ExitStack) -> None:
    """Join or start a Ray; one of our own spills what finds no room in memory, training rows among it, to a folder that
    is this user's alone and goes with `opened`.
    """
    import ray

    try:
        own = {} if address else {"object_spilling_directory": opened.enter_context(_private_folder())}
        ray.init(
            address=address or "local",
            num_cpus=None if address else max(MIN_CPUS, os.cpu_count() or 1),
            include_dashboard=None if address else False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **own,
            runtime_env={"env_vars": {name: os.environ[name] for name in QUIET}} if address else None,
        )
    except (ConnectionError, ValueError) as error:
        raise StageError(f"no Ray cluster at {address!r} ({error}); start one with: ray up cluster.yaml") from None
    except TimeoutError as error:
        raise _not_started(error) from None
    except OSError as error:
        folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
        why = "its path is too long for a socket" if "AF_UNIX" in str(error) else error.strerror or error
        raise UserError(
            f"Ray cannot keep its files in {folder} ({why}); set TMPDIR and RAY_TMPDIR to a short path on a disk with "
            "room, as in TMPDIR=/tmp"
        ) from None
    except Exception as error:
        if type(error) not in (Exception, RuntimeError):  # Ray has no kinds for what keeps its core from starting
            raise
        raise _not_started(error) from None


def _not_started(error: Exception) -> StageError:
    """Ray gives its core half a minute, whatever else the machine has to do."""
    said = str(error).partition(". ")[0].strip().rstrip(".") or type(error).__name__
    return StageError(
        f"{NOT_STARTED}: {' '.join(said.split())}; is this machine overloaded, or out of memory? run the same command "
        "again, all that is done is kept"
    )


@contextmanager
def _native_errors_to(path: Path) -> Iterator[None]:
    """What Ray's core writes straight to file descriptor 2 goes to its logs; Python's stderr stays on the terminal.

    Ray Data's restartable actors alone print a four-line warning there that no user can act on (Ray issue #53727).
    """
    terminal = os.dup(2)
    stderr = sys.stderr
    with path.open("ab", buffering=0) as log, os.fdopen(os.dup(terminal), "w", buffering=1) as python_stderr:
        os.dup2(log.fileno(), 2)
        sys.stderr = python_stderr
        try:
            yield
        finally:
            sys.stderr = stderr
            os.dup2(terminal, 2)
            os.close(terminal)
