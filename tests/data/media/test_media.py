"""Pictures and sounds as rows: what is read, what is refused by name, what the data room makes of them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import struct
import wave
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageOps

from tunesmith.compat.check import check
from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import SPLITS, Example
from tunesmith.data.card import card_sections
from tunesmith.data.card_pages import as_markdown
from tunesmith.data.defects import RowDefect
from tunesmith.data.diff import compare
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.data.keys import prompt_key
from tunesmith.data.media.content import MediaPlaces
from tunesmith.data.media.images import look_at_image
from tunesmith.data.media.page import media_page
from tunesmith.data.media.places import inside
from tunesmith.data.media.sounds import look_at_sound, samples_of
from tunesmith.data.prepare import load_splits, prepare, write
from tunesmith.data.rejected import rejected_rows
from tunesmith.data.sides import side_of_file
from tunesmith.data.table import SCHEMA, from_examples, to_examples
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.specs.data import DataSpec
from tunesmith.recipe.specs.sources import SourceSpec


def picture(path: Path, width: int = 8, height: int = 6, seed: int = 0, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def sound(path: Path, samples: object = (0, 1000, -1000, 32767), rate: int = 8000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return path


def read(folder: Path, kind: str, path: str = ".", **source: object) -> tuple[list[Example], Ledger]:
    ledger = Ledger()
    spec = SourceSpec.model_validate({"path": path, **source})
    frame, _ = read_source(spec, "train", folder, Reading(kind, None, 1), ledger)  # type: ignore[arg-type]
    assert frame.schema == SCHEMA
    assert from_examples(to_examples(frame)).equals(frame)
    return to_examples(frame), ledger


def spec(kind: str, path: str = "rows", **more: object) -> DataSpec:
    return DataSpec.model_validate({"task": kind, "sources": [{"path": path}], **more})


# ------------------------------------------------------------------------------------------------ one file


def test_a_picture_is_measured_as_people_see_it(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        path = picture(tmp_path / f"{orientation}.jpg", 8, 6, orientation=orientation)
        media = look_at_image(path, path.name)
        with Image.open(path) as opened:
            shown = ImageOps.exif_transpose(opened).size
        assert (media.width, media.height, media.orientation) == (*shown, orientation)
        assert shown == ((8, 6) if orientation < 5 else (6, 8))
        assert media.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and media.bytes == path.stat().st_size


def png_that_says(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [(8193, 8193, "media_too_large"), (2**31 - 1, 2**31 - 1, "media_too_large"), (100, 100, "media_broken")],
)
def test_pictures_that_name_more_than_they_hold_are_refused(
    tmp_path: Path, width: int, height: int, reason: str
) -> None:
    (tmp_path / "a.png").write_bytes(png_that_says(width, height))
    with pytest.raises(RowDefect) as caught:
        look_at_image(tmp_path / "a.png", "a.png")
    assert caught.value.reason == reason


@pytest.mark.parametrize("form", ["jpg", "png", "bmp", "webp", "tiff", "gif"])
def test_every_form_is_decoded_and_a_cut_file_is_noticed(tmp_path: Path, form: str) -> None:
    path = picture(tmp_path / f"a.{form}", 64, 48)
    assert look_at_image(path, "a").width == 64
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RowDefect):
        look_at_image(path, "a")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    for name, content in (("a.jpg", b""), ("b.jpg", b"%!PS-Adobe\n"), ("c.png", b"<svg/>"), ("d.jpg", os.urandom(500))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RowDefect):
            look_at_image(tmp_path / name, name)


def test_a_sound_is_measured_and_a_cut_one_is_noticed(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav", [0] * 4000, rate=16_000, channels=2)
    media = look_at_sound(path, "a.wav")
    assert (media.seconds, media.sample_rate, media.channels, media.form) == (0.125, 16_000, 2, "wav")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(RowDefect):
        look_at_sound(path, "a.wav")
    for content in (b"", b"RIFF", b"RIFF\x24\x00\x00\x00WAVEfmt ", os.urandom(300)):
        path.write_bytes(content)
        with pytest.raises(RowDefect):
            look_at_sound(path, "a.wav")


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_plain_numbers_of_every_width_are_parts_of_the_loudest(tmp_path: Path, width: int) -> None:
    values = [-1.0, -0.5, 0.0, 0.25]
    stated = [round(each * 2 ** (8 * width - 1)) + (128 if width == 1 else 0) for each in values]
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(width)
        file.setframerate(100)
        file.writeframes(b"".join(each.to_bytes(width, "little", signed=width > 1) for each in stated))
    samples, rate = samples_of(tmp_path / "a.wav")
    assert rate == 100 and samples.dtype == np.float32
    np.testing.assert_array_equal(samples, np.array(values, np.float32).reshape(2, 2))


def test_other_forms_of_sound_come_through_soundfile(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="the extra tunesmith[media] brings it")
    numbers = np.random.default_rng(1).uniform(-0.5, 0.5, (3000, 2)).astype(np.float32)
    for name in ("a.flac", "b.ogg"):
        soundfile.write(tmp_path / name, numbers, 8000)
        media = look_at_sound(tmp_path / name, name)
        assert (media.seconds, media.sample_rate, media.channels) == (0.375, 8000, 2)
    np.testing.assert_allclose(samples_of(tmp_path / "a.flac")[0], numbers, atol=2**-15)
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:2000])
    with pytest.raises(RowDefect):
        look_at_sound(tmp_path / "a.flac", "a.flac")


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.png", "in/../../a.png", "a\\b.png", "C:/a.png", "", "a\0.png"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "folder" / "in").mkdir(parents=True)
    with pytest.raises(RowDefect) as caught:
        inside(tmp_path / "folder", name)
    assert caught.value.reason == "media_outside"


def test_no_link_is_followed_and_no_pipe_is_read(tmp_path: Path) -> None:
    picture(tmp_path / "outside" / "a.png")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "outside" / "a.png")
    (folder / "cats").symlink_to(tmp_path / "outside")
    os.mkfifo(folder / "pipe.png")
    reasons = []
    for name in ("link.png", "cats/a.png", "pipe.png", "absent.png"):
        with pytest.raises(RowDefect) as caught:
            inside(folder, name)
        reasons.append(caught.value.reason)
    assert reasons == ["media_link", "media_link", "media_missing", "media_missing"]


# ------------------------------------------------------------------------------------------------ folders


def test_a_class_a_folder(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for place in range(3):
            picture(tmp_path / label / f"{place}.png", seed=hash(label) % 100 + place)
    picture(tmp_path / "loose.png", seed=7)
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "dog" / "link.png").symlink_to(tmp_path / "loose.png")
    (tmp_path / "notes.txt").write_text("about cats")
    examples, ledger = read(tmp_path, "image_class")
    assert [(each.labels, each.media and each.media.path) for each in examples][:2] == [
        (("cat",), "cat/0.png"),
        (("cat",), "cat/1.png"),
    ]
    assert dict(ledger.totals()) == {
        "dropped: empty_label": 1,
        "dropped: media_broken": 1,
        "dropped: media_link": 1,
        "kept": 6,
    }


def test_folders_that_are_splits_are_not_taken_for_classes(tmp_path: Path) -> None:
    for name in ("train", "test"):
        picture(tmp_path / name / "cat" / "1.png")
    with pytest.raises(TunesmithError, match=r"data.media_split_folders"):
        read(tmp_path, "image_class")


def test_a_table_says_what_files_show_and_say(tmp_path: Path) -> None:
    for place in range(4):
        sound(tmp_path / "audio" / f"{place}.wav", [place] * 80)
    (tmp_path / "metadata.csv").write_text(
        "file_name,transcription,speaker\naudio/0.wav,hello,ann\naudio/1.wav,,bob\n../x.wav,out,bob\naudio/2.wav,你好,ann\n",
        "utf-8",
    )
    examples, ledger = read(tmp_path, "audio_text")
    assert [(each.text, each.media and each.media.seconds) for each in examples] == [("hello", 0.01), ("你好", 0.01)]
    assert dict(ledger.totals()) == {"dropped: empty_text": 1, "dropped: media_outside": 1, "kept": 2}
    side, prepared = side_of_file(tmp_path)
    assert [note.code for source in prepared.sources for note in source.notes].count("data.media_unlisted") == 1
    (tmp_path / "labels.csv").write_text("wav,digit\naudio/0.wav,0\naudio/3.wav,3\n", "utf-8")
    examples, _ = read(tmp_path, "audio_class", "labels.csv", columns={"file": "wav", "label": "digit"})
    assert [each.labels for each in examples] == [("0",), ("3",)]
    assert side.tables[""]["kind"].unique().to_list() == ["audio_text"]


# ------------------------------------------------------------------------------------------------ boxes


def coco(folder: Path, boxes: list[list[float]], **more: object) -> Path:
    picture(folder / "images" / "a.png", 100, 80)
    document: dict[str, object] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
        "categories": [{"id": 5, "name": "raccoon"}],
        "annotations": [{"id": n, "image_id": 1, "category_id": 5, "bbox": box} for n, box in enumerate(boxes)],
    }
    (folder / "annotations.json").write_text(json.dumps(document | more), "utf-8")
    return folder / "annotations.json"


def test_coco_boxes_are_read_and_cut_at_the_edge(tmp_path: Path) -> None:
    coco(tmp_path, [[10, 20, 30, 40], [-0.5, 0, 20, 80.5]])
    (example,), ledger = read(tmp_path, "detection", "annotations.json")
    assert [(b.label, b.x, b.y, b.width, b.height) for b in example.boxes] == [
        ("raccoon", 10, 20, 30, 40),
        ("raccoon", 0, 0, 19.5, 80),
    ]
    assert example.labels == ("raccoon", "raccoon") and example.media is not None
    assert example.media.path == "images/a.png" and dict(ledger.totals()) == {"kept": 1}


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([10, 20, 0, 5], "bad_box"),
        ([90, 20, 12, 5], "bad_box"),
        ([-2, 0, 5, 5], "bad_box"),
        ([float("nan"), 0, 5, 5], "bad_box"),
        ([1, 2, 3], "bad_box"),
        (["1", 2, 3, 4], "bad_box"),
    ],
)
def test_boxes_that_are_no_place_in_the_picture_are_named(tmp_path: Path, box: list[float], reason: str) -> None:
    path = coco(tmp_path, [box])
    found = side_of_file(path)[0].ledger.totals()
    assert dict(found) == {f"dropped: {reason}": 1}


def test_an_annotation_of_another_size_is_not_believed(tmp_path: Path) -> None:
    coco(tmp_path, [[1, 1, 5, 5]], images=[{"id": 1, "file_name": "a.png", "width": 80, "height": 100}])
    _, ledger = read(tmp_path, "detection", "annotations.json")
    assert dict(ledger.totals()) == {"dropped: size_differs": 1}


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"categories": []}, "annotations"),
        ({"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]}, "id"),
        ({"images": [{"id": "1", "file_name": "a.png"}]}, "images.id"),
        ({"annotations": [3]}, "annotations"),
    ],
)
def test_annotations_that_contradict_themselves_are_refused(tmp_path: Path, more: dict[str, object], what: str) -> None:
    coco(tmp_path, [[1, 1, 5, 5]], **more)
    with pytest.raises(TunesmithError, match=rf"data.coco_wrong .*{what}"):
        read(tmp_path, "detection", "annotations.json")


VOC = """<annotation><filename>{name}</filename><size><width>100</width><height>80</height><depth>3</depth></size>
<object><name>cell</name><difficult>1</difficult><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>40</xmax><ymax>60</ymax>
</bndbox><part><name>core</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>
<object><name>cell</name><bndbox><xmin>{left}</xmin><ymin>0</ymin><xmax>100</xmax><ymax>80</ymax></bndbox></object>
</annotation>"""


def test_voc_boxes_are_read(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", 100, 80)
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / "a.xml").write_text(VOC.format(name="a.png", left=1))
    (example,), _ = read(tmp_path, "detection")
    assert [(b.x, b.y, b.width, b.height, b.ignored) for b in example.boxes] == [
        (10, 20, 30, 40, True),
        (1, 0, 99, 80, False),
    ]


def test_hostile_annotations_are_refused_each_by_itself(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", 100, 80)
    bomb = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]>' + VOC.format(name="a.png", left=1)
    outside = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>' + VOC.format(name="&b;", left=1)
    for place, content in enumerate(
        (bomb, outside, VOC.format(name="../../etc/a.png", left=1), VOC.format(name="a.png", left="inf"), "<a>" * 5000)
    ):
        (tmp_path / f"{place}.xml").write_text(content)
    _, ledger = read(tmp_path, "detection", layout="voc")
    assert dict(ledger.totals()) == {"dropped: bad_box": 4, "dropped: media_outside": 1}


# ------------------------------------------------------------------------------------------------ the data room


def pictures(folder: Path, count: int) -> Path:
    for place in range(count):
        picture(folder / ("cat" if place % 2 else "dog") / f"{place}.png", 8 + place % 3, 6, seed=place)
    return folder


def test_rows_about_pictures_are_split_stored_and_told_of(tmp_path: Path) -> None:
    pictures(tmp_path / "rows", 40)
    (tmp_path / "rows" / "cat" / "copy.png").write_bytes((tmp_path / "rows" / "cat" / "1.png").read_bytes())
    (tmp_path / "rows" / "dog" / "copy.png").write_bytes((tmp_path / "rows" / "cat" / "3.png").read_bytes())
    ledger = Ledger()
    prepared = prepare(spec("image_class"), tmp_path, ledger)
    assert dict(ledger.totals()) == {"kept": 41, "merged: exact_duplicate_of_row": 1}
    frames = prepared.frames
    where = {row: split for split in SPLITS for row in frames[split]["row"]}
    twins = [row for frame in frames.values() for row in _rows_of_hash(frame, tmp_path / "rows" / "cat" / "3.png")]
    assert len(twins) == 2 and len({where[row] for row in twins}) == 1, "one picture never stands in two splits"
    write(prepared, tmp_path)
    assert load_splits(tmp_path)["train"].equals(frames["train"])
    card = as_markdown(card_sections(prepared))
    assert "Pictures and sounds" in card and "8–10 × 6" in card and "Chinese" not in card


def _rows_of_hash(frame: pl.DataFrame, path: Path) -> list[int]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rows: list[int] = frame.filter(pl.col("media").struct.field("sha256") == digest)["row"].to_list()
    return rows


def test_a_changed_picture_is_another_row_and_a_renamed_one_is_the_same(tmp_path: Path) -> None:
    before = side_of_file(pictures(tmp_path / "one", 6))[0]
    other = pictures(tmp_path / "two", 6)
    (other / "dog" / "0.png").rename(other / "dog" / "9.png")
    picture(other / "cat" / "1.png", 20, 20, seed=99)
    after = side_of_file(other)[0]
    found = compare(before, after)
    assert found.same == 5 and len(found.changes) == 2
    assert {each.kind for each in found.changes} <= {"added", "removed", "changed"}
    assert before.version.id != after.version.id


def test_words_alone_have_the_key_and_version_they_had() -> None:
    rows = from_examples([])
    assert rows.schema == SCHEMA and rows.select(prompt_key()).is_empty()


@pytest.mark.parametrize(
    "more",
    [
        {"clean": {"near_duplicates": 0.7}},
        {"clean": {"pii": "mask"}},
        {"labels": {}},
        {"augment": {"synonyms": {}}},
        {"benchmarks": [{"path": "x.jsonl"}]},
    ],
)
def test_settings_of_words_are_refused(tmp_path: Path, more: dict[str, object]) -> None:
    pictures(tmp_path / "rows", 6)
    with pytest.raises(TunesmithError, match=r"data.media_setting"):
        prepare(spec("image_class", **more), tmp_path, Ledger())


@pytest.mark.parametrize("task", ["image_class", "detection", "audio_class", "audio_text"])
def test_a_recipe_that_would_train_on_them_is_refused(task: str) -> None:
    text = f"model: {{base: smollm2-135m}}\ndata: {{task: {task}, sources: [{{path: a}}]}}\nstages: [{{name: s}}]\n"
    with pytest.raises(TunesmithError, match=r"compat.untrained_task"):
        check(parse_recipe(text))


def test_words_are_not_read_out_of_pictures(tmp_path: Path) -> None:
    pictures(tmp_path / "rows", 4)
    for layout, code in (("image_folder", "data.wrong_kind"), ("auto", "data.empty_folder")):
        chat = DataSpec.model_validate({"sources": [{"path": "rows", "layout": layout}]})
        with pytest.raises(TunesmithError, match=code):
            prepare(chat, tmp_path, Ledger())
    with pytest.raises(TunesmithError, match=r"data.wrong_kind"):
        read(tmp_path, "image_class", "rows", layout="voc")


def test_rows_of_words_beside_pictures_stay_rows_of_words(tmp_path: Path) -> None:
    pictures(tmp_path / "rows" / "images", 3)
    (tmp_path / "rows" / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', "utf-8")
    assert side_of_file(tmp_path / "rows")[0].tables[""]["kind"].to_list() == ["chat"]


def test_refused_rows_are_named_again(tmp_path: Path) -> None:
    pictures(tmp_path / "rows", 6)
    (tmp_path / "rows" / "cat" / "bad.png").write_bytes(b"no")
    ledger = Ledger()
    wished = spec("image_class")
    prepare(wished, tmp_path, ledger)
    (line,) = (json.loads(each) for each in rejected_rows(wished, tmp_path, ledger))
    assert line["original"] == "cat/bad.png" and line["reason"] == "media_broken"


def test_the_page_shows_turned_pictures_boxes_and_sounds(tmp_path: Path) -> None:
    coco(tmp_path, [[10, 20, 30, 40]], categories=[{"id": 5, "name": "<b>raccoon"}])
    picture(tmp_path / "images" / "a.png", 100, 80)
    (example,), _ = read(tmp_path, "detection", "annotations.json")
    places = MediaPlaces({example.origin.source: (tmp_path,), "sounds": (tmp_path / "sounds",)})
    page = media_page("rows", [example], places)
    assert '<rect x="10.00" y="20.00" width="30.00" height="40.00"' in page
    assert "&lt;b&gt;raccoon" in page and "<b>" not in page and "<script" not in page
    copy = base64.b64decode(page.split("base64,")[1].split('"')[0])
    (tmp_path / "copy.jpg").write_bytes(copy)
    assert look_at_image(tmp_path / "copy.jpg", "copy").width == 100
    picture(tmp_path / "images" / "a.png", 100, 80, seed=5)
    with pytest.raises(TunesmithError, match=r"data.source_changed"):
        media_page("rows", [example], places)
    sound(tmp_path / "sounds" / "yes" / "a.wav", [0, 16384, -32768, 0])
    (example,), _ = read(tmp_path, "audio_class", "sounds")
    page = media_page("rows", [example], places)
    assert re.findall(r'<rect [^>]*height="([\d.]+)"', page) == ["0.4", "50.0", "100.0", "0.4"]


@pytest.mark.parametrize(
    ("folder", "kind", "kept", "dropped"),
    [
        ("detect-raccoon", "detection", 75, 0),
        ("image-signdigits", "image_class", 600, 0),
        ("audio-fsdd", "audio_class", 1000, 0),
    ],
)
def test_real_folders_are_read_whole(shared_data: Path, folder: str, kind: str, kept: int, dropped: int) -> None:
    side, prepared = side_of_file(shared_data / folder)
    fates = side.ledger.totals()
    assert sum(rows for name, rows in fates.items() if name.startswith("dropped")) == dropped
    assert sum(fates.values()) == kept + dropped
    assert side.tables[""]["kind"].unique().to_list() == [kind]
    assert prepared.sources[0].files[0].rows == kept + dropped
