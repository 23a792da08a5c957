"""ListOps (Nangia and Bowman 2018) as in the Long Range Arena (Tay et al. 2021): drawing, writing, reading and evaluating.

An expression is an operator (minimum, maximum, median, sum modulo 10) of 2 … 10 arguments, each a digit or an expression. Its
tokens are the operator with its bracket, the arguments' tokens and the closing bracket: 1 for a digit, 2 for an operator.
"""

import itertools
from dataclasses import dataclass

import numpy as np

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
WORDS = (*map(str, range(10)), *OPERATORS, "]")
TOKENS = {word: token for token, word in enumerate(WORDS)}
FIRST_OPERATOR, CLOSE = 10, 14
FEWEST_ARGUMENTS = 2


class ExpressionError(ValueError):
    """Not an expression."""


@dataclass(frozen=True)
class Shape:
    """What expressions may be drawn: lengths lie strictly between `min_length` and `max_length`."""

    max_depth: int = 10
    max_args: int = 10
    min_length: int = 500
    max_length: int = 2000
    operator_probability: float = 0.25  # of a node below the root and above the last level


@dataclass
class Level:
    """The operators at one depth of a forest of expressions, in order.

    Args:
        operators: int `[n]`, 0 … 3. arguments: how many each has, int `[n]`.
        nested: which arguments are operators of the next level, bool `[arguments.sum()]`. digits: the values of the others,
            int of the same shape.
    """

    operators: np.ndarray
    arguments: np.ndarray
    nested: np.ndarray
    digits: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Where the arguments of each operator begin, int `[n]`."""
        return np.cumsum(self.arguments) - self.arguments

    def fill(self, given: np.ndarray, plain: np.ndarray | int) -> np.ndarray:
        """A value for each argument: the next level's `given` for nested ones, else `plain`."""
        values = np.empty(len(self.nested), dtype=np.int64)
        values[:] = plain
        values[self.nested] = given
        return values


def draw_forest(random: np.random.Generator, trees: int, shape: Shape) -> list[Level]:
    """Expressions, level by level."""
    levels, count = [], trees
    for depth in range(1, shape.max_depth):
        arguments = random.integers(FEWEST_ARGUMENTS, shape.max_args + 1, count)
        total = int(arguments.sum())
        probability = shape.operator_probability if depth + 1 < shape.max_depth else 0
        operators, nested = random.integers(0, len(OPERATORS), count), random.random(total) < probability
        levels.append(Level(operators, arguments, nested, random.integers(0, 10, total)))
        count = int(nested.sum())
        if not count:
            break
    return levels


def measure(levels: list[Level]) -> list[np.ndarray]:
    """The number of tokens of each operator's expression, level by level."""
    lengths: list[np.ndarray] = []
    below = np.empty(0, dtype=np.int64)
    for level in reversed(levels):
        below = 2 + np.add.reduceat(level.fill(below, 1), level.starts)
        lengths.append(below)
    return lengths[::-1]


def evaluate_forest(levels: list[Level]) -> np.ndarray:
    """The value of each tree, int `[trees]`."""
    below = np.empty(0, dtype=np.int64)
    for level in reversed(levels):
        below = apply_operators(level, level.fill(below, level.digits))
    return below


def apply_operators(level: Level, values: np.ndarray) -> np.ndarray:
    """The value of each operator on its arguments' values. The median is the integer part of the median."""
    starts, counts = level.starts, level.arguments
    rows = np.full((len(counts), counts.max()), 10)
    rows[np.arange(rows.shape[1]) < counts[:, None]] = values
    rows.sort(1)
    each = np.arange(len(counts))
    median = (rows[each, (counts - 1) // 2] + rows[each, counts // 2]) // 2
    results = rows[:, 0], rows[each, counts - 1], median, np.add.reduceat(values, starts) % 10
    return np.choose(level.operators, results)


def write_forest(levels: list[Level], lengths: list[np.ndarray], kept: np.ndarray) -> np.ndarray:
    """The tokens of the kept trees (bool `[trees]`), one after the other."""
    roots = np.where(kept, lengths[0], 0)
    tokens = np.empty(roots.sum(), dtype=np.uint8)
    places = np.cumsum(roots) - roots
    for depth, level in enumerate(levels):
        tokens[places[kept]] = FIRST_OPERATOR + level.operators[kept]
        tokens[places[kept] + lengths[depth][kept] - 1] = CLOSE
        below = lengths[depth + 1] if level.nested.any() else np.empty(0, dtype=np.int64)
        ends = np.cumsum(level.fill(below, 1))
        before = np.concatenate([[0], ends[:-1]])
        # An argument stands behind its operator and the arguments before it.
        arguments = np.repeat(places + 1 - before[level.starts], level.arguments) + before
        of_kept = np.repeat(kept, level.arguments)
        plain = of_kept & ~level.nested
        tokens[arguments[plain]] = level.digits[plain]
        places, kept = arguments[level.nested], of_kept[level.nested]
    return tokens


def draw(random: np.random.Generator, count: int, shape: Shape, forest: int = 256) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count` expressions of the lengths wanted, from forests of which the others are left out.

    Returns:
        All tokens one after the other, uint8; lengths and values, int64 `[count]`.

    Raises:
        ExpressionError: no expression of many drawn has such a length.
    """
    parts, found = [], 0
    for tries in itertools.count(1):
        levels = draw_forest(random, forest, shape)
        lengths = measure(levels)
        fits = np.flatnonzero((lengths[0] > shape.min_length) & (lengths[0] < shape.max_length))[: count - found]
        kept = np.isin(np.arange(forest), fits)
        parts.append((write_forest(levels, lengths, kept), lengths[0][kept], evaluate_forest(levels)[kept]))
        found += len(fits)
        if found == count:
            return tuple(map(np.concatenate, zip(*parts, strict=True)))
        if tries == 100 and not found:
            limits = f"more than {shape.min_length:,} and fewer than {shape.max_length:,} tokens"
            raise ExpressionError(f"none of {tries * forest:,} expressions has {limits}; choose other limits")
    raise AssertionError("counting has no end")


def evaluate(tokens: list[int]) -> int:
    """The value of an expression given as tokens.

    Raises:
        ExpressionError: brackets don't match, or an operator has no argument.
    """
    stack: list[list[int]] = [[]]
    for token in tokens:
        if token < FIRST_OPERATOR:
            stack[-1].append(token)
        elif token != CLOSE:
            stack.append([token])
        elif len(stack) == 1:
            raise ExpressionError("a ] closes nothing")
        else:
            operator, *values = stack.pop()
            stack[-1].append(apply_operator(WORDS[operator], values))
    if len(stack) > 1 or len(stack[0]) != 1:
        raise ExpressionError(f"{len(stack) - 1} operators are not closed" if len(stack) > 1 else "not one expression")
    return stack[0][0]


def apply_operator(operator: str, values: list[int]) -> int:
    """The value of one operator on its arguments' values."""
    if not values:
        raise ExpressionError(f"{operator} has no argument")
    if operator == "[SM":
        return sum(values) % 10
    ordered = sorted(values)
    first, last = {"[MIN": (0, 0), "[MAX": (-1, -1), "[MED": ((len(values) - 1) // 2, len(values) // 2)}[operator]
    return (ordered[first] + ordered[last]) // 2


def parse(text: str) -> list[int]:
    """The tokens of a text as published, words with spaces between; parentheses mean nothing and are left out.

    Raises:
        ExpressionError: a word is none of ListOps, or there is none.
    """
    words = [word for word in text.split(" ") if word and word not in "()"]
    unknown = [word for word in words if word not in TOKENS]
    if unknown:
        raise ExpressionError(f"{unknown[0]!r} is not a digit, [MIN, [MAX, [MED, [SM, ], ( or )")
    if not words:
        raise ExpressionError("no expression")
    return [TOKENS[word] for word in words]


def publish(tokens: list[int]) -> str:
    """The text as published: parentheses make pairs of what stands left of an argument, and the argument."""
    stack: list[list[str]] = [[]]
    for token in tokens:
        if FIRST_OPERATOR <= token < CLOSE:
            stack.append([WORDS[token]])
        elif token < FIRST_OPERATOR:
            stack[-1].append(WORDS[token])
        else:
            operator, *arguments = stack.pop()
            text = "".join(f" {argument} )" for argument in [*arguments, "]"])
            stack[-1].append("( " * (len(arguments) + 1) + operator + text)
    return stack[0][0]
