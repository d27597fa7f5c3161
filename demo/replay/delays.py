"""Delays of answers: random, but determined by seed, conversation and step."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Delay:
    """A parsed --delay: the distribution of the seconds that an answer takes.

    base is fixed (a), lognormal (median a, sigma b) or uniform (from a to b). With probability
    tail_p a conversation is slow: all its calls take tail_factor times as long.
    """

    base: str = "fixed"
    a: float = 0.0
    b: float = 0.0
    tail_p: float = 0.0
    tail_factor: float = 1.0
    seed: int = 0

    @classmethod
    def parse(cls, spec: str, seed: int = 0) -> Delay:
        """Parse "2.0", "lognormal:MEDIAN:SIGMA" or "uniform:A:B", and optional ",tail:P:FACTOR"."""
        base, a, b, tail_p, tail_factor = "fixed", 0.0, 0.0, 0.0, 1.0
        try:
            for part in spec.split(","):
                name, *numbers = part.strip().split(":")
                if name in ("lognormal", "uniform"):
                    base, (a, b) = name, map(float, numbers)
                elif name == "tail":
                    tail_p, tail_factor = map(float, numbers)
                else:
                    base, a, b = "fixed", float(name), 0.0
                    if numbers:
                        raise ValueError
        except ValueError:
            raise ValueError(
                f"--delay {spec!r}: expected SECONDS, lognormal:MEDIAN:SIGMA or uniform:A:B, "
                "optionally with ,tail:P:FACTOR"
            ) from None
        numbers_ok = all(math.isfinite(x) and x >= 0 for x in (a, b, tail_p, tail_factor))
        if not numbers_ok or tail_p > 1 or (base == "uniform" and b < a):
            raise ValueError(f"--delay {spec!r}: numbers out of range")
        return cls(base, a, b, tail_p, tail_factor, seed)

    def seconds(self, conversation: str, step: int) -> float:
        """Return the seconds that a call takes, the same for equal seed, conversation and step."""
        draw = self._random(conversation, f"step {step}")
        if self.base == "lognormal":
            seconds = self.a * math.exp(self.b * draw.gauss(0.0, 1.0))
        elif self.base == "uniform":
            seconds = draw.uniform(self.a, self.b)
        else:
            seconds = self.a
        slow = self._random(conversation, "tail").random() < self.tail_p
        return seconds * self.tail_factor if slow else seconds

    def _random(self, conversation: str, quantity: str) -> random.Random:
        digest = hashlib.sha256(f"{self.seed}|{conversation}|{quantity}".encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))
