"""Rules about the backend part of variant names."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kernels_core.errors import PluginError
from kernels_core.plugins.backend import Backend
from kernels_core.plugins.discovery import discover
from kernels_core.plugins.registration import load_backend
from kernels_core.testing.base import Rules
from kernels_core.testing.rule import fail, rule, skip

# The examples are the same in every run, so that results are reproducible.
property_based = settings(
    max_examples=50,
    phases=[Phase.generate, Phase.shrink],
    derandomize=True,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
)

_FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")  # noqa: RUF001 # full-width digits on purpose


def _variations(tag: str) -> Iterator[str]:
    """Texts that a careless parser would accept as a tag."""
    letters = tag.rstrip("0123456789")
    digits = tag[len(letters) :]
    yield from (tag.upper(), tag.capitalize(), f" {tag}", f"{tag} ", f"{tag}\n", f"{tag}\0")
    yield from (letters, f"{letters}-{digits}", f"{letters}+{digits}", f"{letters}.{digits}")
    yield from (f"{letters}0{digits}", f"{letters}{digits}.0", f"{letters}1_{digits}", digits)
    yield from (tag + tag, tag + "x", "x" + tag, tag.translate(_FULL_WIDTH), f"{letters}²")
    yield from (letters + digits * 5000, letters + "9" * 5000, letters + "0" * 12)


class TagRules(Rules):
    """Which tags a plugin parses, and which it rejects."""

    def valid_tags(self) -> list[str]:
        """The tags on all recorded machines."""
        texts = (text for machine in self.machines() for text in machine.tags.all)
        return list(dict.fromkeys(texts))

    @rule
    def test_tags_valid(self) -> None:
        """A tag of the backend is parsed, and `str()` of the result is the same text.

        Fix: return a `BackendTag` with the backend's name, whose prefix and version make up the
        text; `BackendTag.parse` parses tags of a prefix, a major and a minor version.
        """
        for text in self.valid_tags():
            tag = self.subject.backend().parse_tag(text)
            if tag is None:
                fail(f"the recorded tag {text!r} is not parsed")
            if tag != self.subject.backend().parse_tag(text):
                fail(f"{text!r} was parsed as {tag!r} first, and differently later")
        if not self.valid_tags():
            skip("no tag is recorded")

    @rule
    def test_tags_hostile(self) -> None:
        """Any other text gives None, or a tag whose `str()` is the same text, and no exception.

        Fix: match the whole text, ASCII digits only (`re.fullmatch`, `[0-9]`), limit their
        number, and return None when `str(tag) != text`.
        """
        backend = self.subject.backend()
        valid = self.valid_tags()
        seeds = [*valid, backend.name, backend.info.noarch_name]
        for seed in seeds:
            for text in _variations(seed):
                if text not in valid:
                    _read(backend, text)

        alphabet = st.sampled_from(sorted({*"".join(seeds), *"0123456789 .-_\n٣"}))
        prefixes = st.sampled_from(sorted({seed.rstrip("0123456789") for seed in seeds}))
        similar = st.builds(str.__add__, prefixes, st.text(alphabet, max_size=12))

        @property_based
        @given(st.text() | similar)
        def read_anything(text: str) -> None:
            if text not in valid:
                _read(backend, text)

        read_anything()

    @rule
    def test_tags_unclaimed(self) -> None:
        """No tag of the backend is parsed by another installed plugin, nor the other way round.

        Fix: choose a prefix that no other backend uses. When two plugins claim one tag, neither
        can be used.
        """
        own = self.subject.backend()
        for found in discover().plugins:
            if found.entry_point.value == self.subject.module.__name__:
                continue
            try:
                other = load_backend(found)
                names = [other.name, other.info.noarch_name, own.name, own.info.noarch_name]
                for text in [*self.valid_tags(), *names]:
                    if other.parse_tag(text) and _claims(own, text):
                        fail(f"{text!r} is claimed by {other.distribution} as well")
            except PluginError:
                continue  # its own conformance test is about that


def _read(backend: Backend, text: str) -> None:
    try:
        backend.parse_tag(text)
    except PluginError as error:
        shown = repr(text if len(text) < 60 else f"{text[:30]}...{len(text)} characters")
        fail(f"parse_tag({shown}): {error}")


def _claims(backend: Backend, text: str) -> bool:
    try:
        return backend.parse_tag(text) is not None
    except PluginError:
        return False  # the rules tags-valid and tags-hostile are about that
