"""Preparing an IWSLT archive: what is made of it, what is said about it, and what a second run does."""

import hashlib
import json
import shutil

import pytest

from tests.scripts.iwslt_archives import TRAIN, Iwslt, checksums, held_out, iwslt_files, tags_file


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
        "train: 59 lines in, 59 out, dropped because too many sub-words 0, unknown sub-words",
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
    assert hashlib.sha256(sums.encode()).hexdigest() == "cf2158dd90b03036bc3736589a1cdbc674120d57896015fe2af4e12f1351ece9", sums


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


def test_another_archive_on_a_finished_folder_is_refused_and_changes_nothing(prepared, tmp_path):
    other = Iwslt(tmp_path, iwslt_files())
    before = checksums(prepared.out)
    result = other.prepare(OUT=str(prepared.out))
    assert result.returncode != 0
    assert "> sha256 ARCHIVE=" in result.stderr
    result = other.prepare(OUT=str(prepared.out), ARCHIVE=str(prepared.folder / "en-de.tgz"), TEST="tst2012")
    assert "< TEST=tst2014\n> TEST=tst2012" in result.stderr
    assert checksums(prepared.out) == before
