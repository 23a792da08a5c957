"""Faulty IWSLT archives and settings: each is refused by name and place, and nothing is left of any stage."""


import pytest

from tests.scripts.commands import held
from tests.scripts.iwslt_archives import TRAIN, Iwslt, assert_refused, iwslt_files, pairs, tags_file, tgz, xml_file, zipped


@pytest.fixture
def iwslt(tmp_path) -> Iwslt:
    return Iwslt(tmp_path, iwslt_files())


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


def test_an_archive_of_which_no_training_pair_is_left_is_refused(iwslt):
    for language in ("en", "de"):
        side = ("en", "de").index(language)
        iwslt.files[f"train.tags.en-de.{language}"] = tags_file({1030: TRAIN[1]}, side).encode()  # a talk of tst2013
    assert_refused(iwslt, "en-de.tgz: no training pair is left", "VALID and TEST")


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


def test_a_second_run_is_refused_while_the_first_unpacks(iwslt):
    iwslt.out.mkdir()
    with held(iwslt.out / ".raw.lock"):
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
