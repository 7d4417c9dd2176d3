"""Choosing among arms from the costs seen so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from .. import _core, _validate
from ._arms import as_arms, find_arm, from_json, kernel, to_json

_FORMAT, _VERSION = "aitken.BanditTuner", 1
METHODS = ("gp", "tsallis", "tsallis-cb", "chebcb", "thompson")
_BINS = {"gp": 16, "tsallis-cb": 5}

# Native options and their types: what a saved state must hold.
_OPTIONS: dict[str, type] = {
    "has_context": bool,
    "log_context": bool,
    "lo": float,
    "hi": float,
    "bins": int,
    "degree": int,
    "reduced_variance": bool,
    "discount": float,
    "cusum": bool,
    "floor": float,
    "backstop_factor": float,
    "backstop_least": float,
    "first_arm": int,
    "first_count": int,
    "keep": int,
    "seed": int,
    "kernel": list,
    "noise": float,
    "explore": float,
}

_Self = TypeVar("_Self", bound="BanditTuner")


def _number(name: str, value: Any) -> float:
    """`value` as a float that may be NaN or Inf: contexts are clipped, costs are checked by the tuner."""
    if isinstance(value, bool | np.bool_ | str | bytes):
        raise TypeError(f"`{name}` must be a real number, not {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be a real number, not {type(value).__name__}") from None


class BanditTuner:
    """Chooses one of several arms before each solve, and learns from the cost of the solve.

    An arm is anything: a relaxation factor, a tolerance, a name, a dictionary of options. Costs are any
    measure of work that is >= 0 (iterations, seconds); the aim is a small total.

    Parameters
    ----------
    arms : sequence or 1-D ndarray
        The choices. `suggest` returns these very objects (elements of an array as Python scalars).
    method : {"gp", "tsallis", "tsallis-cb", "chebcb", "thompson"}, default "gp"
        ``"gp"``: a Gaussian process for ln(cost) over arms and context. On the test problems it has the least
        total cost up to some 2000 solves with a context; without one it is the best at every length, and the
        only one that follows an abrupt change. ``"tsallis"``: Tsallis-INF, no context, no assumption about
        the costs. ``"tsallis-cb"``: one such instance per context bin. ``"chebcb"``: a Chebyshev regression
        of the cost in the context per arm; the best one with a context from some 3000 solves on.
        ``"thompson"``: Gaussian Thompson sampling, no context.
    context : (float, float), optional
        Range of a number known before each solve that explains its cost. Needed for ``"tsallis-cb"`` and
        ``"chebcb"``, optional for ``"gp"``. Values outside are clipped and counted, NaN counts as the middle.
    context_transform : {None, "log"}
        Use the logarithm of the context.
    bins : int, optional
        Context bins: 16 for ``"gp"``, 5 for ``"tsallis-cb"``.
    degree : int, default 6
        Chebyshev coefficients per arm (1 to 16), for ``"chebcb"``.
    estimator : {"rv", "iw"}, default "rv"
        Tsallis: reduced-variance or importance-weighted estimates.
    discount : float in (0, 1], optional
        Weight that the past keeps at each observation: 1 by default; for ``"gp"`` 0.999, where
        ``1 - discount`` of the prior covariance of the arms is added at each observation.
    restart : {None, "cusum"}
        Start anew, with the means kept as a prior, when ln(cost) leaves the level of its arm and bin.
    floor : float, optional
        The least possible cost, which Tsallis, ChebCB and Thompson subtract. Default: 1 as long as no cost
        was below 1 (iterations), otherwise 0. With ``floor=0`` choices do not depend on the cost's unit.
    prior : iterable of (arm, context, cost), optional
        Costs known beforehand (context None without `context`).
    fixed_first : (arm, int), optional
        Play this arm so many times first.
    features : array_like (d,) or (d, f), or {"omega", "log", "linear", "independent"}, optional
        How the Gaussian process relates arms. Default for numbers: ``-ln(2 - arm)`` if all lie in [1, 2),
        the logarithm if they span a factor of 100, otherwise the number itself. Other arms are independent.
    backstop : (float, float or None) or None, default (3, None)
        ``limit() = max(least, factor * median of the last 101 costs)`` for ``(factor, least)``. None as
        `least` is 50 as long as all these costs are whole numbers (iterations), otherwise 0, so that seconds
        and other units have a limit of their own size. None: no limit.
    noise : float, default 0.2
        ``"gp"``: standard deviation of ln(cost) for one arm and bin, as long as few repetitions were seen.
    explore : float, default 1.5
        ``"gp"``: how many standard deviations below the mean an arm is judged.
    keep : int, default 100000
        Solves kept in `history`.
    rng : None, int, SeedSequence or Generator
        Seeds the tuner's own stream; None takes fresh entropy.

    Raises
    ------
    TypeError, ValueError
        For options that fit no tuner; the message names the parameter.

    Notes
    -----
    Every method may be called from several threads. A suggestion that is taken with a token is answered with
    this token, in any order; the last one without a token is answered without.

    A failed solve costs twice the largest cost seen (or its own cost, if that is more); an arm that failed
    three times in a row is barred, but never the last one.

    Examples
    --------
    >>> from aitken.tune import BanditTuner
    >>> tuner = BanditTuner([1.0, 1.2, 1.4, 1.6, 1.8], rng=0)
    >>> for _ in range(60):
    ...     omega = tuner.suggest()
    ...     tuner.observe(50 + 400 * (omega - 1.6) ** 2)
    >>> tuner.best()
    1.6
    """

    def __init__(
        self,
        arms: Any,
        *,
        method: str = "gp",
        context: tuple[float, float] | None = None,
        context_transform: str | None = None,
        bins: int | None = None,
        degree: int = 6,
        estimator: str = "rv",
        discount: float | None = None,
        restart: str | None = None,
        floor: float | None = None,
        prior: Iterable[tuple[Any, float | None, float]] | None = None,
        fixed_first: tuple[Any, int] | None = None,
        features: Any = None,
        backstop: tuple[float, float | None] | None = (3.0, None),
        noise: float = 0.2,
        explore: float = 1.5,
        keep: int = 100_000,
        rng: Any = None,
    ) -> None:
        choices = as_arms(arms)
        _validate.choice("method", method, METHODS)
        _validate.choice("context_transform", context_transform, (None, "log"))
        _validate.choice("restart", restart, (None, "cusum"))
        options: dict[str, Any] = {
            "log_context": context_transform == "log",
            "degree": _validate.integer("degree", degree, minimum=1, maximum=16),
            "reduced_variance": _validate.choice("estimator", estimator, ("rv", "iw")) == "rv",
            "cusum": restart == "cusum",
            "keep": _validate.integer("keep", keep, minimum=0, maximum=2**40),
            "noise": _validate.positive_scalar("noise", noise),
            "explore": _validate.tolerance("explore", explore),
            "seed": _validate.rng_seed(rng),
            "kernel": kernel(choices, features).ravel().tolist() if method == "gp" else [],
            **_context_options(method, context, bins),
            **_backstop_options(backstop),
            **_first_options(choices, fixed_first),
        }
        if options["log_context"] and not (options["has_context"] and options["lo"] > 0.0):
            raise ValueError(f"`context` must be positive for context_transform='log'; got {context!r}")
        default = 0.999 if method == "gp" else 1.0
        options["discount"] = (
            default
            if discount is None
            else _validate.real_scalar("discount", discount, minimum=0.0, maximum=1.0, open_minimum=True)
        )
        options["floor"] = -1.0 if floor is None else _validate.tolerance("floor", floor)
        self._build(choices, method, options)
        for entry in prior or ():
            self._replay(entry)

    def _build(self, arms: list[Any], method: str, options: dict[str, Any]) -> None:
        self._arms = arms
        self._method = method
        self._options = options
        self._native = _core.make_tuner(method, len(arms), options)
        self._has_context: bool = options["has_context"]

    def _replay(self, entry: Any) -> None:
        try:
            arm, context, cost = entry
        except (TypeError, ValueError):
            raise ValueError(f"`prior` must hold triples (arm, context, cost); got {entry!r}") from None
        self._native.replay(
            find_arm("prior", self._arms, arm), self._context(context), _number("prior", cost)
        )

    @property
    def arms(self) -> list[Any]:
        """The choices, in order."""
        return list(self._arms)

    @property
    def method(self) -> str:
        """The method's name."""
        return self._method

    @property
    def context(self) -> tuple[float, float] | None:
        """The range of the context, if there is one."""
        return (self._options["lo"], self._options["hi"]) if self._has_context else None

    def _context(self, context: Any) -> float:
        if type(context) is float and self._has_context:
            return context
        if context is None:
            if self._has_context:
                raise ValueError("`context` is None; this tuner was made with a range of contexts")
            return 0.0
        if not self._has_context:
            raise ValueError(f"`context` is {context!r}, but this tuner was made without `context=(a, b)`")
        return _number("context", context)

    def suggest(self, context: float | None = None, return_token: bool = False) -> Any:
        """The arm for the next solve.

        Parameters
        ----------
        context : float
            What is known of the solve; needed if and only if the tuner has a range of contexts.
        return_token : bool
            Also return the token that `observe` is given, so that several solves can be in flight.

        Returns
        -------
        object or (object, int)
            The arm, or the arm and its token. A suggestion without token replaces the last one without.
        """
        arm, token = self._native.suggest(self._context(context), return_token)
        return (self._arms[arm], token) if return_token else self._arms[arm]

    def observe(self, cost: float, token: int | None = None, failed: bool = False) -> None:
        """Report what the solve with the suggested arm cost.

        Parameters
        ----------
        cost : float
            In [0, 1e100]; below 1e-100 it counts as 0. Of a failed solve what was spent until it stopped,
            which may be Inf or NaN.
        token : int
            Of the suggestion; None for the last one without a token.
        failed : bool
            The solve gave no answer.

        Raises
        ------
        RuntimeError
            Without a suggestion to answer.
        ValueError
            For an unknown token or an impossible cost.
        """
        self._native.observe(
            cost if type(cost) is float else _number("cost", cost),
            -1 if token is None else _validate.integer("token", token, minimum=0),
            failed,
        )

    def discard(self, token: int | None = None) -> None:
        """Forget a suggestion that will not be answered."""
        self._native.discard(-1 if token is None else _validate.integer("token", token, minimum=0))

    def probabilities(self, context: float | None = None) -> np.ndarray:
        """Probability of each arm at the next `suggest`, shape (d,); changes nothing.

        ``"gp"`` draws nothing: one arm has probability 1.
        """
        return self._native.probabilities(self._context(context))

    def best(self, context: float | None = None) -> Any:
        """The arm that looks best now, without exploration; changes nothing."""
        return self._arms[self._native.best(self._context(context))]

    def limit(self) -> float | None:
        """The cost at which a running solve should be stopped and finished with `best`; None while unknown.

        The whole cost is then charged to the arm that was suggested.
        """
        limit = self._native.limit()
        return None if limit == math.inf else limit

    @property
    def history(self) -> dict[str, np.ndarray]:
        """The observed solves in the order of `observe`, as arrays of one length.

        ``arm`` (int64, index into `arms`), ``cost`` (float64, as charged), ``failed`` (bool), and with a
        range of contexts ``context`` (float64, clipped).
        """
        raw = self._native.history()
        result = {
            "arm": raw["arm"].astype(np.int64),
            "cost": raw["cost"],
            "failed": raw["failed"].astype(bool),
        }
        if self._has_context:
            result["context"] = raw["context"]
        return result

    @property
    def stats(self) -> dict[str, Any]:
        """Counts so far.

        ``observations``, ``total_cost``, ``failures``, ``clipped`` (contexts outside the range),
        ``restarts``, ``in_flight``, ``discarded``; ``plays`` (list, per arm), ``barred`` (list of arms).
        """
        counts, plays, barred = self._native.stats()
        return {**counts, "plays": plays, "barred": [self._arms[i] for i in barred]}

    # ---- saving -------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The whole tuner as plain JSON data.

        A tuner made of it goes on exactly as this one would, including suggestions in flight. Arms that are
        no plain data are left out and must be given to `from_dict`.
        """
        try:
            arms: Any = to_json(self._arms)
        except TypeError:
            arms = None
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "method": self._method,
            "n_arms": len(self._arms),
            "arms": arms,
            "options": dict(self._options),
            "state": self._native.save(),
        }

    @classmethod
    def from_dict(cls: type[_Self], state: dict[str, Any], arms: Any = None) -> _Self:
        """A tuner from what `to_dict` gave.

        Parameters
        ----------
        state : dict
            Also after a round trip through JSON.
        arms : sequence, optional
            The arms, where they were no plain data.

        Raises
        ------
        ValueError
            Saying what is wrong with `state`.
        """
        method, options = _checked_head(state)
        if arms is None:
            if not isinstance(state.get("arms"), list):
                raise ValueError("`state` holds no arms; pass them as `arms`")
            choices = from_json(state["arms"])
        else:
            choices = as_arms(arms)
        if len(choices) != state.get("n_arms"):
            raise ValueError(f"`arms` has {len(choices)} entries; `state` is of {state.get('n_arms')!r}")
        tuner = cls.__new__(cls)
        try:
            tuner._build(choices, method, options)
        except ValueError as error:
            raise ValueError(f"`state` has impossible options: {error}") from None
        tuner._native.restore(_checked_numbers(state.get("state")))
        return tuner

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpickle, (type(self), {**self.to_dict(), "arms": None}, self._arms)

    def __repr__(self) -> str:
        done = self.stats["observations"]
        where = f", context={self.context}" if self._has_context else ""
        arms = f"{len(self._arms)} arms"
        return f"{type(self).__name__}({arms}, method={self._method!r}{where}, {done} observations)"


def _unpickle(cls: type[BanditTuner], state: dict[str, Any], arms: list[Any]) -> BanditTuner:
    return cls.from_dict(state, arms)


def _context_options(method: str, context: Any, bins: Any) -> dict[str, Any]:
    if context is None:
        if method in ("tsallis-cb", "chebcb"):
            raise ValueError(f"`context` is None; method={method!r} needs its range (a, b)")
        if bins is not None:
            raise ValueError(f"`bins` is {bins!r}, but there is no `context`")
        return {"has_context": False, "lo": 0.0, "hi": 1.0, "bins": 1}
    if method in ("tsallis", "thompson"):
        hint = "; use 'tsallis-cb'" if method == "tsallis" else ""
        raise ValueError(f"`context` is {context!r}, but method={method!r} takes none{hint}")
    try:
        low, high = context
    except (TypeError, ValueError):
        raise ValueError(f"`context` must be a pair (a, b); got {context!r}") from None
    low, high = _validate.real_scalar("context", low), _validate.real_scalar("context", high)
    if not low < high:
        raise ValueError(f"`context` must be (a, b) with a < b; got {(low, high)!r}")
    if not math.isfinite(high - low):
        raise ValueError(f"`context` must be (a, b) with a finite b - a; got {(low, high)!r}")
    cells = _BINS.get(method, 1) if bins is None else _validate.integer("bins", bins, minimum=1, maximum=1024)
    return {"has_context": True, "lo": low, "hi": high, "bins": cells}


def _backstop_options(backstop: Any) -> dict[str, Any]:
    if backstop is None:
        return {"backstop_factor": 0.0, "backstop_least": 0.0}
    try:
        factor, least = backstop
    except (TypeError, ValueError):
        raise ValueError(f"`backstop` must be None or a pair (factor, least); got {backstop!r}") from None
    return {
        "backstop_factor": _validate.real_scalar("backstop", factor, minimum=1.0),
        "backstop_least": -1.0 if least is None else _validate.tolerance("backstop", least),
    }


def _first_options(arms: list[Any], fixed_first: Any) -> dict[str, Any]:
    if fixed_first is None:
        return {"first_arm": -1, "first_count": 0}
    try:
        arm, times = fixed_first
    except (TypeError, ValueError):
        raise ValueError(f"`fixed_first` must be a pair (arm, times); got {fixed_first!r}") from None
    return {
        "first_arm": find_arm("fixed_first", arms, arm),
        "first_count": _validate.integer("fixed_first", times, minimum=0, maximum=2**40),
    }


def _checked_head(state: Any) -> tuple[str, dict[str, Any]]:
    """Method and options of a saved tuner."""
    if not isinstance(state, dict):
        raise ValueError(f"`state` must be a dict, not {type(state).__name__}")
    if state.get("format") != _FORMAT:
        raise ValueError(f"`state` is not a saved tuner: its format is {state.get('format')!r}")
    if state.get("version") != _VERSION:
        raise ValueError(f"`state` has version {state.get('version')!r}; {_VERSION} is needed")
    if state.get("method") not in METHODS:
        raise ValueError(f"`state` field 'method' is {state.get('method')!r}; one of {METHODS} is needed")
    given = state.get("options")
    if not isinstance(given, dict) or given.keys() != _OPTIONS.keys():
        missing = sorted(_OPTIONS.keys() - given.keys()) if isinstance(given, dict) else "all"
        raise ValueError(f"`state` field 'options' is not that of a tuner (missing: {missing})")
    options: dict[str, Any] = {}
    for name, kind in _OPTIONS.items():
        value = given[name]
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        good = type(value) is kind
        if kind is float:
            good = good and math.isfinite(value)
        if kind is int:
            least = -1 if name == "first_arm" else 0
            good = good and least <= value < (2**64 if name == "seed" else 2**53)
        if not good:
            raise ValueError(f"`state` option {name!r} is {value!r}; a {kind.__name__} is needed")
        options[name] = value
    options["kernel"] = _numbers("kernel", options["kernel"])
    if not 0.0 < options["discount"] <= 1.0:
        raise ValueError(f"`state` option 'discount' is {options['discount']!r}; in (0, 1] is needed")
    if not (options["noise"] > 0.0 and options["explore"] >= 0.0 and options["keep"] < 2**40):
        raise ValueError("`state` has impossible options: 'noise', 'explore' or 'keep'")
    return state["method"], options


def _numbers(name: str, values: Any) -> list[float]:
    if not isinstance(values, list) or any(type(v) not in (float, int) for v in values):
        raise ValueError(f"`state` field {name!r} is not a list of numbers")
    try:
        numbers = [float(v) for v in values]
    except OverflowError:
        raise ValueError(f"`state` field {name!r} holds a number that is not finite") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"`state` field {name!r} holds a number that is not finite")
    return numbers


def _checked_numbers(state: Any) -> dict[str, list[float]]:
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"`state` field 'state' must be a dict of lists, not {type(state).__name__}")
    return {name: _numbers(name, values) for name, values in state.items()}
