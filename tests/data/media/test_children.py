"""Children of pictures and sounds: files of their own, boxes and labels that follow, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import wave
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import ValidationError
from scipy.signal import butter, sosfiltfilt

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import SPLITS, Media
from tunesmith.data.augment.by_mixing import cutmix_children, mixup_children
from tunesmith.data.card import card_sections
from tunesmith.data.card_pages import as_markdown, as_page
from tunesmith.data.media.change_sounds import silenced
from tunesmith.data.media.content import MADE, MediaPlaces, name_of_made
from tunesmith.data.media.images import as_png, pixels_of
from tunesmith.data.media.sounds import as_wave, samples_of
from tunesmith.data.media_run import places_in, prepared_run
from tunesmith.data.prepare import load_splits, prepare
from tunesmith.data.prepared import Prepared
from tunesmith.data.rejected import rejected_rows
from tunesmith.data.sides import side_of_run
from tunesmith.data.table import to_examples
from tunesmith.data.version import version_of
from tunesmith.recipe.specs.augment import AugmentSpec
from tunesmith.recipe.specs.augment_media import CutmixSpec, MixupSpec
from tunesmith.recipe.specs.data import DataSpec

MADE_PATH = pl.col("media").struct.field("path").str.starts_with(MADE)


def pictures(folder: Path, count: int = 12, width: int = 16, height: int = 12) -> Path:
    for place in range(count):
        path = folder / ("cat" if place % 2 else "dog") / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(place).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def boxed(folder: Path, count: int = 12) -> Path:
    """Black pictures, each with two white boxes in it and nothing else, as COCO."""
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for place in range(count):
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[0, 0] = place + 1  # no two alike
        for left, top, width, height in ((2 + place, 4, 10, 8), (40, 20 + place % 8, 12, 10)):
            pixels[top : top + height, left : left + width] = 255
            annotations.append(
                {"id": len(annotations), "image_id": place, "category_id": 1, "bbox": [left, top, width, height]}
            )
        Image.fromarray(pixels).save(folder / "images" / f"{place}.png")
        images.append({"id": place, "file_name": f"{place}.png", "width": 60, "height": 40})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "white"}]}
    (folder / "annotations.json").write_text(json.dumps(document), "utf-8")
    return folder


def tones(folder: Path, count: int = 12) -> Path:
    for place in range(count):
        times = np.arange(1600) / 8000
        sound = 0.3 * np.sin(2 * np.pi * (300 + 50 * place) * times)
        path = folder / ("low" if place < count // 2 else "high") / f"{place}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_wave(sound.astype(np.float32)[:, None], 8000))
    return folder


def prepared_of(folder: Path, kind: str, path: str, made_in: Path | None, **augment: object) -> Prepared:
    spec = DataSpec.model_validate({"task": kind, "sources": [{"path": path}], "augment": augment})
    return prepare(spec, folder, Ledger(), made_in=made_in)


def children(prepared: Prepared) -> pl.DataFrame:
    return prepared.frames["train"].filter(MADE_PATH)


def pixels(prepared: Prepared, row: dict[str, object]) -> NDArray[np.uint8]:
    media = row["media"]
    assert isinstance(media, dict)
    content = prepared.places.content(str(row["source"]), Media(**media))
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


# ------------------------------------------------------------------------------------------------ pictures


def test_a_child_is_a_file_with_its_parent_label_split_and_line_in_the_ledger(tmp_path: Path) -> None:
    pictures(tmp_path / "rows")
    prepared = prepared_of(tmp_path, "image_class", "rows", tmp_path / "made", images={"horizontal_flip": 1.0})
    train = prepared.frames["train"]
    read, made = train.filter(~MADE_PATH), children(prepared)
    assert made["parent"].to_list() == read["row"].to_list() and len(made) > 5
    by_row = {row["row"]: row for row in read.iter_rows(named=True)}
    for child in made.iter_rows(named=True):
        parent, media = by_row[child["parent"]], child["media"]
        assert (child["labels"], child["source"], child["index"]) == (parent["labels"], "rows", parent["index"])
        file = tmp_path / "made" / name_of_made(media["path"])
        assert hashlib.sha256(file.read_bytes()).hexdigest() == media["sha256"] == file.stem
        mirrored = ImageOps.mirror(Image.fromarray(pixels(prepared, parent)))
        np.testing.assert_array_equal(pixels(prepared, child), np.asarray(mirrored))
    entries = [each for each in prepared.ledger.entries() if each.parent is not None]
    assert {each.reason for each in entries} == {"made_by_images"}
    assert all(frame.filter(MADE_PATH).is_empty() for name, frame in prepared.frames.items() if name != "train")


def test_the_same_recipe_gives_the_same_bytes_whether_files_are_kept_or_not(tmp_path: Path) -> None:
    pictures(tmp_path / "rows")
    wanted = {"children": 2, "horizontal_flip": 0.5, "rotate": 20.0, "crop": 0.6, "brightness": 0.3}
    one = prepared_of(tmp_path, "image_class", "rows", tmp_path / "a", images=wanted)
    two = prepared_of(tmp_path, "image_class", "rows", tmp_path / "b", images=wanted)
    none = prepared_of(tmp_path, "image_class", "rows", None, images=wanted)
    assert one.version == two.version == none.version
    kept = [sorted(each.name for each in (tmp_path / name).rglob("*.png")) for name in ("a", "b")]
    assert kept[0] == kept[1] and len(kept[0]) == len(children(one))
    other = prepared_of(tmp_path, "image_class", "rows", None, images=wanted | {"crop": 0.5})
    assert other.version.content != one.version.content
    moved = prepared_of(tmp_path, "image_class", "rows", None, images=wanted, seed=7)
    assert moved.version.content != one.version.content


def test_boxes_follow_and_those_that_hardly_show_are_counted(tmp_path: Path) -> None:
    boxed(tmp_path / "rows")
    wanted = {"children": 6, "horizontal_flip": 0.5, "rotate90": 0.5, "crop": 0.3, "min_visibility": 0.5}
    prepared = prepared_of(tmp_path, "detection", "rows", tmp_path / "made", images=wanted)
    gone, entries = 0, prepared.ledger.entries()
    for child in children(prepared).iter_rows(named=True):
        found = pixels(prepared, child)
        assert (child["media"]["height"], child["media"]["width"]) == found.shape[:2]
        for box in child["boxes"]:
            x, y, right, bottom = (round(box["x"]), round(box["y"]), round(box["x"] + box["width"]), 0)
            bottom = round(box["y"] + box["height"])
            assert (found[y:bottom, x:right] == 255).all() and right > x and bottom > y
        assert child["labels"] == ["white"] * len(child["boxes"]) and child["boxes"]
        assert entries[child["row"]].changes.get("boxes_gone", 0) == 2 - len(child["boxes"])
        gone += 2 - len(child["boxes"])
    refused = [each for each in entries if each.reason == "made_without_boxes"]
    assert gone > 0 and all(each.changes == {"boxes_gone": 2} for each in refused)
    assert prepared.ledger.changed()["boxes_gone"][1] == gone + 2 * len(refused)


def test_what_cannot_be_changed_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "rows", 8)
    deep = np.random.default_rng(1).integers(0, 2**16, (6, 8), np.uint16)
    for place in range(8):
        Image.fromarray(deep + place).save(tmp_path / "rows" / "cat" / f"deep{place}.png")
    large = np.random.default_rng(2).integers(0, 256, (50, 40, 3), np.uint8)
    for place in range(8):
        Image.fromarray(np.roll(large, place, 0)).save(tmp_path / "rows" / "cat" / f"large{place}.png")
    monkeypatch.setattr("tunesmith.data.augment.media_rows.MOST_PIXELS", 1000)
    prepared = prepared_of(tmp_path, "image_class", "rows", None, images={"horizontal_flip": 1.0})
    totals = prepared.ledger.totals()
    assert totals["dropped: made_of_odd_pixels"] > 2 and totals["dropped: made_too_large"] > 2
    read = prepared.frames["train"].filter(pl.col("parent").is_null())
    assert sum(totals[each] for each in totals if "made" in each) == len(read)


def test_a_photo_is_turned_before_it_is_changed_and_png_is_without_loss(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (9, 14, 3), np.uint8)
    np.testing.assert_array_equal(pixels_of(as_png(noise)), noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG", exif=exif)
    upright = pixels_of(content.getvalue())
    assert upright is not None
    np.testing.assert_array_equal(upright, np.rot90(noise, -1))


# ------------------------------------------------------------------------------------------------ two in one


def test_mixed_rows_state_both_labels_by_their_shares(tmp_path: Path) -> None:
    pictures(tmp_path / "rows", 16)
    prepared = prepared_of(tmp_path, "image_class", "rows", tmp_path / "made", mixup={"children": 2, "alpha": 1.0})
    rows = {row["row"]: row for row in prepared.frames["train"].iter_rows(named=True)}
    entries, mixed = prepared.ledger.entries(), 0
    for child in children(prepared).iter_rows(named=True):
        other = entries[child["row"]].other
        assert other is not None and other in rows and other != child["parent"]
        one, two = (pixels(prepared, rows[each]).astype(float) for each in (child["parent"], other))
        labels = [rows[each]["labels"][0] for each in (child["parent"], other)]
        found = pixels(prepared, child)
        if labels[0] == labels[1]:
            assert child["labels"] == labels[:1] and child["label_weights"] == []
            slack = 0.6  # the share is only estimated here
            share = float(np.linalg.lstsq((one - two).reshape(-1, 1), (found - two).ravel(), rcond=None)[0][0])
        else:
            mixed += 1
            assert child["labels"] == labels and sum(child["label_weights"]) == pytest.approx(1)
            share, slack = child["label_weights"][0], 0.5
        assert np.abs(share * one + (1 - share) * two - found).max() <= slack + 1e-9
    assert mixed > 3
    example = next(each for each in to_examples(prepared.frames["train"]) if each.label_weights)
    assert len(example.label_weights) == len(example.labels) == 2


def test_a_pasted_part_gives_its_share_of_the_area(tmp_path: Path) -> None:
    pictures(tmp_path / "rows", 16)
    prepared = prepared_of(tmp_path, "image_class", "rows", tmp_path / "made", cutmix={"children": 2})
    rows = {row["row"]: row for row in prepared.frames["train"].iter_rows(named=True)}
    entries = prepared.ledger.entries()
    for child in children(prepared).iter_rows(named=True):
        one, two, found = (
            pixels(prepared, rows[each]) for each in (child["parent"], entries[child["row"]].other, child["row"])
        )
        own = (found == one).all(axis=-1)
        assert (found[~own] == two[~own]).all() and not own.all()
        if child["label_weights"]:
            assert child["label_weights"][0] == pytest.approx(own.mean(), abs=0.02)


def test_boxes_of_two_pictures_stand_in_one(tmp_path: Path) -> None:
    boxed(tmp_path / "rows")
    mixed = prepared_of(tmp_path, "detection", "rows", tmp_path / "a", mixup={"alpha": 1.0})
    for child in children(mixed).iter_rows(named=True):
        share = child["label_weights"][0]
        assert child["label_weights"] == pytest.approx([share, share, 1 - share, 1 - share])
        assert len(child["boxes"]) == len(child["labels"]) == 4
    pasted = prepared_of(tmp_path, "detection", "rows", tmp_path / "b", cutmix={"children": 4})
    for child in children(pasted).iter_rows(named=True):
        found = pixels(pasted, child)
        assert child["label_weights"] == [] and child["boxes"]
        for box in child["boxes"]:
            part = found[
                round(box["y"]) : round(box["y"] + box["height"]), round(box["x"]) : round(box["x"] + box["width"])
            ]
            assert (part == 255).mean() >= 0.3


def test_partners_stay_when_other_rows_come(tmp_path: Path) -> None:
    pictures(tmp_path / "rows", 30)
    frame = prepared_of(tmp_path, "image_class", "rows", None, mixup={}).frames["train"].filter(~MADE_PATH)
    places = MediaPlaces({"rows": (tmp_path / "rows",)})

    def partners(rows: pl.DataFrame) -> dict[int, int | None]:
        return {each.parent: each.other for each in mixup_children(rows, MixupSpec(), 1, places)}

    whole, fewer = partners(frame), partners(frame[:-1])
    same = sum(whole[parent] == fewer[parent] for parent in fewer)
    assert same >= len(fewer) - 6, "one row that goes leaves the others their partners, but for those that had it"
    assert list(cutmix_children(frame[:1], CutmixSpec(), 1, places)) == []


# ------------------------------------------------------------------------------------------------ sounds


def test_sounds_are_changed_and_stored_as_wave_files(tmp_path: Path) -> None:
    tones(tmp_path / "rows")
    wanted = {"speed": 0.2, "shift": 0.1, "min_snr_db": 10.0, "max_snr_db": 20.0}
    prepared = prepared_of(tmp_path, "audio_class", "rows", tmp_path / "made", sounds=wanted)
    made = children(prepared)
    assert len(made) > 5 and made["label_weights"].list.len().sum() == 0
    for child in made.iter_rows(named=True):
        media = child["media"]
        file = tmp_path / "made" / name_of_made(media["path"])
        with wave.open(str(file)) as sound:
            assert (sound.getframerate(), sound.getnchannels()) == (8000, 1) == (media["sample_rate"], 1)
            assert sound.getnframes() == round(media["seconds"] * 8000)
        assert 1600 / 1.2 - 1 <= media["seconds"] * 8000 <= 1600 / 0.8 + 1


def test_what_comes_out_as_it_was_is_no_row_that_was_made(tmp_path: Path) -> None:
    for place in range(12):
        path = tmp_path / "rows" / "ab"[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (place, 9, 9)).save(path)
    for images in (
        {"horizontal_flip": 1.0, "vertical_flip": 1.0, "rotate90": 1.0},
        {"brightness": 1e-6},
        {"rotate90": 1e-12},
    ):
        prepared = prepared_of(tmp_path, "image_class", "rows", None, images=images)
        assert children(prepared).is_empty() and len(prepared.ledger) == 12, images
    prepared = prepared_of(tmp_path, "image_class", "rows", None, mixup={"alpha": 0.0001, "children": 3})
    assert all(0.1 < share < 0.9 for shares in children(prepared)["label_weights"] for share in shares)
    tones(tmp_path / "tones")
    for sounds in ({"speed": 1e-9}, {"min_snr_db": 100.0, "max_snr_db": 100.0}):
        prepared = prepared_of(tmp_path, "audio_class", "tones", None, sounds=sounds)
        assert children(prepared).is_empty() and len(prepared.ledger) == 12, sounds


def test_a_sound_that_would_grow_too_long_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.data.augment.by_sounds.MOST_SAMPLES", 1700)
    tones(tmp_path / "tones")
    prepared = prepared_of(tmp_path, "audio_class", "tones", None, sounds={"speed": 0.75, "children": 4})
    totals = prepared.ledger.totals()
    assert totals["dropped: made_too_large"] > 3
    assert children(prepared)["media"].struct.field("seconds").max() <= 1700 / 8000  # type: ignore[operator]


def test_boxes_are_taken_away_by_what_all_changes_left_of_them(tmp_path: Path) -> None:
    boxed(tmp_path / "boxes")
    asked = {"rotate": 25.0, "crop": 0.3, "children": 20}
    strict = prepared_of(tmp_path, "detection", "boxes", None, images={**asked, "min_visibility": 0.99})
    for row in children(strict).iter_rows(named=True):
        for box in row["boxes"]:  # a turned box of 10 x 8 or 12 x 10 that is nearly whole is no smaller than it was
            assert box["width"] * box["height"] >= 0.99 * 80


def test_sixteen_bits_come_back_as_they_were() -> None:
    numbers = np.array([-32768, -1, 0, 1, 12345, 32767], np.int16).astype(np.float32)[:, None] / np.float32(2**15)
    samples, rate = samples_of(as_wave(numbers, 16_000))
    np.testing.assert_array_equal(samples, numbers)
    assert rate == 16_000
    np.testing.assert_array_equal(
        samples_of(as_wave(np.array([[2.0], [-2.0]], np.float32), 8000))[0][:, 0], [32767 / 2**15, -1]
    )


def test_a_silenced_band_is_what_a_filter_would_leave() -> None:
    """Against a Butterworth band-stop of scipy: the tone in the band goes, the tone outside stays as it was."""
    rate, times = 8000, np.arange(16_000) / 8000
    low, high = 0.3 * np.sin(2 * np.pi * 500 * times), 0.3 * np.sin(2 * np.pi * 3000 * times)
    sound = np.stack([low + high, high], axis=1).astype(np.float32)
    for seed in range(40):
        made = silenced(sound, rate, 0.3, 0.0, np.random.default_rng(seed))
        assert made.shape == sound.shape
        middle = slice(2000, -2000)
        left = float(np.sqrt(np.mean((made[middle, 1]) ** 2)))
        if left < 0.01:
            stop = butter(8, (2700, 3300), "bandstop", fs=rate, output="sos")
            filtered = sosfiltfilt(stop, sound[:, 0].astype(np.float64))
            assert np.abs(made[middle, 0] - filtered[middle]).max() < 0.02
            return
    raise AssertionError("no draw silenced the high tone")


def test_a_silenced_stretch_is_silent_and_the_rest_is_as_it_was() -> None:
    sound = np.random.default_rng(1).uniform(-0.5, 0.5, (8000, 1)).astype(np.float32)
    made = silenced(sound, 8000, 0.0, 0.3, np.random.default_rng(4))
    hidden = np.flatnonzero(made[:, 0] == 0)
    assert len(hidden) > 300 and (np.diff(hidden) == 1).all()
    fade = round(0.025 * 8000)
    outside = np.r_[0 : max(0, hidden[0] - fade), min(8000, hidden[-1] + fade) : 8000]
    np.testing.assert_allclose(made[outside], sound[outside], atol=1e-6)
    np.testing.assert_allclose(silenced(sound, 8000, 0.0, 0.0, np.random.default_rng(1)), sound, atol=1e-6)
    for count in (1, 2, 5, 100):
        assert silenced(sound[:count], 8000, 0.5, 0.5, np.random.default_rng(2)).shape == (count, 1)


# ------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("kind", "augment", "code"),
    [
        ("image_class", {"sounds": {"speed": 0.1}}, "augment.other_rows"),
        ("image_class", {"spec_augment": {}}, "augment.other_rows"),
        ("audio_class", {"mixup": {}}, "augment.other_rows"),
        ("audio_text", {"images": {"rotate": 5.0}}, "augment.other_rows"),
        ("text_class", {"cutmix": {}}, "augment.other_rows"),
        ("audio_text", {"sounds": {"shift": 0.1}}, "augment.shift_of_words"),
        ("detection", {"edit": {}}, "data.media_setting"),
    ],
)
def test_what_does_not_fit_the_rows_is_refused(tmp_path: Path, kind: str, augment: object, code: str) -> None:
    spec = DataSpec.model_validate({"task": kind, "sources": [{"path": "rows"}], "augment": augment})
    with pytest.raises(TunesmithError, match=code):
        prepare(spec, tmp_path, Ledger())


@pytest.mark.parametrize(
    "augment",
    [
        {"images": {}},
        {"images": {"crop": 1.0}},
        {"sounds": {}},
        {"sounds": {"min_snr_db": 3.0}},
        {"sounds": {"speed": 0.76}},
        {"sounds": {"speed": 0.999999999}},
        {"sounds": {"min_snr_db": 9.0, "max_snr_db": 3.0}},
        {"spec_augment": {"frequency_mask": 0.0, "time_mask": 0.0}},
        {"mixup": {}, "balance": {}},
    ],
)
def test_settings_that_change_nothing_are_refused(augment: object) -> None:
    with pytest.raises(ValidationError):
        AugmentSpec.model_validate(augment)


def test_classes_of_pictures_are_balanced_by_repetition(tmp_path: Path) -> None:
    pictures(tmp_path / "rows", 24)
    for place in range(0, 16, 2):
        (tmp_path / "rows" / "dog" / f"{place}.png").unlink()
    prepared = prepared_of(tmp_path, "image_class", "rows", None, balance={"up_to": "most"})
    counts = prepared.frames["train"]["labels"].list.join("").value_counts()["count"].to_list()
    assert len(set(counts)) == 1
    assert children(prepared).is_empty(), "a repeated row is about its parent's own file"


# ------------------------------------------------------------------------------------------------ a run


RECIPE = """
model: {base: smollm2-135m}
data:
  task: detection
  sources: [{path: rows}]
  augment:
    images: {children: 2, horizontal_flip: 0.5, crop: 0.5}
    mixup: {children: 1, alpha: 1.0}
stages: [{name: s}]
"""


def test_a_run_holds_what_was_made_and_a_broken_one_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxed(tmp_path / "rows")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run = prepared_run(tmp_path / "recipe.yaml", tmp_path / "runs")
    splits = load_splits(run.path)
    made = splits["train"].filter(MADE_PATH)
    files = sorted(each.stem for each in (run.path / "data" / "media").rglob("*.png"))
    assert files == sorted(made["media"].struct.field("sha256").unique()) and len(files) > 10
    run.check_files()
    side = side_of_run(run.path)
    assert side.version == version_of({name: splits[name] for name in SPLITS}, side.settings)
    assert prepared_run(tmp_path / "recipe.yaml", tmp_path / "runs").path == run.path
    places = places_in(run.path)
    for example in to_examples(splits["train"]):
        assert example.media is not None and places.content(example.origin.source, example.media)
    page = (run.path / "data_card.html").read_text("utf-8")
    assert "contact-sheet" in page and page.count("data:image/jpeg;base64,") >= 8 and "<script" not in page
    assert "MixUp" in (run.path / "data_card.md").read_text("utf-8")

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tunesmith.data.media_run.refuse_changed_sources", broken)
        with pytest.raises(KeyboardInterrupt):
            prepared_run(tmp_path / "recipe.yaml", tmp_path / "again")
    again = prepared_run(tmp_path / "recipe.yaml", tmp_path / "again")
    assert len(list((tmp_path / "again").rglob("recipe.lock.yaml"))) == 1

    def stored(path: Path) -> dict[str, str]:
        found = [each for each in path.rglob("*") if each.is_file() and each.name not in ("manifest.json", ".owner")]
        return {each.relative_to(path).as_posix(): hashlib.sha256(each.read_bytes()).hexdigest() for each in found}

    assert stored(again.path) == stored(run.path)
    damaged = next((run.path / "data" / "media").rglob("*.png"))
    damaged.write_bytes(damaged.read_bytes() + b"0")
    with pytest.raises(TunesmithError, match=r"core.hash_differs"):
        load_splits(run.path)


def test_the_card_tells_of_children_and_refused_rows_are_named(tmp_path: Path) -> None:
    boxed(tmp_path / "rows")
    spec = DataSpec.model_validate(
        {"task": "detection", "sources": [{"path": "rows"}], "augment": {"images": {"crop": 0.2, "children": 5}}}
    )
    ledger = Ledger()
    prepared = prepare(spec, tmp_path, ledger)
    sections = card_sections(prepared)
    told = as_markdown(sections)
    assert "boxes taken away" in told and "去掉的框" in told
    assert "contact-sheet" not in as_page(sections), "a look at a recipe keeps no files"
    media = children(prepared)["media"].to_list()[0]
    with pytest.raises(TunesmithError, match=r"data.not_kept"):
        prepared.places.content("rows", Media(**media))
    assert len(list(rejected_rows(spec, tmp_path, ledger))) == 0, "no file holds the rows that were made"
