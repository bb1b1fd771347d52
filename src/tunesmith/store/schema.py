"""The tables."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, Integer, MetaData, String, Table, Text, UniqueConstraint

SCHEMA_VERSION = 1

metadata = MetaData()

version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

releases = Table(
    "releases",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("time", Float, nullable=False, index=True),  # seconds since 1970, UTC
    Column("name", String(200), nullable=False, index=True),
    Column("folder", Text, nullable=False),
    Column("sha256", String(64), nullable=False),  # of the folder's manifest
    Column("facts", JSON, nullable=False),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("time", Float, nullable=False, index=True),
    Column("model", String(200), nullable=False, index=True),
    Column("kind", String(20), nullable=False),
    Column("messages", JSON, nullable=False),
    Column("answer", Text, nullable=False),
    Column("corrected", Text, nullable=False),
    Column("rejected", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("consent", Boolean, nullable=False),
    Column("user_hash", String(64), nullable=False),
    Column("idempotency_key", String(200), nullable=True),  # NULL repeats, so feedback without a key is always new
    Column("content_sha256", String(64), nullable=False),
    UniqueConstraint("idempotency_key", name="feedback_once"),
)
