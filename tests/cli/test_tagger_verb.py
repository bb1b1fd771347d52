"""A run whose recipe names a tagger, as a user starts it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import torch
from tiny_project import Program, write_tiny_recipe
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertConfig

from tunesmith.models.tiny import tiny_encoder


def test_names_are_masked_in_the_rows_of_a_run(call: Program, base: Path, tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path / "encoder", spread=0.4)
    config = BertConfig.from_pretrained(encoder, id2label={0: "O", 1: "B-PER", 2: "I-PER"})
    torch.manual_seed(3)
    model = AutoModelForTokenClassification.from_config(config)
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    model.save_pretrained(tmp_path / "ner")
    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path / "ner")
    recipe = write_tiny_recipe(tmp_path, base)
    recipe.write_text(
        recipe.read_text("utf-8").replace("data:\n", "data:\n  clean: {pii: {tagger: ner, types: [name]}}\n")
    )
    made = call("data", recipe, "--runs", tmp_path / "runs", "--json")
    assert made.code == 0, made.out + made.err
    rows = pl.read_parquet(Path(str(made.json["run"])) / "data" / "train.parquet")
    said = rows["messages"].list.eval(pl.element().struct.field("content")).list.join("\n")
    assert said.str.contains("<NAME_").any()
    recipe.write_text(recipe.read_text("utf-8").replace("tagger: ner", f"tagger: {encoder.name}"))
    assert call("data", recipe, "--runs", tmp_path / "runs", "--json").error == "evaluate.no_tagger"
