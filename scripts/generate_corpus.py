"""Writes an English–German corpus made by a grammar, for where real text can't be downloaded.

What makes German hard to emit in parallel is in it: articles and adjectives agree in case, gender and number, verbs in
number; participles, infinitives and separable prefixes end the clause, and in a subordinate clause the finite verb too.
A score on it says that a model learns, nothing about translation of real text.

    python scripts/generate_corpus.py OUT [--pairs N] [--seed S]
"""

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from common.lexicon import (
    ADJECTIVES,
    ADVERBS,
    BEINGS,
    CLAUSE_VERBS,
    CONJUNCTIONS,
    MODALS,
    PLACES,
    THINGS,
    VERBS,
    table,
)
from common.parallel_text import run, write_lines
from common.whole_file import whole_file

HELD_OUT = 1000  # pairs in each of val and test
CASES = ("nom", "acc", "dat")
# Endings by gender (p: plural), in the order of CASES.
DER_ENDINGS = {"m": "er en em", "f": "e e er", "n": "es es em", "p": "e e en"}
EIN_ENDINGS = {"m": "- en em", "f": "e e er", "n": "- - em", "p": "e e en"}
DEFINITE = {"m": "der den dem", "f": "die die der", "n": "das das dem", "p": "die die den"}
# Adjective endings after a determiner that shows the gender, after one that may not, and after a number.
WEAK = {"m": "e en en", "f": "e e en", "n": "e e en", "p": "en en en"}
MIXED = {"m": "er en en", "f": "e e en", "n": "es es en", "p": "en en en"}
BARE = {"p": "e e en"}
# English, German stem, endings (None: it doesn't change), adjective endings.
SINGULAR = [
    ("the", "", DEFINITE, WEAK),
    ("a", "ein", EIN_ENDINGS, MIXED),
    ("this", "dies", DER_ENDINGS, WEAK),
    ("every", "jed", DER_ENDINGS, WEAK),
    ("no", "kein", EIN_ENDINGS, MIXED),
    ("my", "mein", EIN_ENDINGS, MIXED),
    ("our", "unser", EIN_ENDINGS, MIXED),
]
PLURAL = [
    ("the", "", DEFINITE, WEAK),
    ("these", "dies", DER_ENDINGS, WEAK),
    ("my", "mein", EIN_ENDINGS, MIXED),
    ("our", "unser", EIN_ENDINGS, MIXED),
    ("two", "zwei", None, BARE),
    ("three", "drei", None, BARE),
    ("many", "viel", DER_ENDINGS, BARE),
]
CONTRACTIONS = {"in dem": "im", "an dem": "am", "bei dem": "beim"}


def ending(endings: dict[str, str], gender: str, case: str) -> str:
    """Looks an ending up; `-` in the tables is none."""
    return endings[gender].split()[CASES.index(case)].replace("-", "")


@dataclass
class NounPhrase:
    """A determiner, perhaps an adjective, a noun, perhaps a relative clause."""

    determiner: tuple
    adjective: list[str] | None
    noun: list[str]
    plural: bool
    relative: "Clause | None" = None

    @property
    def gender(self) -> str:
        return "p" if self.plural else self.noun[4]

    def english(self) -> str:
        words = [self.determiner[0], *(self.adjective or [])[:1], self.noun[1] if self.plural else self.noun[0]]
        if words[0] == "a" and words[1][0] in "aeiou" and not words[1].startswith("use"):
            words[0] = "an"
        return " ".join(words + ([f"that {self.relative.english_predicate()}"] if self.relative else []))

    def german(self, case: str) -> str:
        _, stem, endings, adjective_endings = self.determiner
        words = [stem + (ending(endings, self.gender, case) if endings else "")]
        if self.adjective:
            words.append(self.adjective[1] + ending(adjective_endings, self.gender, case))
        noun = self.noun[3] if self.plural else self.noun[2]
        words.append(noun + "n" if self.plural and case == "dat" and noun[-1] not in "ns" else noun)
        if self.relative:
            words[-1] += f", {ending(DEFINITE, self.gender, 'nom')} {self.relative.german_final(subject=False)},"
        return " ".join(words)


@dataclass
class Clause:
    """Who does what to whom, when and where; tense is `present`, `perfect` or an entry of MODALS."""

    subject: NounPhrase
    verb: list[str]
    tense: str | list[str]
    obj: NounPhrase | None = None
    adverb: list[str] = field(default_factory=list)
    place: tuple[str, str] | None = None

    def english_verb(self) -> tuple[str, str]:
        """The part that a question puts first, and the rest: `(has, seen)`, `(does, see)`."""
        base, _, participle = (form.replace("_", " ") for form in self.verb[:3])
        if self.tense == "present":
            return ("do" if self.subject.plural else "does"), base
        if self.tense == "perfect":
            return ("have" if self.subject.plural else "has"), participle
        return self.tense[0], base

    def english_rest(self) -> str:
        parts = [self.obj.english() if self.obj else "", self.place[0] if self.place else "", *self.adverb[:1]]
        return " ".join(filter(None, parts))

    def english_predicate(self) -> str:
        verb = " ".join(self.english_verb())
        if self.tense == "present":
            verb = self.verb[0 if self.subject.plural else 1].replace("_", " ")
        return f"{verb} {self.english_rest()}".strip()

    def english(self) -> str:
        return f"{self.subject.english()} {self.english_predicate()}"

    def english_question(self) -> str:
        first, rest = self.english_verb()
        return f"{first} {self.subject.english()} {rest} {self.english_rest()}".strip()

    def german_verb(self) -> tuple[str, str]:
        """The finite verb and what ends a main clause: `(hat, gesehen)`, `(hebt, auf)`, `(kann, sehen)`."""
        infinitive, third_person, participle, auxiliary = self.verb[3:7]
        prefix, _, bare = infinitive.rpartition("|")
        plural = self.subject.plural
        if self.tense == "present":
            return (bare if plural else third_person), prefix
        if self.tense == "perfect":
            return {"h": ("hat", "haben"), "s": ("ist", "sind")}[auxiliary][plural], participle
        return self.tense[1 + plural], prefix + bare

    def german_middle(self) -> list[str]:
        obj = self.obj.german(self.verb[7]) if self.obj else ""
        return [*self.adverb[1:], obj, self.place[1] if self.place else ""]

    def german_main(self, first: str | None = None) -> str:
        """The finite verb second, after `first` or the subject; `first=""` puts it first, as questions do."""
        finite, last = self.german_verb()
        subject = self.subject.german("nom")
        start = [subject, finite] if first is None else [first, finite, subject]
        return " ".join(filter(None, [*start, *self.german_middle(), last]))

    def german_final(self, subject: bool = True) -> str:
        """The finite verb last, as in a subordinate clause; a separable prefix is joined to it."""
        finite, last = self.german_verb()
        end = last + finite if self.tense == "present" else f"{last} {finite}"
        return " ".join(filter(None, [self.subject.german("nom") if subject else "", *self.german_middle(), end]))


class Grammar:
    """Draws sentence pairs; the same seed draws the same."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.nouns = {"beings": table(BEINGS), "things": table(THINGS)}
        self.adjectives = {kind: table(ADJECTIVES["any"] + " | " + ADJECTIVES[kind]) for kind in self.nouns}
        self.verbs = {kind: table(text, "/") for kind, text in VERBS.items()}
        self.places, self.modals, self.adverbs = table(PLACES), table(MODALS), table(ADVERBS)
        self.conjunctions, self.clause_verbs = table(CONJUNCTIONS), table(CLAUSE_VERBS)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def noun_phrase(self, kind: str) -> NounPhrase:
        plural = self.chance(0.35)
        adjective = self.random.choice(self.adjectives[kind]) if self.chance(0.5) else None
        determiners = PLURAL if plural else SINGULAR
        # Half are "the": the others would make too many sentences of "every" and "no".
        determiner = determiners[0] if self.chance(0.5) else self.random.choice(determiners)
        return NounPhrase(determiner, adjective, self.random.choice(self.nouns[kind]), plural)

    def place(self) -> tuple[str, str]:
        preposition, noun, german_preposition, german_noun, gender = self.random.choice(self.places)
        start = f"{german_preposition} {ending(DEFINITE, gender, 'dat')}"
        return f"{preposition} the {noun}", f"{CONTRACTIONS.get(start, start)} {german_noun}"

    def clause(self, relative: bool = True, detail: float = 0.3) -> Clause:
        kind = self.random.choice(["things", "beings", ""])
        tense = self.random.choice(["present", "present", "perfect", self.random.choice(self.modals)])
        clause = Clause(self.noun_phrase("beings"), self.random.choice(self.verbs[kind]), tense)
        clause.obj = self.noun_phrase(kind) if kind else None
        if self.chance(detail):
            clause.place = self.place()
        if relative and self.chance(0.15):
            clause.subject.relative = self.clause(relative=False, detail=0.1)
            # The relative pronoun stands for the phrase, so its verb agrees with it.
            clause.subject.relative.subject = clause.subject
        return clause

    def pair(self) -> tuple[str, str]:
        """Draws one sentence and its translation."""
        shape = self.random.choice(["main", "main", "adverb", "question", "conjunction", "fronted", "that"])
        clause = self.clause()
        if shape in ("main", "adverb"):
            adverb = self.random.choice(self.adverbs) if shape == "adverb" else []
            if adverb and self.chance(0.5):
                return sentence(f"{adverb[0]} {clause.english()}", clause.german_main(adverb[1]))
            clause.adverb = adverb
            return sentence(clause.english(), clause.german_main())
        if shape == "question":
            return sentence(clause.english_question(), clause.german_main(""), "?")
        second = self.clause(relative=False, detail=0.15)
        if shape == "that":
            english, german = self.clause_verb(clause.subject)
            return sentence(f"{english} that {second.english()}", f"{german}, dass {second.german_final()}")
        english, german = self.random.choice(self.conjunctions)
        if shape == "fronted":
            start = f"{german} {second.german_final()},"
            return sentence(f"{english} {second.english()}, {clause.english()}", clause.german_main(start))
        clauses = f"{clause.german_main()}, {german} {second.german_final()}"
        return sentence(f"{clause.english()} {english} {second.english()}", clauses)

    def clause_verb(self, subject: NounPhrase) -> tuple[str, str]:
        """A subject that knows, says, … what the next clause tells."""
        singular, plural, german_singular, german_plural = self.random.choice(self.clause_verbs)
        english, german = (plural, german_plural) if subject.plural else (singular, german_singular)
        return f"{subject.english()} {english}", f"{subject.german('nom')} {german}"


def sentence(english: str, german: str, end: str = ".") -> tuple[str, str]:
    """Capitalises and ends both; a comma that closed a relative clause goes where another mark follows it."""
    english, german = (re.sub(r",+(?=[,.?])", "", text + end) for text in (english, german))
    return english[0].upper() + english[1:], german[0].upper() + german[1:]


def generate(options: argparse.Namespace) -> None:
    """Writes `val`, `test` and `train`, `.en` and `.de`, `train.de` last; no English sentence occurs twice, wherever it is."""
    grammar = Grammar(options.seed)
    corpus: dict[str, str] = {}
    while len(corpus) < options.pairs + 2 * HELD_OUT:
        corpus.setdefault(*grammar.pair())
    pairs = list(corpus.items())
    # Held-out pairs come first, so that they are the same for every number of training pairs.
    splits = {"val": pairs[:HELD_OUT], "test": pairs[HELD_OUT : 2 * HELD_OUT], "train": pairs[2 * HELD_OUT :]}
    for split, chosen in splits.items():
        for language, lines in zip(("en", "de"), zip(*chosen, strict=True), strict=True):
            with whole_file(options.out / f"{split}.{language}") as part:
                write_lines(part, lines)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--pairs", type=int, default=20_000, help="training pairs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="what is drawn follows from it (default: %(default)s)")
    options = parser.parse_args()
    if options.pairs < 1:
        parser.error(f"--pairs {options.pairs}: must be at least 1")
    return options


if __name__ == "__main__":
    run(lambda: generate(parse_options()))
