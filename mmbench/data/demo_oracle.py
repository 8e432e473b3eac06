"""The best scores that can be had on the demo, from its rules: what a model can reach at most."""

from collections.abc import Sequence

import numpy as np

from mmbench.data.demo import (
    BRAND_LIFT,
    BRANDS,
    CATEGORIES,
    DAY,
    DRIFT_MONTHS,
    GAPS,
    N_EVENTS,
    N_HOME,
    N_SEASONS,
    N_STYLES,
    P_GAP,
    Demo,
    season_of,
)


def oracle_scores(demo: Demo, items: Sequence[int], times: Sequence[int], *, use_time: bool) -> np.ndarray:
    """Return the scores of all items [I] for what follows a history, from the rules of mmbench.data.demo.

    `items` are 0-based and `times` unix seconds, oldest first: what a model sees, nothing of the target. Home,
    style and brands are read from the history (the last items, the counts of brands), so a noisy event
    misleads the oracle: it is slightly below the true optimum. `use_time=False` never looks at `times` and spreads
    its guess by how often each kind of gap occurs and by which seasons can follow that of the last visit.
    """
    seen = np.asarray(items)
    slot = len(seen) % N_EVENTS  # the next event's position in its visit: every history begins with an anchor
    category = np.zeros(len(CATEGORIES))
    if slot == 2:
        category[N_HOME:] = _season(demo, seen, times, use_time)
    else:
        homes = [int(c) for c in demo.category[seen[-2:]] if c < N_HOME]
        steps = np.eye(len(GAPS))[0]
        if slot == 1 and len(seen) > 1:
            steps = np.eye(len(GAPS))[gap_kind(times)] if use_time else np.array(P_GAP)
        for home in homes[-1:] or range(N_HOME):
            category[(home + np.arange(len(GAPS))) % N_HOME] += steps
    style = np.zeros(N_STYLES)
    for steps, chance in enumerate(_drift() if slot == 0 else [1.0]):
        style[(demo.style[seen[-1]] + steps) % N_STYLES] += chance
    liked = np.bincount(demo.brand[seen], minlength=len(BRANDS)) / len(seen)
    weight = demo.popularity * (1 + (BRAND_LIFT - 1) * liked[demo.brand])
    # The last term orders what the rules exclude: noise is any item.
    scores = (category[demo.category] * style[demo.style] + 1e-3 * category[demo.category] + 1e-6) * weight
    scores[seen] = 0
    return scores


def gap_kind(times: Sequence[int]) -> int:
    """Return the kind of the gap before the last event (0 short, 1 middle, 2 long), rounded to whole months."""
    months = (int(times[-1]) - int(times[-2])) / (365.25 / 12 * DAY)
    return int(np.argmin([min(abs(months - length) for length in kind) for kind in GAPS]))


def _season(demo: Demo, seen: np.ndarray, times: Sequence[int], use_time: bool) -> np.ndarray:
    """Return the chance of each season for a seasonal item that follows an anchor and a follow-up."""
    if use_time:
        return np.bincount([season_of(times[-1])], minlength=N_SEASONS).astype(float)
    last = demo.category[seen[-3]] - N_HOME if len(seen) > N_EVENTS else -1
    if last < 0:
        return np.full(N_SEASONS, 1 / N_SEASONS)
    steps = int(demo.category[seen[-1]] - demo.category[seen[-2]]) % N_HOME
    chances = np.zeros(N_SEASONS)
    length = 12 // N_SEASONS
    for gap in GAPS[steps] if steps < len(GAPS) else sum(GAPS, ()):
        for month in range(length):
            chances[(last + (month + gap) // length) % N_SEASONS] += 1
    return chances / chances.sum()


def _drift() -> list[float]:
    """Return the chances that the style moves by 0, 1, ... steps between consecutive visits."""
    chances = [0.0] * (max(GAPS[-1]) // DRIFT_MONTHS + 2)
    for months, share in zip(GAPS, P_GAP, strict=True):
        for gap in months:
            whole, rest = divmod(gap, DRIFT_MONTHS)
            chances[whole] += share / len(months) * (1 - rest / DRIFT_MONTHS)
            chances[whole + 1] += share / len(months) * rest / DRIFT_MONTHS
    return chances
