"""Reads the two formats of WIT3's TED talks (Cettolo et al. 2012): training text with tags, held-out sets in XML."""

import html
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from xml.etree import ElementTree

from common.archive_files import Found
from common.parallel_text import InputError, decode_lines

TAGS = "url|keywords|speaker|talkid|title|description|reviewer|translator|transcript|doc"
TAG_LINE = re.compile(rf"\s*<(/?)({TAGS})\b[^>]*>([^<]*)", re.IGNORECASE)
# These stand below a talk's sentences; any other opening tag below a sentence begins the next talk.
CLOSING_TAGS = ("reviewer", "translator")
ENTITY = re.compile(r"&(#[0-9]+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);")
WHITE_SPACE = re.compile(r"[ \t\r\n]+")
FETCH_AGAIN = "a file was cut short or changed, fetch the archive again"

Segments = dict[tuple[str, str], str]


@dataclass
class Talk:
    """The sentences of one talk in one language, its TED number, and where it begins."""

    place: str
    identity: str = ""
    sentences: list[str] = field(default_factory=list)


def one_line(text: str) -> str:
    """The text without line feeds and outer white space."""
    return WHITE_SPACE.sub(" ", text).strip(" ")


def unescape(text: str) -> str:
    """Replaces entities such as `&amp;`; unlike `html.unescape` alone, leaves words such as `&copy` without semicolon."""
    return ENTITY.sub(lambda entity: html.unescape(entity[0]), text)


def read_talks(file: Found) -> tuple[list[Talk], Counter]:
    """Reads one language of the training text; returns its talks and how many lines each tag had.

    Raises:
        InputError: the text is empty, not UTF-8, or doesn't begin with a talk's tags.
    """
    talks: list[Talk] = []
    tags: Counter[str] = Counter()
    for number, line in enumerate(decode_lines(*file), start=1):
        tag = TAG_LINE.match(line)
        if tag is None:
            if not talks:
                raise InputError(
                    f"{file.place}:{number}: text above the first tag; each talk of train.tags.* begins with <url>, <talkid>, "
                    "<title> … lines, so this is another file, or one whose tags were stripped already"
                )
            talks[-1].sentences.append(one_line(unescape(line)))
            continue
        closing, name, content = tag[1], tag[2].lower(), tag[3]
        tags[name] += 1
        if not closing and name not in CLOSING_TAGS and (not talks or talks[-1].sentences):
            talks.append(Talk(f"{file.place}:{number}"))
        if name == "talkid" and not closing:
            talks[-1].identity = content.strip()
    return talks, tags


def align_talks(source: list[Talk], target: list[Talk], places: tuple[str, str]) -> None:
    """Makes sure that line n of each talk can translate line n of the same talk.

    Raises:
        InputError: the sides have not the same talks in the same order, each with the same number of lines.
    """
    for ours, theirs in zip_longest(source, target):
        if ours is None or theirs is None:
            counts = f"{places[0]} has {len(source):,} talks, {places[1]} has {len(target):,}"
            raise InputError(f"{counts}; talk {(ours or theirs).identity} is in one alone; {FETCH_AGAIN}")
        if ours.identity != theirs.identity:
            raise InputError(f"{ours.place} is talk {ours.identity}, {theirs.place} talk {theirs.identity}; {FETCH_AGAIN}")
        if len(ours.sentences) != len(theirs.sentences):
            counts = f"{ours.place} has {len(ours.sentences):,} lines, {theirs.place} has {len(theirs.sentences):,}"
            raise InputError(f"talk {ours.identity}: {counts}; line n of one must translate line n of the other; {FETCH_AGAIN}")


def read_segments(file: Found) -> Segments:
    """Reads one language of a held-out set: (document, segment) → text, in order.

    Raises:
        InputError: it is empty, not UTF-8, not XML, or a segment's number is missing or there twice.
    """
    decode_lines(*file)
    try:
        root = ElementTree.fromstring(file.data)
    except ElementTree.ParseError as error:
        line, column = error.position
        reason = str(error).partition(":")[0]
        raise InputError(f"{file.place}:{line}: not well-formed XML at column {column + 1} ({reason}); {FETCH_AGAIN}") from None
    segments: Segments = {}
    for document in root.iter("doc"):
        for segment in document.iter("seg"):
            key = (document.get("docid", ""), segment.get("id", ""))
            if "" in key:
                raise InputError(f"{file.place}: a <doc> without docid or a <seg> without id (docid, id: {key}); {FETCH_AGAIN}")
            if key in segments:
                raise InputError(f"{file.place}: doc {key[0]} seg {key[1]} is there twice; {FETCH_AGAIN}")
            segments[key] = one_line("".join(segment.itertext()))
    if not segments:
        raise InputError(f"{file.place}: no <seg> in any <doc>; not a held-out set of WIT3")
    return segments


def align_segments(source: Segments, target: Segments, places: tuple[str, str]) -> list[tuple[str, str]]:
    """Pairs the segments of equal document and segment, in the source's order.

    Raises:
        InputError: a segment is in one side alone.
    """
    for ours, theirs, here, there in ((source, target, *places), (target, source, *reversed(places))):
        for document, segment in ours:
            if (document, segment) not in theirs:
                counts = f"{here} has {len(ours):,} segments, {there} has {len(theirs):,}"
                raise InputError(f"{counts}; doc {document} seg {segment} is in the first alone; {FETCH_AGAIN}")
    return [(text, target[key]) for key, text in source.items()]
