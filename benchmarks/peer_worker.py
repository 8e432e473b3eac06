"""What the workers of all peers share: the events they read, commands and their answers (see turns.py), clocks.

It runs with the Python of a peer's own environment, so it imports numpy and the standard library only.
"""

import csv
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

K = 10  # length of the lists that are written
RANKED_AT_ONCE = 256  # users, the number that RecTools takes by default


class Events:
    """The events of an exported data set, user by user in order of time, and their leave-one-out split.

    user_ids, item_ids  names by number, from 0
    histories           the item numbers of each user; the last but one is the validation target, the last the test's
    """

    def __init__(self, file):
        with open(file, encoding="utf-8", newline="") as stream:
            rows = [(row[0], row[1], float(row[2])) for row in list(csv.reader(stream, delimiter="\t"))[1:]]
        self.user_ids = list(dict.fromkeys(row[0] for row in rows))
        self.item_ids = list(dict.fromkeys(row[1] for row in rows))
        user_numbers = {name: number for number, name in enumerate(self.user_ids)}
        item_numbers = {name: number for number, name in enumerate(self.item_ids)}
        self.histories = [[] for _ in self.user_ids]
        for user, item, _ in sorted(rows, key=lambda row: row[2]):
            self.histories[user_numbers[user]].append(item_numbers[item])

    def training(self, user):
        return self.histories[user][:-2]

    def evaluated(self, n):
        """Return the numbers of `n` users spread evenly."""
        n_users = len(self.user_ids)
        return np.linspace(0, n_users - 1, min(n, n_users)).astype(int).tolist()

    def users_a_step(self, targets_a_step, n_targets):
        """Return how many users hold so many targets on average, for programs that count users."""
        return max(1, round(targets_a_step * len(self.histories) / n_targets))

    def facts(self):
        pairs = (
            f"{self.user_ids[user]} {self.item_ids[history[-2]]}"
            for user, history in enumerate(self.histories)
        )
        return {
            "users": len(self.user_ids), "items": len(self.item_ids), "eval_users": len(self.user_ids),
            "eval_pairs": hash_pairs(pairs),
        }  # fmt: skip


def hash_pairs(pairs):
    """Return the hash of pairs of user and validation target, in any order."""
    return hashlib.sha256("\n".join(sorted(pairs)).encode()).hexdigest()


def write_lists(file, rows):
    """Write rows of user, item and score as `mmbench score` reads them."""
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(("user", "item", "score"))
        writer.writerows(rows)


class Clock:
    """Seconds since it was made, by the wall and of the processor."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self):
        return {"seconds": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu}


def stopwatch(callback_class, count_targets):
    """Return a Lightning callback that ends a training after a number of steps and seconds, and counts.

    callback_class  Callback of the Lightning that the peer uses
    count_targets   of a batch
    """

    class Stopwatch(callback_class):
        def __init__(self, steps, seconds):
            self.steps, self.until, self.clock = steps, time.perf_counter() + seconds, None
            self.done = self.targets = 0
            self.loss, self.taken = 0.0, {}

        def on_train_epoch_start(self, trainer, module):
            self.clock = self.clock or Clock()

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.targets += count_targets(batch)

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.done += 1
            if self.done >= self.steps and time.perf_counter() >= self.until:
                trainer.should_stop = True
                self.loss = float(outputs["loss"])
                self.taken = self.clock.read()

        def answer(self):
            return {**self.taken, "steps": self.done, "targets": self.targets, "loss": self.loss}

    return Stopwatch


def memory():
    """Return the largest resident set of this process. `ru_maxrss` would count what the parent held when it forked."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return {"bytes": int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024}


def serve(contestant_class):
    """Answer the commands on standard input; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    contestant = contestant_class(json.loads(sys.argv[1]))
    print(json.dumps(contestant.facts), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        answer = memory() if do == "memory" else getattr(contestant, do)(**command)
        print(json.dumps(answer), file=answers)
