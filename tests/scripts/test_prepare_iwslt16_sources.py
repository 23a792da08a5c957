"""What an IWSLT archive may come as: packed in several ways, another edition, a download."""

import hashlib
import shutil
from collections.abc import Callable

import pytest

from tests.scripts.iwslt_archives import SETS, TRAIN, Iwslt, assert_refused, held_out, iwslt_files, tgz, xml_file, zipped


@pytest.fixture
def iwslt(tmp_path) -> Iwslt:
    return Iwslt(tmp_path, iwslt_files())


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


def test_tags_in_capitals_are_tags(iwslt):
    name = "train.tags.en-de.en"
    iwslt.files[name] = iwslt.files[name].replace(b"<speaker>", b"<Speaker>").replace(b"<url>", b"<URL>")
    iwslt.unpack()
    assert len(iwslt.raw("train")) == 60


def test_segments_are_aligned_by_document_and_number_not_by_order(iwslt):
    name = "IWSLT16.TED.tst2013.en-de.de.xml"
    backwards = dict(reversed(held_out("tst2013").items()))
    iwslt.files[name] = xml_file("tst2013", backwards, 1).encode()
    iwslt.unpack()
    assert iwslt.raw("valid") == [pair for talk in held_out("tst2013").values() for pair in talk]


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
