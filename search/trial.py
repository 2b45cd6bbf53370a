"""One trial: picked, estimated, trained for a short while, and told to the study, whatever happens."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contract import Measurement, Progress
from pipeline.errors import PipelineError, ToolchainMissing
from pipeline.serial import measurement_to_json
from pipeline.store import Store
from search.candidate import Tree, candidate
from search.cost import Cost, cost_of
from search.digest import digest_of
from search.problem import Problem
from search.proxy import Inputs, pick, run_proxy
from search.space import in_short, suggest
from search.study import INTERRUPTED, finished

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

REASON, ROWS, KEY, SAME = "reason", "measurements", "key", "same_as"
"""User attributes of a trial: why it has no result; what was measured; the digest of its pipeline; the trial whose result it shares."""

ProgressOf = Callable[[int, str, Path], Progress]
"""Trial number, stage and log file -> the display of that stage."""


class Hopeless(Exception):  # noqa: N818 - an outcome, not an error
    """The estimate is so far over the limits that training would be wasted."""


class Trials:
    """Carries out trials of one study.

    Args:
        problem: what is searched.
        study: where trials are drawn and told.
        before: artifacts of the stages before the student.
        folder: workdirs and logs of the trials.
        progress: see ``ProgressOf``.
        say: called with one line when a trial has ended.
    """

    def __init__(
        self, problem: Problem, study: Study, before: Inputs, folder: Path, progress: ProgressOf, say: Callable[[str], None]
    ) -> None:
        self.problem, self.study, self.before, self.folder, self.progress, self.say = problem, study, before, folder, progress, say
        self.store = Store(folder, warn=say)

    def run(self) -> None:
        """One trial. Failures are told to the study with their reason; an interruption leaves the trial to be taken up again.

        Raises:
            ToolchainMissing: every trial would fail for want of it.
            KeyboardInterrupt: after the trial was told to be interrupted.
        """
        trial = self.study.ask()
        log = self.folder / f"trial-{trial.number}.log"
        try:
            self._attempt(trial, log)
        except (KeyboardInterrupt, ToolchainMissing):
            self._put_back(trial)
            raise
        except Hopeless as e:
            self._end(trial, "PRUNED", f"not trained: {e}")
        except PipelineError as e:
            self._end(trial, "FAIL", f"failed: {e.where}: {e.what}")
        except Exception as e:  # noqa: BLE001 - around a stage: one broken candidate must not end a study of hundreds
            self.folder.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as f:
                f.write(traceback.format_exc())
            self._end(trial, "FAIL", f"failed: {type(e).__name__}: {(str(e).splitlines() or ['no message'])[0]} (traceback in {log})")

    def _attempt(self, trial: Trial, log: Path) -> None:
        params = suggest(self.problem.space, trial)
        tree = candidate(self.problem, params)
        key = digest_of(tree["stages"])
        trial.set_user_attr(KEY, key)
        with self.store.lock(key):  # a worker that draws the same waits here, then finds it done
            twin = self._twin(key)
            if twin is not None:
                self._repeat(trial, twin)
                return
            try:
                self._measure(trial, tree, self.store.workdir(key), log)
            except Exception:
                self.store.finish(key)
                raise
            self.store.finish(key)

    def _measure(self, trial: Trial, tree: Tree, workdir: Path, log: Path) -> None:
        def progress(stage: str) -> Progress:
            return self.progress(trial.number, stage, log)

        cost = cost_of(self.problem, tree, workdir / "estimate", progress)
        self._refuse_hopeless(trial, cost)
        rows, made = run_proxy(self.problem, tree, self.before, workdir, progress)
        self._complete(trial, rows, made or cost)

    def _twin(self, key: str) -> FrozenTrial | None:
        """A trial with a result that describes the same pipeline."""
        known = (t for t in finished(self.study) if t.user_attrs.get(KEY) == key)
        return next((t for t in known if t.state.name in ("COMPLETE", "PRUNED")), None)

    def _refuse_hopeless(self, trial: Trial, cost: Cost) -> None:
        limits, target = self.problem.limits, self.problem.plan.target
        trial.set_user_attr(ROWS, [measurement_to_json(m) for m in cost.measurements])
        p90 = cost.p90(target)
        if not p90 <= limits.factor * limits.budget_ms:
            self._constrain(trial, cost)
            what = f"p90 estimated for {target.name} is {p90:.3g} ms, more than {limits.factor:g} x the budget of {limits.budget_ms:g} ms"
            raise Hopeless(what)

    def _constrain(self, trial: Trial, cost: Cost) -> None:
        """Tell the sampler how far over the limits the trial is, in shares of them."""
        limits = self.problem.limits
        trial.set_constraint("latency", cost.p90(self.problem.plan.target) / limits.budget_ms - 1)
        if limits.size_mb is not None:
            trial.set_constraint("size", cost.size_mb / limits.size_mb - 1)

    def _complete(self, trial: Trial, rows: list[Measurement], cost: Cost) -> None:
        quality = [self._of_proxy(pick(rows, name)) for name in ("psnr", "psnr_gain")]
        trial.set_user_attr(ROWS, [measurement_to_json(m) for m in (*quality, *cost.measurements)])
        self._constrain(trial, cost)
        self.study.tell(trial, (quality[1].value, cost.ms))
        gain = f"{quality[1].value:+.3f} dB on {quality[1].samples} images here, {cost.ms:.3g} ms estimated"
        self.say(f"trial {trial.number}: {gain}: {in_short(trial.params)}")

    def _of_proxy(self, m: Measurement) -> Measurement:
        conditions = {**m.conditions, "split": "calibrate", "proxy_steps": self.problem.steps}
        return Measurement(m.name, m.value, m.unit, m.better, m.samples, m.evidence, conditions, m.values)

    def _repeat(self, trial: Trial, twin: FrozenTrial) -> None:
        """Give a trial the result of one that describes the same pipeline: the proxy is deterministic."""
        for name in (ROWS, REASON):
            if name in twin.user_attrs:
                trial.set_user_attr(name, twin.user_attrs[name])
        trial.set_user_attr(SAME, twin.number)
        for name, value in twin.constraints.items():
            trial.set_constraint(name, value)
        self.study.tell(trial, twin.values if twin.state.name == "COMPLETE" else None, state=twin.state)
        self.say(f"trial {trial.number}: the same as trial {twin.number}: {in_short(trial.params)}")

    def _end(self, trial: Trial, state: str, reason: str) -> None:
        from optuna.trial import TrialState

        trial.set_user_attr(REASON, reason)
        self.study.tell(trial, state=TrialState[state])
        self.say(f"trial {trial.number}: {reason}")

    def _put_back(self, trial: Trial) -> None:
        from optuna.trial import TrialState

        params: dict[str, Any] = dict(trial.params)
        trial.set_user_attr(INTERRUPTED, True)
        self.study.tell(trial, state=TrialState.FAIL)
        self.study.enqueue_trial(params)
