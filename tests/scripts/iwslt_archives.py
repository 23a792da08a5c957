"""Small IWSLT archives in the layout published, to be spoilt, and prepared through the real command line."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tests.scripts.refusals import assert_says

ROOT = Path(__file__).resolve().parents[2]
NOUNS = [("dog", "Hund"), ("man", "Mann"), ("tree", "Baum"), ("hat", "Hut")]
SETS = ("dev2010", "tst2011", "tst2012", "tst2013", "tst2014")
Talks = dict[int, list[tuple[str, str]]]


def pairs(first: int, count: int) -> list[tuple[str, str]]:
    """Sentences with what the steps change: entities, typographic quotes, dashes, abbreviations."""
    result = []
    for n in range(first, first + count):
        (a, b), (c, d) = NOUNS[n % 4], NOUNS[n // 4 % 4]
        result.append((f"The {a} & the {c} – “no. {n}” – don’t sleep.", f"Der {b} & der {d} – „Nr. {n}“ – schlafen nicht."))
    return result


TRAIN: Talks = {number: pairs(20 * number, 20) for number in (1, 2, 3)}


def held_out(name: str) -> Talks:
    """Two talks of a set; their numbers are in no other."""
    number = 1000 + 10 * SETS.index(name)
    return {number: pairs(number, 6), number + 1: pairs(number + 6, 5)}


def tags_file(talks: Talks, side: int) -> str:
    """train.tags.*: a talk's metadata, then its sentences; only the translation names its translators."""
    lines = []
    for number, sentences in talks.items():
        lines += [f"<url>http://www.ted.com/talks/talk_{number}</url>", "<keywords>talks, trees</keywords>"]
        lines += ["<speaker>A. Speaker</speaker>", f"<talkid>{number}</talkid>", "<title>A. Speaker: Trees</title>"]
        lines += ["<description>TED Talk Subtitles and Transcript: trees.</description>"]
        lines += [f" {escape(pair[side], quote=False)} " for pair in sentences]
        if side:
            lines += ['<reviewer href="http://x/1">R</reviewer>', '<translator href="http://x/2">T</translator>']
    return "\n".join(lines) + "\n"


def xml_file(name: str, talks: Talks, side: int) -> str:
    """IWSLT16.TED.<name>.*.xml."""
    kind, system = (("srcset", ""), ("refset", ' sysid="ref"'))[side]
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<mteval>", f'<{kind} setid="iwslt-{name}" srclang="english">']
    for number, sentences in talks.items():
        lines += [f'<doc docid="{number}" genre="lectures"{system}>', f"<talkid>{number}</talkid>", "<title>A &amp; B</title>"]
        lines += [f'<seg id="{n}"> {escape(pair[side], quote=False)} </seg>' for n, pair in enumerate(sentences, 1)]
        lines += ["</doc>"]
    return "\n".join([*lines, f"</{kind}>", "</mteval>"]) + "\n"


def iwslt_files(edition: str = "16", pair: str = "en-de", sets: tuple[str, ...] = SETS) -> dict[str, bytes]:
    """The files of one language pair as published, by name."""
    files = {"README": "Terms of use.\n"}
    languages = pair.split("-")
    for language in languages:
        side = ("en", "de").index(language)
        files[f"train.tags.{pair}.{language}"] = tags_file(TRAIN, side)
        for name in sets:
            files[f"IWSLT{edition}.TED.{name}.{pair}.{language}.xml"] = xml_file(name, held_out(name), side)
    return {name: text.encode() for name, text in files.items()}


def zipped(files: dict[str, bytes], folder: str) -> bytes:
    """A .zip of the files in a folder."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"{folder}/{name}", data)
    return packed.getvalue()


def tgz(files: dict[str, bytes], folder: str) -> bytes:
    """A .tgz of the files in a folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


@dataclass
class Iwslt:
    """The files of an archive, to be spoilt, and a way to pack and prepare them."""

    folder: Path
    files: dict[str, bytes]
    output: str = ""

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def replace(self, name: str, old: str, new: str) -> None:
        """Replaces the first of a text in a file, where it must be."""
        assert old.encode() in self.files[name]
        self.files[name] = self.files[name].replace(old.encode(), new.encode(), 1)

    def prepare(self, **variables: str) -> subprocess.CompletedProcess:
        """Prepares what ARCHIVE names, else these files packed as en-de.tgz."""
        if "ARCHIVE" not in variables:
            variables["ARCHIVE"] = str(self.folder / "en-de.tgz")
            Path(variables["ARCHIVE"]).write_bytes(tgz(self.files, "en-de"))
        settings = {"OUT": str(self.out), "BPE_OPERATIONS": "30", "WORKERS": "1", "MOMENTUM_ENV": sys.prefix, **variables}
        command = ["bash", str(ROOT / "scripts/prepare_iwslt16.sh")]
        return subprocess.run(command, env={**os.environ, **settings}, cwd="/", capture_output=True, text=True)

    def unpack(self, **variables: str) -> None:
        """Prepares as far as the raw text: the codes that are to come next are missing."""
        result = self.prepare(CODES="/nowhere", **variables)
        assert "CODES=/nowhere" in result.stderr

    def raw(self, split: str) -> list[tuple[str, str]]:
        sides = ((self.out / f"raw/{split}.{language}").read_text(encoding="utf-8").split("\n")[:-1] for language in ("en", "de"))
        return list(zip(*sides, strict=True))


def checksums(folder: Path) -> dict[str, str]:
    """Of every file in a folder but the locks and what names the archive, whose packing has the time of day."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock" and path.name != ".lock")
    sums = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    sums.pop("raw/settings.txt", None)
    return sums


def assert_refused(iwslt: Iwslt, *words: str, **variables: str) -> None:
    """The preparation fails, says these words, and leaves nothing of any stage."""
    assert_says(iwslt.prepare(**variables), *words)
    assert {path.name for path in iwslt.out.glob("*")} <= {".raw.lock"}
