"""The trials of a search on disk: an Optuna study, which NSGA-II proposes the next choice from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgemobile.errors import EdgemobileError, require
from edgemobile.nas.request import Found
from edgemobile.nas.space import Choice, Value

__all__ = ["STUDY_FILE", "Study"]

STUDY_FILE = "search.db"
_NAME, _FOUND = "search", "found"


class Study:
    """The study in the folder `out`; a new one if there is none. `options` are the values that each option may have.

    NSGA-II (Deb et al., 2002): cost is minimized and top-1 maximized, in generations of `population`.
    """

    def __init__(self, out: Path, options: Mapping[str, tuple[Value, ...]], population: int, seed: int) -> None:
        optuna: Any = require("optuna", "search")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._states, self._options = optuna.trial.TrialState, options
        directions = ["minimize", "maximize"]
        try:
            self._disk = optuna.create_study(
                study_name=_NAME,
                storage=f"sqlite:///{(out / STUDY_FILE).resolve()}",
                directions=directions,
                load_if_exists=True,
            )
            ended = self._disk.trials
        except Exception as error:
            raise EdgemobileError(
                f"{out / STUDY_FILE} cannot be read: {error}. Begin again with --overwrite"
            ) from error
        # A resumed search does not repeat the proposals that it began with.
        sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed + len(ended))
        # Trials go to the disk when they end: every option of one that is written alone is flushed to the disk.
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        self._study.add_trials(ended)

    @property
    def found(self) -> tuple[Found, ...]:
        """The nets of the finished trials, in order; one that was proposed again is there once."""
        done = self._study.get_trials(deepcopy=False, states=(self._states.COMPLETE,))
        found = {trial.user_attrs[_FOUND]["number"]: trial.user_attrs[_FOUND] for trial in done}
        return tuple(Found(**facts) for facts in found.values())

    @property
    def ended(self) -> int:
        """How many trials are finished."""
        ended = (self._states.COMPLETE, self._states.PRUNED)
        return len(self._study.get_trials(deepcopy=False, states=ended))

    @property
    def unused(self) -> int:
        """How many choices were no net."""
        return len(self._study.get_trials(deepcopy=False, states=(self._states.PRUNED,)))

    def begin_with(self, choices: Iterable[Choice]) -> None:
        """Try these before what is proposed, unless they were."""
        ended = (self._states.COMPLETE, self._states.PRUNED)
        tried = [trial.params for trial in self._study.get_trials(deepcopy=False, states=ended)]
        for choice in choices:
            if dict(choice) not in tried:
                self._study.enqueue_trial(dict(choice))

    def ask(self) -> tuple[Any, dict[str, Value]]:
        """(a new trial, the choice proposed for it)."""
        trial = self._study.ask()
        return trial, {name: trial.suggest_categorical(name, values) for name, values in self._options.items()}

    def tell(self, trial: Any, found: Found | None) -> None:
        """Save the result of a trial; None for a choice that is no net."""
        if found is None:
            self._study.tell(trial, state=self._states.PRUNED)
        else:
            trial.set_user_attr(_FOUND, {**asdict(found), "choice": dict(found.choice)})
            self._study.tell(trial, [found.cost, found.top1])
        self._disk.add_trial(self._study.trials[trial.number])

    @property
    def front(self) -> tuple[Found, ...]:
        """The nets that none beats in both, cheapest first; of equal ones the first."""
        best = (Found(**trial.user_attrs[_FOUND]) for trial in self._study.best_trials)
        once = {(found.cost, found.top1): found for found in sorted(best, key=lambda one: -one.number)}
        return tuple(sorted(once.values(), key=lambda found: found.cost))
