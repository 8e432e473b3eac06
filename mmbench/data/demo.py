"""The built-in demo: a generated shop with a known truth, in the raw file formats of Amazon 2014.

Everything here is synthetic: items, brands, pictures, customers and dates. The planted truth:

ITEMS      (category, style) groups of about seven. The category stands in the text (title, category path),
           the style - a colour family with a texture - is visible in the picture only, the brand in the
           text only.
CUSTOMERS  have a home category, a style and a few favourite brands. The shop is a market, held on the first
           Saturday of a month and the two days after it. On Saturday a customer buys an ANCHOR, an item of
           the home category, on Sunday a FOLLOW-UP, on Monday a SEASONAL item, all in the current style.
DRIFT      a customer's style moves a step around the ring of styles every `DRIFT_MONTHS` months.
GAPS       the months since the last visit decide what the follow-up is. After a short gap (1-4 months), or on
           the first visit, the customer stays: another item of the home category. After a middle gap (6-10)
           the customer moves to the next category on the ring of home categories, after a long gap (12-17)
           to the second next, for good.
SEASONS    the calendar month names the seasonal item's category; each of four has three months.

    Saturday          Sunday                            Monday                gap
    anchor: home  ->  follow-up: home, 0, 1 or 2    ->  season of the month   1-4, 6-10 or 12-17 -> Saturday ...
                      steps on, by the last gap                               months

What comes next can be read from the inputs alone: from the gap before the last event (after an anchor) and from the
month of the last event (after a follow-up). A model that does not see time must spread its guess over three
home categories, or over four seasons (knowing the season of the last visit helps it a little).

`time_signal=False` gives every customer the same items in the same order and draws other dates, with the same
distribution but independently of the items. A model that does not see time scores exactly the same on both; what
a model that sees time gains on the first must vanish on the second.

`seed` decides everything. mmbench.data.demo_oracle knows these rules and bounds what a model can reach.
"""

import gzip
import json
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np

from mmbench.atomic import replacing
from mmbench.errors import UsageError

# Strengths of the planted signals.
N_VISITS = (4, 5)  # visits of a customer, smallest and largest number
GAPS = ((1, 2, 3, 4), (6, 7, 8, 9, 10), (12, 13, 14, 15, 16, 17))  # months: short, middle, long
P_GAP = (0.34, 0.33, 0.33)  # how often each kind of gap occurs
P_LAST = (0.15, 0.4, 0.45)  # how often a history ends with its last anchor, follow-up, seasonal item
P_NOISE = 0.05  # chance that an event is any item
DRIFT_MONTHS = 18
FIRST_MONTHS = 18  # the first visits are spread over this many months
N_FAVOURITES = 3  # brands that a customer likes ...
BRAND_LIFT = 3.0  # ... and how many times as often as others they are bought
POPULARITY_SPREAD = 0.4  # standard deviation of the log popularity inside a group

DAY = 86_400
FIRST_YEAR = 2010
ROOT = "Demo (synthetic)"
HOME = (
    ("Office", "Notebooks", "Notebook"),
    ("Kitchen", "Mugs", "Mug"),
    ("Audio", "Headphones", "Headphones"),
    ("Games", "Board Games", "Board Game"),
    ("Cycling", "Bike Lights", "Bike Light"),
    ("Living", "Cushions", "Cushion"),
)
SEASONAL = (  # January-March, April-June, ...
    ("Winter Sports", "Snow Boots", "Snow Boots"),
    ("Garden", "Plant Pots", "Plant Pot"),
    ("Beach", "Beach Towels", "Beach Towel"),
    ("Lighting", "Lanterns", "Lantern"),
)
CATEGORIES = HOME + SEASONAL
N_HOME, N_SEASONS = len(HOME), len(SEASONAL)
N_STYLES = 5
N_EVENTS = 3  # a visit has an anchor, a follow-up and a seasonal item
BRANDS = (
    "Alderfen", "Brimlock", "Corvane", "Dunmoss", "Eskaret", "Fennwick", "Gorsedale", "Hollin",
    "Ivarsson", "Jurabell",
)  # fmt: skip
WORDS = (
    "Classic", "Compact", "Deluxe", "Everyday", "Family", "Light", "Original", "Plus", "Pro",
    "Slim", "Solid", "Studio", "Travel", "Urban",
)  # fmt: skip


@dataclass(frozen=True)
class Demo:
    """The generated shop and the truth about it: I items, E events, sorted by user, then by time."""

    seed: int
    time_signal: bool
    category: np.ndarray  # int64 [I], index into CATEGORIES
    style: np.ndarray  # int64 [I], 0..N_STYLES-1
    brand: np.ndarray  # int64 [I], index into BRANDS
    popularity: np.ndarray  # float64 [I]
    title: list[str]
    user: np.ndarray  # int64 [E], 0-based
    item: np.ndarray  # int64 [E], 0-based
    time: np.ndarray  # int64 [E], unix seconds, whole days

    @property
    def n_items(self) -> int:
        return len(self.category)

    @property
    def asins(self) -> list[str]:
        """Return the raw item ids, in order."""
        return [f"DEMO{number:06d}" for number in range(self.n_items)]

    @property
    def reviewers(self) -> list[str]:
        """Return the raw user ids, in order."""
        return [f"DEMOUSER{number:05d}" for number in range(int(self.user.max()) + 1)]

    def histories(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (items, times) of each user, oldest first."""
        cuts = np.flatnonzero(np.diff(self.user)) + 1
        return list(zip(np.split(self.item, cuts), np.split(self.time, cuts), strict=True))


def season_of(time: int) -> int:
    """Return the season 0..3 of a time in unix seconds (UTC): January-March, ..., October-December."""
    return (datetime.fromtimestamp(int(time), tz=UTC).month - 1) // (12 // N_SEASONS)


def market_day(month: int) -> int:
    """Return the first Saturday, 00:00 UTC, of the month `month` months after January FIRST_YEAR, in unix seconds."""
    first = datetime(FIRST_YEAR + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return int(first.timestamp()) + (5 - first.weekday()) % 7 * DAY


def generate(*, time_signal: bool = True, n_users: int = 1000, n_items: int = 500, seed: int = 2025) -> Demo:
    """Draw the shop and its customers; UsageError for fewer items than pairs (category, style)."""
    groups = len(CATEGORIES) * N_STYLES
    if n_items < groups or n_users < 1:
        raise UsageError(f"the demo needs at least {groups} items and 1 user, got {n_items} and {n_users}")
    rng = np.random.default_rng([seed, 0])
    # Shuffled, so that an id says nothing about its group.
    group = rng.permutation(np.arange(n_items) % groups)
    category, style = group // N_STYLES, group % N_STYLES
    brand = rng.integers(len(BRANDS), size=n_items)
    popularity = np.exp(rng.normal(0, POPULARITY_SPREAD, n_items))
    words = rng.integers(len(WORDS), size=n_items)
    title = [
        f"{BRANDS[brand[i]]} {WORDS[words[i]]} {CATEGORIES[category[i]][2]} {rng.integers(2, 30)}"
        for i in range(n_items)
    ]
    shop = _Shop(category, style, brand, popularity)
    users, items, times = [], [], []
    for number in range(n_users):
        bought, dates = shop.customer(np.random.default_rng([seed, 1, number]))
        if not time_signal:
            dates = _dates(_visits(len(dates), np.random.default_rng([seed, 2, number]))[0], len(dates))
        users += [number] * len(bought)
        items += bought
        times += dates
    return Demo(
        seed=seed, time_signal=time_signal, category=category, style=style, brand=brand, popularity=popularity,
        title=title, user=np.array(users), item=np.array(items), time=np.array(times),
    )  # fmt: skip


def _visits(n_events: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the months of a customer's visits, and the kind of gap before each (0 = short, also for the first)."""
    n_visits = -(-n_events // N_EVENTS)
    kind = rng.choice(len(GAPS), n_visits, p=P_GAP)
    kind[0] = 0
    gaps = np.stack([rng.choice(months, n_visits) for months in GAPS])[kind, np.arange(n_visits)]
    gaps[0] = rng.integers(FIRST_MONTHS)
    return np.cumsum(gaps), kind


def _dates(months: np.ndarray, n_events: int) -> list[int]:
    """Return a customer's events in unix seconds: Saturday, Sunday and Monday of each visit, the last cut short."""
    dates = [market_day(int(month)) + day * DAY for month in months for day in range(N_EVENTS)]
    return dates[:n_events]


@dataclass(frozen=True)
class _Shop:
    category: np.ndarray
    style: np.ndarray
    brand: np.ndarray
    popularity: np.ndarray

    def customer(self, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """Draw a customer's purchases: items and times, oldest first; no item twice."""
        n_visits = int(rng.integers(N_VISITS[0], N_VISITS[1] + 1))
        n_events = N_EVENTS * (n_visits - 1) + 1 + int(rng.choice(N_EVENTS, p=P_LAST))
        months, kind = _visits(n_events, rng)
        dates = _dates(months, n_events)
        liked = rng.choice(len(BRANDS), N_FAVOURITES, replace=False)
        weight = self.popularity * np.where(np.isin(self.brand, liked), BRAND_LIFT, 1.0)
        home, first_style, phase = (int(rng.integers(n)) for n in (N_HOME, N_STYLES, DRIFT_MONTHS))
        bought: list[int] = []
        for visit, month in enumerate(months):
            style = (first_style + (int(month - months[0]) + phase) // DRIFT_MONTHS) % N_STYLES
            anchor, home = home, (home + int(kind[visit])) % N_HOME
            season = N_HOME + season_of(dates[N_EVENTS * visit])
            for category in (anchor, home, season)[: n_events - N_EVENTS * visit]:
                bought.append(self._take(category, style, weight, bought, rng))
        return bought, dates

    def _take(
        self, category: int, style: int, weight: np.ndarray, bought: list[int], rng: np.random.Generator
    ) -> int:
        """Draw an item that the customer does not have: of the group, else of the category, else any."""
        left = np.ones(len(weight), dtype=bool)
        left[bought] = False
        in_category = left & (self.category == category)
        in_group = in_category & (self.style == style)
        if rng.random() < P_NOISE:
            choice = left
        else:
            choice = next(candidates for candidates in (in_group, in_category, left) if candidates.any())
        share = np.where(choice, weight, 0)
        return int(rng.choice(len(weight), p=share / share.sum()))


def write_raw(
    folder: Path, *, time_signal: bool = True, n_users: int = 1000, n_items: int = 500, seed: int = 2025
) -> None:
    """Write `reviews_Demo_5.json.gz`, `meta_Demo.json.gz` and `images.zip` (`<asin>.png`) into `folder`.

    The same arguments give the same bytes (with the same versions of zlib and Pillow).
    """
    demo = generate(time_signal=time_signal, n_users=n_users, n_items=n_items, seed=seed)
    _write_gzip(folder / "reviews_Demo_5.json.gz", _review_lines(demo))
    _write_gzip(folder / "meta_Demo.json.gz", _meta_lines(demo))
    with replacing(folder / "images.zip") as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for asin, content in zip(demo.asins, pictures(demo), strict=True):
            archive.writestr(zipfile.ZipInfo(f"{asin}.png", date_time=(2000, 1, 1, 0, 0, 0)), content)


def _write_gzip(path: Path, lines: list[str]) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    # With mtime 0 the header holds no date, so equal content gives equal bytes.
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0))


def _review_lines(demo: Demo) -> list[str]:
    """Return JSON lines sorted by item, as in Amazon's 5-core files."""
    rating = np.random.default_rng([demo.seed, 3]).choice([3, 4, 5], size=len(demo.item), p=[0.1, 0.3, 0.6])
    asins, reviewers = demo.asins, demo.reviewers
    return [
        json.dumps(
            {
                "reviewerID": reviewers[demo.user[event]],
                "asin": asins[demo.item[event]],
                "overall": float(rating[event]),
                "unixReviewTime": int(demo.time[event]),
            }
        )
        for event in np.lexsort((demo.user, demo.time, demo.item))
    ]


def _meta_lines(demo: Demo) -> list[str]:
    """Return Python literals, an item per line."""
    lines = []
    for number, asin in enumerate(demo.asins):
        department, name, _ = CATEGORIES[demo.category[number]]
        brand = BRANDS[demo.brand[number]]
        record = {
            "asin": asin,
            "title": demo.title[number],
            "brand": brand,
            "categories": [[ROOT, department, name]],
        }
        lines.append(repr(record))
    return lines


def pictures(demo: Demo) -> list[bytes]:
    """Return the PNG files of all items: the category decides the outline, the style colour and texture."""
    from mmbench.data.demo_pictures import draw

    files = []
    for number in range(demo.n_items):
        rng = np.random.default_rng([demo.seed, 4, number])
        buffer = BytesIO()
        draw(int(demo.category[number]), int(demo.style[number]), rng).save(buffer, format="PNG")
        files.append(buffer.getvalue())
    return files
