"""Rooms and what was said in them: a library of its own, which knows the standard logging alone."""

import logging
import math
import re
from collections import Counter
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Message:
    """What somebody said."""

    number: int
    user_id: str
    text: str
    words: Counter[str]


@dataclass
class Room:
    """One room: its messages, and how many of them have each word."""

    name: str
    messages: list[Message] = field(default_factory=list)
    spread: Counter[str] = field(default_factory=Counter)

    def post(self, user_id: str, text: str) -> Message:
        """Keep a message."""
        words = words_of(text)
        message = Message(len(self.messages) + 1, user_id, text, words)
        self.messages.append(message)
        self.spread.update(words.keys())
        logger.info("room %s: message %d kept, %d words", self.name, message.number, words.total())
        if not words:
            logger.warning("room %s: message %d has no words", self.name, message.number)
        return message

    def like(self, words: Counter[str], *, limit: int = 3) -> list[Message]:
        """Return the messages that are most like *words*, by the cosine of their weights."""
        wanted = self._weights(words)
        scored = [(_cosine(wanted, self._weights(m.words)), m) for m in self.messages]
        best = sorted((pair for pair in scored if pair[0] > 0), key=lambda pair: -pair[0])
        logger.info("room %s: %d of %d messages alike", self.name, len(best), len(scored))
        return [message for _, message in best[:limit]]

    def _weights(self, words: Counter[str]) -> dict[str, float]:
        total = len(self.messages)
        return {
            word: count * math.log((1 + total) / (1 + self.spread[word]) + 1)
            for word, count in words.items()
        }


def words_of(text: str) -> Counter[str]:
    """Count the words of a text."""
    return Counter(re.findall(r"\w+", text.lower()))


def _cosine(one: dict[str, float], other: dict[str, float]) -> float:
    shared = sum(weight * other[word] for word, weight in one.items() if word in other)
    return shared / (math.hypot(*one.values()) * math.hypot(*other.values())) if shared else 0.0
