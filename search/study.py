"""The Optuna study behind a search: where it is stored, whose it is, and how its trials are drawn."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError, ToolchainMissing, UsageError
from search.digest import seed_of
from search.problem import Problem

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

INSTALL = "pip install 'optuna>=5,<6'"
FINGERPRINT, INTERRUPTED = "fingerprint", "interrupted"
_JOURNAL = "journal:"
_LOCK_SECONDS = 120  # workers wait for one another's writes in SQLite


def require_optuna() -> Any:
    """The module ``optuna``, with its own talk switched off; raises ToolchainMissing when it is not installed."""
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as e:
        raise ToolchainMissing("search", f"optuna is not installed ({e})", INSTALL) from e
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(problem: Problem, url: str, name: str) -> Study:
    """The study of that name in a storage, made where there is none yet.

    Args:
        problem: what is searched; a study remembers it.
        url: ``sqlite:///…``, another database URL, or ``journal:FILE``.
        name: of the study.

    Raises:
        UsageError: a storage that cannot be opened, or a study of something else.
        ToolchainMissing: Optuna, or the database's driver, is not installed.
    """
    optuna = require_optuna()
    with _explained(url):
        directions = ["maximize", "minimize"]
        study = optuna.create_study(storage=_storage(url), study_name=name, directions=directions, load_if_exists=True)
        known = study.user_attrs.get(FINGERPRINT)
        if known is None and not study.trials and len(study.directions) == len(directions):
            study.set_user_attr(FINGERPRINT, problem.fingerprint())
            known = study.user_attrs[FINGERPRINT]
    _refuse_other(problem.fingerprint(), known, url, name)
    study.sampler = _sampler(problem)
    opened: Study = study
    return opened


def finished(study: Study) -> list[FrozenTrial]:
    """Trials that have come to an end by themselves, in order."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and INTERRUPTED not in t.user_attrs]


def _storage(url: str) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if url.startswith(_JOURNAL):
        path = Path(url.removeprefix(_JOURNAL))
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_other_file(path, url)
        return JournalStorage(JournalFileBackend(str(path)))
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _LOCK_SECONDS}})
    return RDBStorage(url)


def _refuse_other_file(path: Path, url: str) -> None:
    """Raise UsageError for a file that is no journal: Optuna would write behind whatever it holds."""
    if not path.exists():
        return
    with path.open("rb") as f:
        head = f.read(16)
    if head and not head.startswith(b'{"'):
        raise UsageError(f"--storage {url}", "is no journal of Optuna's", "name a new file, or one that a search began")


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """What Optuna and SQLAlchemy raise about a storage, in two lines."""
    where, hint = f"--storage {url}", "e.g. sqlite:////shared/study.db, journal:/shared/study.log, or postgresql://user@host/db"
    try:
        yield
    except PipelineError:
        raise
    except ImportError as e:
        raise ToolchainMissing(where, f"needs a package that is not installed ({e})", "pip install the database's driver") from e
    except Exception as e:
        foreign = type(e).__module__.partition(".")[0] in ("sqlalchemy", "optuna")
        if not foreign and not isinstance(e, OSError | json.JSONDecodeError):
            raise
        raise UsageError(where, f"cannot be opened ({str(e).strip().splitlines()[0]})", hint) from e


def _refuse_other(ours: Mapping[str, Mapping[str, str]], theirs: Any, url: str, name: str) -> None:
    where, hint = f"study '{name}' in {url}", "start a new one with --study NAME, or in another --storage"
    if not isinstance(theirs, Mapping):
        raise UsageError(where, "was not made by this command", hint)
    for part, mine in ours.items():
        other = theirs.get(part, {})
        if other.get("digest") != mine["digest"]:
            shown = f" ({other.get('shown')}, now {mine['shown']})" if other.get("shown", "") != mine["shown"] else ""
            raise UsageError(where, f"was begun with another {part}{shown}", hint)


def _sampler(problem: Problem) -> Any:
    """A sampler whose random numbers follow from the seed and the trial's number: resumed or not, the same trial is drawn alike.

    So one worker draws the same trials every time, and several workers, whose trials have different numbers, different ones.
    """
    from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler

    made = {"tpe": TPESampler, "nsga2": NSGAIISampler}[problem.space.sampler]
    seed = problem.plan.seed

    class Numbered(BaseSampler):
        """Passes every call on to a sampler that is made anew for each trial."""

        def __init__(self) -> None:
            self.inner: Any = made(seed=seed)

        def before_trial(self, study: Any, trial: Any) -> None:
            self.inner = made(seed=seed_of(seed, "trial", trial.number))
            self.inner.before_trial(study, trial)

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            found: dict[str, Any] = self.inner.infer_relative_search_space(study, trial)
            return found

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
            found: dict[str, Any] = self.inner.sample_relative(study, trial, search_space)
            return found

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return self.inner.sample_independent(study, trial, param_name, param_distribution)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Sequence[float] | None) -> None:
            self.inner.after_trial(study, trial, state, values)

    return Numbered()
