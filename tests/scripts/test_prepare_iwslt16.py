"""Preparing IWSLT archives, through the real command line, on small files in the layout published and on faulty ones."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pytest

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
    result = iwslt.prepare(**variables)
    assert result.returncode != 0, result.stdout
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in iwslt.out.glob("*")} <= {".raw.lock"}


@pytest.fixture
def iwslt(tmp_path) -> Iwslt:
    return Iwslt(tmp_path, iwslt_files())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Iwslt:
    """An archive with, in its training text, a held-out talk, an empty line and entities; prepared."""
    iwslt = Iwslt(tmp_path_factory.mktemp("prepared"), iwslt_files())
    leaked = {1030: held_out("tst2013")[1030]}
    for side, language in enumerate(("en", "de")):
        iwslt.files[f"train.tags.en-de.{language}"] += tags_file(leaked, side).encode()
    iwslt.replace("train.tags.en-de.de", "Der Hund &amp; der Mann – „Nr. 20“ – schlafen nicht.", "")
    iwslt.replace("train.tags.en-de.en", "The man &amp; the man", "AT&T &lt;3 &quot;it&#39;s&quot; &copy&#10;2")
    result = iwslt.prepare()
    assert result.returncode == 0, result.stderr
    iwslt.output = result.stdout
    return iwslt


def test_tags_are_stripped_entities_unescaped_and_lines_stay_aligned(prepared):
    expected = [pair for talk in TRAIN.values() for pair in talk]
    expected[0] = (expected[0][0], "")
    expected[1] = (expected[1][0].replace("The man & the man", 'AT&T <3 "it\'s" &copy 2'), expected[1][1])
    assert prepared.raw("train") == expected
    assert prepared.raw("valid") == [pair for talk in held_out("tst2013").values() for pair in talk]
    assert prepared.raw("test") == [pair for talk in held_out("tst2014").values() for pair in talk]


def test_every_stage_says_its_lines_in_and_out_and_why_some_were_dropped(prepared):
    for line in (
        "train: en, 90 lines in, 66 sentences, dropped because tags: "
        "description 4, keywords 4, speaker 4, talkid 4, title 4, url 4",
        "train: 4 talks, 60 pairs out, dropped because of a held-out talk 6",
        "valid: tst2013, 11 segments of 2 talks in and out",
        "train: 60 lines in, 59 out, dropped because empty 1, too long 0, ratio 0",
        "test: 11 lines in and out, unknown sub-words",
        "train: 59 lines in, 59 sentences out, none dropped",
    ):
        assert line in prepared.output


def test_the_line_counts_of_the_archive_are_recorded(prepared):
    report = json.loads((prepared.out / "raw/report.json").read_text(encoding="utf-8"))
    assert (report["edition"], report["pair"]) == ("16", "en-de")
    assert (report["train"]["talks"], report["train"]["lines_out"], report["train"]["dropped"]) == (4, 60, {"held_out": 6})
    assert [report["train"][language]["lines_in"] for language in ("en", "de")] == [90, 98]
    assert report["train"]["de"]["tags"]["translator"] == 4
    assert report["test"] == {"tst2014": {"lines_in": 11, "lines_out": 11, "talks": 2}}


def test_punctuation_is_normalised_in_the_text_and_not_in_the_references(prepared):
    english, german = ((prepared.out / f"tokenised/train.{language}").read_text().split("\n") for language in ("en", "de"))
    assert english[1] == "The tree &amp; the man - &quot; no . 22 &quot; - don &apos;t sleep ."
    assert german[1] == "Der Baum &amp; der Mann - &quot; Nr. 22 &quot; - schlafen nicht ."
    assert "– „Nr. 1030“ –" in (prepared.out / "ref.valid.de").read_text(encoding="utf-8")


def test_the_settings_say_what_the_text_is(prepared):
    settings = (prepared.out / "settings.txt").read_text(encoding="utf-8").split("\n")
    assert "CORPUS=IWSLT'16 en-de, validation on tst2013, test on tst2014" in settings
    assert "NORMALIZE=1" in settings


def test_the_same_archive_gives_the_same_bytes_as_ever(prepared):
    """The checksum changes where what is prepared changes: with the steps, or with the versions in requirements.txt."""
    sums = "".join(f"{name} {value}\n" for name, value in checksums(prepared.out).items())
    assert hashlib.sha256(sums.encode()).hexdigest() == "031342e43ab9f41dc3f5fb9c7b8b4d5493ac43bd922f5e25ea67ccbb9d576105", sums


def test_a_second_run_redoes_nothing(prepared):
    before = {path: path.stat().st_mtime_ns for path in prepared.out.rglob("*") if path.is_file() and path.name[0] != "."}
    result = prepared.prepare(ARCHIVE=str(prepared.folder / "en-de.tgz"), MOMENTUM_ENV="/nowhere")  # needs no Python
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("nothing to do") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_run_killed_after_unpacking_goes_on_from_there_and_gives_the_same_bytes(prepared, tmp_path):
    resumed = Iwslt(tmp_path, prepared.files)
    shutil.copytree(prepared.out / "raw", resumed.out / "raw")
    (resumed.out / "raw.part.1").mkdir()
    result = resumed.prepare(ARCHIVE=str(prepared.folder / "en-de.tgz"), WORKERS="2")
    assert result.returncode == 0, result.stderr
    assert "raw stands, nothing to do" in result.stdout
    assert checksums(resumed.out) == checksums(prepared.out)


def test_what_a_killed_run_left_half_unpacked_is_made_anew(iwslt):
    (iwslt.out / "raw.part.1").mkdir(parents=True)
    (iwslt.out / "raw.part.1/train.en").write_text("Half a l")
    iwslt.unpack()
    assert len(iwslt.raw("train")) == 60
    assert not list(iwslt.out.glob("*.part*"))


def year_archive(files: dict[str, bytes]) -> bytes:
    return tgz(
        {"de/en/de-en.tgz": tgz(iwslt_files(pair="de-en"), "de-en"), "en/de/en-de.tgz": tgz(files, "en-de")}, "2016-01/texts"
    )


@pytest.mark.parametrize(
    "pack",
    [
        year_archive,
        lambda files: zipped(files, "en-de"),
        lambda files: tgz({"en-de.zip": zipped(files, "en-de")}, "2017-01-trnted/texts/en/de"),
        lambda files: tgz({"DeEnItNlRo-DeEnItNlRo.tgz": tgz(files, "DeEnItNlRo-DeEnItNlRo")}, "2017-01-trnmted/texts"),
    ],
    ids=["year.tgz", "zip", "zip in tgz", "multilingual"],
)
def test_the_archive_of_a_year_or_a_zip_gives_the_same_text(iwslt, pack: Callable[[dict[str, bytes]], bytes]):
    archive = iwslt.folder / "archive"
    archive.write_bytes(pack(iwslt.files))
    iwslt.unpack(ARCHIVE=str(archive))
    assert len(iwslt.raw("train")) == 60
    assert len(iwslt.raw("valid")) == 11


@pytest.mark.parametrize("inside", ["unpacked", "packed"])
def test_a_folder_with_the_files_or_with_their_archive_will_do(iwslt, inside):
    folder = iwslt.folder / "2016-01/texts/en/de"
    folder.mkdir(parents=True)
    if inside == "packed":
        (folder / "en-de.tgz").write_bytes(tgz(iwslt.files, "en-de"))
    for name, data in iwslt.files.items():
        if inside == "unpacked":
            (folder / name).write_bytes(data)
    iwslt.unpack(ARCHIVE=str(iwslt.folder / "2016-01"))
    assert len(iwslt.raw("train")) == 60


def test_iwslt14_is_prepared_with_its_own_sets_from_the_opposite_direction(iwslt):
    iwslt.files = iwslt_files("14", "de-en", SETS[:3])
    iwslt.unpack(EDITION="14")
    assert iwslt.raw("train") == [pair for talk in TRAIN.values() for pair in talk]
    assert iwslt.raw("valid") == [pair for talk in held_out("tst2011").values() for pair in talk]
    assert iwslt.raw("test") == [pair for talk in held_out("tst2012").values() for pair in talk]


def test_iwslt17_is_prepared_with_the_sets_of_iwslt16(iwslt):
    iwslt.files = iwslt_files("17")
    iwslt.unpack(EDITION="17")
    assert iwslt.raw("test") == [pair for talk in held_out("tst2014").values() for pair in talk]


def test_several_sets_are_joined_in_order_and_tedx_sets_can_be_named(iwslt):
    for language in ("en", "de"):
        name = f"IWSLT16.TED.tst2012.en-de.{language}.xml"
        iwslt.files[name.replace("TED", "TEDX")] = iwslt.files.pop(name)
    iwslt.unpack(TEST="tst2011 TEDX.tst2012")
    expected = [pair for name in ("tst2011", "tst2012") for talk in held_out(name).values() for pair in talk]
    assert iwslt.raw("test") == expected


def test_segments_are_aligned_by_document_and_number_not_by_order(iwslt):
    name = "IWSLT16.TED.tst2013.en-de.de.xml"
    backwards = dict(reversed(held_out("tst2013").items()))
    iwslt.files[name] = xml_file("tst2013", backwards, 1).encode()
    iwslt.unpack()
    assert iwslt.raw("valid") == [pair for talk in held_out("tst2013").values() for pair in talk]


@pytest.mark.parametrize("packed", [tgz, zipped])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.9, -1])
def test_a_truncated_archive_is_refused(iwslt, packed, kept):
    data = packed(iwslt.files, "en-de")
    archive = iwslt.folder / "cut"
    archive.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    assert_refused(iwslt, f"{archive}: not a whole", "Fetch it again", ARCHIVE=str(archive))


def test_a_truncated_archive_inside_another_is_refused_by_its_name(iwslt):
    archive = iwslt.folder / "year.tgz"
    archive.write_bytes(tgz({"en-de.tgz": tgz(iwslt.files, "en-de")[:-100]}, "2016-01/texts/en/de"))
    assert_refused(iwslt, "year.tgz:2016-01/texts/en/de/en-de.tgz: not a whole", ARCHIVE=str(archive))


@pytest.mark.parametrize("packed", [tgz, zipped])
def test_an_archive_with_a_changed_byte_is_refused(iwslt, packed):
    data = bytearray(packed(iwslt.files, "en-de"))
    data[len(data) // 4] ^= 1
    archive = iwslt.folder / "changed"
    archive.write_bytes(data)
    assert_refused(iwslt, f"{archive}: not a whole", ARCHIVE=str(archive))


def test_a_web_page_in_place_of_the_archive_is_refused(iwslt):
    page = iwslt.folder / "en-de.tgz"
    page.write_text("<!DOCTYPE html><title>Quota exceeded</title>")
    assert_refused(iwslt, "not a whole", "<!DOCTYPE html", ARCHIVE=str(page))


def test_the_archive_of_another_pair_is_refused(iwslt):
    assert_refused(iwslt, "no train.tags.en-fr.en", TARGET_LANG="fr")


def test_the_archive_of_another_year_is_refused_with_the_setting_for_it(iwslt):
    assert_refused(iwslt, "this is IWSLT'16", "set EDITION=16", EDITION="17")


@pytest.mark.parametrize("name", ["train.tags.en-de.de", "IWSLT16.TED.tst2013.en-de.de.xml", "IWSLT16.TED.tst2014.en-de.en.xml"])
def test_a_missing_file_is_refused_by_name_with_the_sets_that_are_there(iwslt, name):
    del iwslt.files[name]
    assert_refused(iwslt, f"{name} is missing", "dev2010, tst2011, tst2012")


def test_two_different_files_of_one_name_are_refused(iwslt):
    for folder, number in (("a", 1), ("b", 2)):
        (iwslt.folder / "both" / folder).mkdir(parents=True)
        (iwslt.folder / "both" / folder / "train.tags.en-de.en").write_text(tags_file({number: pairs(0, 2)}, 0))
    assert_refused(iwslt, "a/train.tags.en-de.en and", "b/train.tags.en-de.en differ", ARCHIVE=str(iwslt.folder / "both"))


def test_a_tag_file_without_tags_is_refused(iwslt):
    name = "train.tags.en-de.en"
    iwslt.files[name] = b"".join(line for line in iwslt.files[name].splitlines(keepends=True) if not line.startswith(b"<"))
    assert_refused(iwslt, f"{name}:1", "text above the first tag")


def test_tag_files_with_unequal_line_counts_are_refused_by_talk(iwslt):
    iwslt.replace("train.tags.en-de.de", " Der Hund &amp; der Hut – „Nr. 44“ – schlafen nicht. \n", "")
    assert_refused(iwslt, "talk 2:", "train.tags.en-de.en:27 has 20 lines", "train.tags.en-de.de:29 has 19")


def test_a_tag_file_that_lacks_a_talk_is_refused_by_talk(iwslt):
    iwslt.files["train.tags.en-de.en"] = tags_file({1: TRAIN[1], 2: TRAIN[2]}, 0).encode()
    assert_refused(iwslt, "train.tags.en-de.en has 2 talks", "train.tags.en-de.de has 3", "talk 3 is in one alone")


def test_tag_files_of_other_talks_are_refused_by_talk(iwslt):
    iwslt.replace("train.tags.en-de.de", "<talkid>2<", "<talkid>7<")
    assert_refused(iwslt, "train.tags.en-de.en:27 is talk 2", "train.tags.en-de.de:29 talk 7")


XML = "IWSLT16.TED.tst2013.en-de.de.xml"


def test_an_xml_with_other_segments_than_the_other_side_is_refused_with_both_counts(iwslt):
    line = next(line for line in iwslt.files[XML].decode().split("\n") if line.startswith('<seg id="6"'))
    iwslt.replace(XML, line, "")
    assert_refused(iwslt, "en.xml has 11 segments", "de.xml has 10", "doc 1030 seg 6 is in the first alone")


def test_as_many_segments_of_other_numbers_are_refused(iwslt):
    iwslt.replace(XML, '<seg id="6">', '<seg id="7">')
    assert_refused(iwslt, "doc 1030 seg 6 is in the first alone")


def test_a_segment_that_is_there_twice_is_refused(iwslt):
    iwslt.replace(XML, '<seg id="6">', '<seg id="5">')
    assert_refused(iwslt, f"{XML}: doc 1030 seg 5 is there twice")


def test_a_segment_without_number_is_refused(iwslt):
    iwslt.replace(XML, '<seg id="6">', "<seg>")
    assert_refused(iwslt, f"{XML}: a <doc> without docid or a <seg> without id")


def test_an_xml_without_segments_is_refused(iwslt):
    iwslt.files[XML] = xml_file("tst2013", {}, 1).encode()
    assert_refused(iwslt, f"{XML}: no <seg>")


def test_malformed_xml_is_refused_by_line(iwslt):
    iwslt.replace(XML, '<seg id="2">', "<seg id=2>")
    assert_refused(iwslt, f"{XML}:8: not well-formed XML")


@pytest.mark.parametrize("name", [XML, "train.tags.en-de.en"])
def test_an_xml_or_tag_file_cut_short_is_refused(iwslt, name):
    iwslt.files[name] = iwslt.files[name][: len(iwslt.files[name]) * 2 // 3]
    assert_refused(iwslt, name, "a file was cut short or changed")


@pytest.mark.parametrize("name", [XML, "train.tags.en-de.en"])
def test_invalid_utf8_is_refused_by_file_and_line(iwslt, name):
    lines = iwslt.files[name].split(b"\n")
    lines[8] = "Männer".encode("latin-1")
    iwslt.files[name] = b"\n".join(lines)
    assert_refused(iwslt, f"{name}:9: invalid UTF-8", "0xe4")


@pytest.mark.parametrize("name", [XML, "train.tags.en-de.en"])
def test_an_empty_file_is_refused_by_name(iwslt, name):
    iwslt.files[name] = b""
    assert_refused(iwslt, f"{name}: the file is empty")


def test_another_archive_on_a_finished_folder_is_refused_and_changes_nothing(prepared, tmp_path):
    other = Iwslt(tmp_path, iwslt_files())
    before = checksums(prepared.out)
    result = other.prepare(OUT=str(prepared.out))
    assert result.returncode != 0
    assert "> sha256 ARCHIVE=" in result.stderr
    result = other.prepare(OUT=str(prepared.out), ARCHIVE=str(prepared.folder / "en-de.tgz"), TEST="tst2012")
    assert "< TEST=tst2014\n> TEST=tst2012" in result.stderr
    assert checksums(prepared.out) == before


def test_a_second_run_is_refused_while_the_first_unpacks(iwslt):
    iwslt.out.mkdir()
    with (iwslt.out / ".raw.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_refused(iwslt, "another run is unpacking")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EDITION", "15"),
        ("SOURCE_LANG", "../en"),
        ("VALID", "tst2013.*"),
        ("TEST", " "),
        ("ARCHIVE", "/nowhere"),
        ("ARCHIVE_MD5", "0123"),
        ("OUT", ""),
    ],
)
def test_a_bad_setting_is_refused_by_name(iwslt, name, value):
    assert_refused(iwslt, name.removesuffix("_MD5"), value, **{name: value})


def test_a_download_without_network_says_what_to_fetch_and_where_to_put_it(iwslt):
    words = ("download failed", "train.tags.en-de.en", "name it by ARCHIVE=file")
    assert_refused(iwslt, *words, ARCHIVE="", ARCHIVE_URL="http://127.0.0.1:9/nothing")


needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="reads file:// through curl")


@needs_curl
def test_a_downloaded_web_page_or_another_archive_is_refused_and_not_kept(iwslt):
    served = iwslt.folder / "served"
    served.write_text("<!DOCTYPE html>")
    assert_refused(iwslt, "a web page", ARCHIVE="", ARCHIVE_URL=served.as_uri())
    served.write_bytes(tgz(iwslt.files, "en-de"))
    assert_refused(iwslt, "not the archive expected", ARCHIVE="", ARCHIVE_URL=served.as_uri(), ARCHIVE_MD5="0123")


@needs_curl
def test_a_download_is_checked_kept_and_not_fetched_again(iwslt):
    served = iwslt.folder / "served"
    served.write_bytes(tgz(iwslt.files, "en-de"))
    source = {"ARCHIVE": "", "ARCHIVE_URL": served.as_uri(), "ARCHIVE_MD5": hashlib.md5(served.read_bytes()).hexdigest()}
    iwslt.unpack(**source)
    served.unlink()
    iwslt.unpack(**source)
    assert len(iwslt.raw("train")) == 60
