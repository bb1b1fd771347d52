"""Pictures and sounds in cells of Parquet and Arrow files: read as rows, broken ones told by name, bombs refused."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import wave
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.data.media.content import places_of
from tunesmith.data.media.page import media_page
from tunesmith.data.media.read import kind_of_place
from tunesmith.data.prepare import prepare
from tunesmith.data.sides import side_of_file
from tunesmith.data.table import to_examples
from tunesmith.recipe.specs.data import DataSpec
from tunesmith.recipe.specs.sources import SourceSpec

CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(seed: int, width: int = 8, height: int = 6, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form)
    return content.getvalue()


def wav(seed: int, count: int = 400) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(np.random.default_rng(seed).integers(-9000, 9000, count).astype("<i2").tobytes())
    return content.getvalue()


def png_that_says(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def table(
    cells: Sequence[object], labels: Sequence[object], media: str = "image", names: Sequence[str] = ()
) -> pa.Table:
    """As the datasets library writes it: cells of bytes and path, classes as numbers with their names beside."""
    numbers = all(isinstance(each, int) or each is None for each in labels)
    made = pa.table({media: pa.array(cells, CELL), "label": pa.array(labels, pa.int64() if numbers else pa.string())})
    features = {
        media: {"_type": "Audio" if media == "audio" else "Image"},
        "label": {"_type": "ClassLabel", "names": list(names)} if names else {"_type": "Value"},
    }
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def store(made: pa.Table, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(made, path, row_group_size=3)
        return path
    writer = pa.ipc.new_stream if path.suffix == ".arrow" else pa.ipc.new_file
    with writer(str(path), made.schema) as stream:
        stream.write_table(made, max_chunksize=3)
    return path


def read(folder: Path, kind: str, path: str = ".", **source: object) -> tuple[list[Example], Ledger]:
    ledger = Ledger()
    spec = SourceSpec.model_validate({"path": path, **source})
    frame, _ = read_source(spec, "train", folder, Reading(kind, None, 1), ledger)  # type: ignore[arg-type]
    return to_examples(frame), ledger


def reasons(ledger: Ledger) -> list[str]:
    return [entry.reason for entry in ledger.entries()]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_cells_are_pictures_with_named_classes_and_their_bytes_are_found_again(tmp_path: Path, suffix: str) -> None:
    contents = [png(seed, 8 + seed) for seed in range(8)]
    cells = [{"bytes": each, "path": None} for each in contents]
    path = store(table(cells, [0, 1] * 4, names=["cat", "dog"]), tmp_path / f"rows{suffix}")
    examples, ledger = read(tmp_path, "image_class", path.name)
    assert [each.labels for each in examples] == [("cat",), ("dog",)] * 4 and reasons(ledger) == [""] * 8
    places = places_of([SourceSpec(path=path.name)], tmp_path)
    for example, content in zip(examples, contents, strict=True):
        media = example.media
        assert media is not None and (media.width, media.height, media.form) == (len_of(content), 6, "png")
        assert media.sha256 == hashlib.sha256(content).hexdigest() and media.bytes == len(content)
        assert places.content(path.name, media) == content
    assert kind_of_place(path) == "image_class"


def len_of(content: bytes) -> int:
    with Image.open(io.BytesIO(content)) as picture:
        return picture.width


def test_broken_rows_are_told_each_by_its_reason(tmp_path: Path) -> None:
    good = png(1)
    (tmp_path / "loose.png").write_bytes(png(9))
    cells: list[object] = [
        {"bytes": good, "path": "a.png"},
        {"bytes": good[: len(good) // 2], "path": "b.png"},
        {"bytes": b"no picture", "path": None},
        {"bytes": png_that_says(2**15, 2**15), "path": None},
        None,
        {"bytes": None, "path": None},
        {"bytes": None, "path": "loose.png"},
        {"bytes": None, "path": "../loose.png"},
        {"bytes": None, "path": "/etc/passwd"},
        {"bytes": png(2), "path": None},
        {"bytes": png(3), "path": None},
        {"bytes": png(4), "path": None},
    ]
    labels = [0, 0, 0, 0, 0, 0, 0, 0, 0, 7, -1, None]
    store(table(cells, labels, names=["cat"]), tmp_path / "rows.parquet")
    examples, ledger = read(tmp_path, "image_class", "rows.parquet")
    broken = ["media_broken", "media_broken", "media_too_large", "media_missing", "media_missing"]
    assert reasons(ledger) == [
        "",
        *broken,
        "",
        "media_outside",
        "media_outside",
        "label_without_name",
        "empty_label",
        "empty_label",
    ]
    assert [each.media and each.media.path for each in examples] == ["cell:0:rows.parquet:image", "loose.png"]


def test_shards_of_a_folder_are_one_source_and_splits_are_not(tmp_path: Path) -> None:
    for shard in range(2):
        cells = [{"bytes": png(10 * shard + n), "path": None} for n in range(3)]
        store(
            table(cells, [0, 1, 0], names=["a", "b"]), tmp_path / "set" / "data" / f"train-0000{shard}-of-00002.parquet"
        )
    (tmp_path / "set" / "README.md").write_text("about it")
    (tmp_path / "set" / "dataset_info.json").write_text("{}")
    assert kind_of_place(tmp_path / "set") == "image_class"
    side, prepared = side_of_file(tmp_path / "set")
    assert len(side.tables[""]) == 6 and [len(each.files) for each in prepared.sources] == [2]
    store(table([{"bytes": png(77), "path": None}], [0]), tmp_path / "set" / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(TunesmithError, match=r"data.media_split_folders"):
        read(tmp_path, "image_class", "set")


def test_sounds_in_cells_and_bytes_without_a_structure(tmp_path: Path) -> None:
    pytest.importorskip("soundfile", reason="the extra tunesmith[media] brings it")
    cells = [{"bytes": wav(n, 400 + n), "path": f"{n}.wav"} for n in range(3)]
    made = table(cells, ["no", "yes", "no"], "audio").append_column("sentence", pa.array(["a", "b", ""]))
    store(made, tmp_path / "said.parquet")
    assert kind_of_place(tmp_path / "said.parquet") == "audio_text"
    examples, ledger = read(tmp_path, "audio_text", "said.parquet")
    assert [(each.text, each.media and each.media.seconds) for each in examples] == [("a", 0.05), ("b", 401 / 8000)]
    assert reasons(ledger) == ["", "", "empty_text"]
    pl.DataFrame({"clip": [wav(1), b"RIFFrubbish"], "class": ["x", "y"]}).write_parquet(tmp_path / "plain.parquet")
    assert kind_of_place(tmp_path / "plain.parquet") == "audio_class"
    examples, ledger = read(tmp_path, "audio_class", "plain.parquet")
    assert [each.labels for each in examples] == [("x",)] and reasons(ledger) == ["", "media_broken"]


def test_the_recipe_may_say_which_columns_are_meant(tmp_path: Path) -> None:
    made = pa.table({"left": pa.array([png(1)]), "right": pa.array([png(2, 9)]), "fine": ["cat"]})
    store(made, tmp_path / "rows.parquet")
    with pytest.raises(TunesmithError, match=r"data.media_columns .*left, right"):
        read(tmp_path, "image_class", "rows.parquet")
    examples, _ = read(tmp_path, "image_class", "rows.parquet", columns={"file": "right", "label": "fine"})
    assert [(each.labels, each.media and each.media.width) for each in examples] == [(("cat",), 9)]
    with pytest.raises(TunesmithError, match=r"data.missing_columns"):
        read(tmp_path, "image_class", "rows.parquet", columns={"file": "none"})


def test_a_table_that_repeats_one_picture_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.data.media.tables.FREE_BYTES", 50_000)
    monkeypatch.setattr("tunesmith.data.media.tables.MOST_RATIO", 2)
    content = png(1, 100, 100)
    store(table([{"bytes": content, "path": None}] * 60, [0] * 60, names=["a"]), tmp_path / "rows.parquet")
    assert (tmp_path / "rows.parquet").stat().st_size < 25 * len(content), "Parquet keeps a repeated cell once a group"
    with pytest.raises(TunesmithError, match=r"data.unpacks_too_far"):
        read(tmp_path, "image_class", "rows.parquet")


@pytest.mark.parametrize("cut", [0.3, 0.8])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_cut_table_is_refused_with_its_name(tmp_path: Path, suffix: str, cut: float) -> None:
    cells = [{"bytes": png(n, 40, 40), "path": None} for n in range(6)]
    path = store(table(cells, [0] * 6, names=["a"]), tmp_path / f"rows{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(TunesmithError, match=r"data.broken_file"):
        read(tmp_path, "image_class", path.name)


def test_rows_of_words_beside_a_picture_are_still_rows_of_words(tmp_path: Path) -> None:
    made = pa.table({"image": pa.array([{"bytes": png(1), "path": None}], CELL), "question": ["a"], "answer": ["b"]})
    store(made, tmp_path / "asked.parquet")
    assert kind_of_place(tmp_path / "asked.parquet") is None
    assert side_of_file(tmp_path / "asked.parquet")[0].tables[""]["kind"].to_list() == ["chat"]


def test_rows_of_cells_are_split_and_shown_and_a_changed_table_is_noticed(tmp_path: Path) -> None:
    cells = [{"bytes": png(n), "path": None} for n in range(20)]
    path = store(table(cells, [n % 2 for n in range(20)], names=["cat", "dog"]), tmp_path / "rows.parquet")
    spec = DataSpec.model_validate({"task": "image_class", "sources": [{"path": "rows.parquet"}]})
    prepared = prepare(spec, tmp_path, Ledger())
    shown = to_examples(prepared.frames["train"].head(2))
    page = media_page("a", shown, prepared.places)
    assert page.count("data:image/jpeg;base64,") == 2
    store(table(cells[::-1], [0] * 20, names=["cat", "dog"]), path)
    with pytest.raises(TunesmithError, match=r"data.source_changed"):
        media_page("a", shown, prepared.places)


# --------------------------------------------------------------------------------------------- boxes in tables

PLACES = [[1, 1, 3, 2], [4.0, 2.0, 4.0, 4.0]]
AS_LISTS = pa.struct([("bbox", pa.list_(pa.list_(pa.float64()))), ("category", pa.list_(pa.int64()))])
AS_STRUCTURES = pa.list_(pa.struct([("bbox", pa.list_(pa.float64())), ("category", pa.string())]))


def boxes_table(objects: Sequence[object], kind: pa.DataType, feature: object = None) -> pa.Table:
    cells = [{"bytes": png(seed), "path": None} for seed in range(len(objects))]
    made = pa.table({"image": pa.array(cells, CELL), "objects": pa.array(objects, kind)})
    features = {"image": {"_type": "Image"}, "objects": feature or {}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


NAMED = {"feature": {"bbox": {}, "category": {"_type": "ClassLabel", "names": ["cat", "dog"]}}, "_type": "Sequence"}


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_boxes_in_cells_are_boxes_with_named_classes(tmp_path: Path, suffix: str) -> None:
    objects = [{"bbox": PLACES, "category": [0, 1]}, {"bbox": [], "category": []}]
    path = store(boxes_table(objects, AS_LISTS, NAMED), tmp_path / f"rows{suffix}")
    (two, none), ledger = read(tmp_path, "detection", path.name)
    assert [(box.label, box.x, box.y, box.width, box.height) for box in two.boxes] == [
        ("cat", 1, 1, 3, 2),
        ("dog", 4, 2, 4, 4),
    ]
    assert two.labels == ("cat", "dog") and none.boxes == () and reasons(ledger) == ["", ""]
    assert kind_of_place(path) == "detection"
    structures = [[{"bbox": PLACES[0], "category": "cat"}], None]
    path = store(boxes_table(structures, AS_STRUCTURES), tmp_path / f"others{suffix}")
    (one, none), _ = read(tmp_path, "detection", path.name)
    assert [box.label for box in one.boxes] == ["cat"] and none.boxes == ()


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"objects": {"bbox": PLACES, "category": ["a", "b"]}}, ""),
        ({"objects": [{"bbox": PLACES[0], "category": "a", "iscrowd": 1}]}, ""),
        ({"boxes": PLACES, "labels": ["a", "b"]}, ""),
        ({"boxes": [], "labels": []}, ""),
        ({"objects": ""}, ""),
        ({"objects": {"bbox": PLACES, "category": ["a"]}}, "bad_box"),
        ({"objects": {"bbox": [[1, 1, 3]], "category": ["a"]}}, "bad_box"),
        ({"objects": {"bbox": [[1, 1, 3, "x"]], "category": ["a"]}}, "bad_box"),
        ({"objects": {"bbox": [[1, 1, 30, 2]], "category": ["a"]}}, "bad_box"),
        ({"objects": {"bbox": [[1, 1, 0, 2]], "category": ["a"]}}, "bad_box"),
        ({"objects": {"bbox": [[1, 1, float("nan"), 2]], "category": ["a"]}}, "bad_box"),
        ({"objects": {"bbox": PLACES}}, "bad_box"),
        ({"objects": "[1, 2"}, "bad_box"),
        ({"objects": 7}, "bad_box"),
        ({"boxes": PLACES, "labels": "a"}, "bad_box"),
        ({"boxes": PLACES}, "bad_box"),
        ({"objects": {"bbox": PLACES, "category": ["a", ""]}}, "empty_label"),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_boxes_in_tables_of_text_are_read_or_refused_by_name(
    tmp_path: Path, form: str, cells: dict[str, object], reason: str
) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    row = {"file_name": "0.png", **cells}
    if form == "jsonl":
        (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    else:
        said = {name: each if isinstance(each, str) else json.dumps(each) for name, each in row.items()}
        pl.DataFrame([said]).write_csv(tmp_path / "metadata.csv")
    examples, ledger = read(tmp_path, "detection")
    assert reasons(ledger) == [reason]
    if not reason:
        stated = str(cells)
        assert [box.label for box in examples[0].boxes] == [each for each in "ab" if f"'{each}'" in stated]
        assert [box.ignored for box in examples[0].boxes if "iscrowd" in stated] == [True] * ("iscrowd" in stated)


def test_boxes_of_tables_follow_the_changes_of_their_pictures(tmp_path: Path) -> None:
    objects = [{"bbox": [[1, 1, 3, 2]], "category": [n % 2]} for n in range(12)]
    store(boxes_table(objects, AS_LISTS, NAMED), tmp_path / "rows.parquet")
    augment = {"images": {"horizontal_flip": 1.0}}
    stated = {"task": "detection", "sources": [{"path": "rows.parquet"}], "augment": augment}
    prepared = prepare(DataSpec.model_validate(stated), tmp_path, Ledger())
    made = prepared.frames["train"].filter(pl.col("parent").is_not_null())
    assert len(made) == 8 and {(box["x"], box["y"]) for boxes in made["boxes"] for box in boxes} == {(8 - 1 - 3, 1)}


def test_a_table_without_a_column_of_boxes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"file_name": "0.png", "other": PLACES}), "utf-8")
    with pytest.raises(TunesmithError, match=r"data\.missing_columns"):
        read(tmp_path, "detection", "rows.jsonl")
    path = store(table([{"bytes": png(0), "path": None}], [0]), tmp_path / "rows.parquet")
    with pytest.raises(TunesmithError) as caught:
        read(tmp_path, "detection", path.name)
    assert caught.value.code == "data.missing_columns"
    path = store(boxes_table([{"bbox": PLACES, "category": [0, 7]}], AS_LISTS, NAMED), tmp_path / "others.parquet")
    _, ledger = read(tmp_path, "detection", path.name)
    assert reasons(ledger) == ["label_without_name"]


def test_the_recipe_may_say_which_columns_hold_boxes(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    row = {"file_name": "0.png", "found": PLACES, "kinds": ["a", "b"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    (example,), _ = read(tmp_path, "detection", "rows.jsonl", columns={"boxes": "found", "labels": "kinds"})
    assert example.labels == ("a", "b") and example.boxes[1].x == 4
