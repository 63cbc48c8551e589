"""What every wheel and source distribution says of its licence and its authors."""

from __future__ import annotations

import hashlib
import re
import tarfile
import zipfile
from email import message_from_bytes

import pytest

# The text at https://www.apache.org/licenses/LICENSE-2.0.txt, unchanged.
APACHE_2_0 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
LINK = re.compile(r"\]\((?!https://)")


def _files_of_wheel(wheel):
    with zipfile.ZipFile(wheel.path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def _files_of_sdist(wheel):
    with tarfile.open(wheel.sdist) as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        return {m.name.partition("/")[2]: archive.extractfile(m).read() for m in files}


def _in_wheel(wheel):
    files = _files_of_wheel(wheel)
    return files["licenses/LICENSE"], files["METADATA"]


def _in_sdist(wheel):
    files = _files_of_sdist(wheel)
    return files["LICENSE"], files["PKG-INFO"]


@pytest.mark.parametrize("read", [_in_wheel, _in_sdist])
def test_every_distribution_has_its_licence_and_metadata(read, core_wheel, backend_wheels):
    for wheel in (core_wheel, *backend_wheels.values()):
        licence, metadata = read(wheel)
        assert hashlib.sha256(licence).hexdigest() == APACHE_2_0
        said = message_from_bytes(metadata)
        assert said["License-Expression"] == "Apache-2.0"
        assert said.get_all("License-File") == ["LICENSE"]
        assert said["Author"] == "The kernels-core authors"
        assert "pytorch" in said["Keywords"].split(",")
        # An index refuses a License classifier beside a License-Expression.
        assert not [c for c in said.get_all("Classifier") if c.startswith("License ::")]


@pytest.mark.parametrize("read", [_in_wheel, _in_sdist])
def test_no_description_links_into_the_repository(read, core_wheel, backend_wheels):
    for wheel in (core_wheel, *backend_wheels.values()):
        _, metadata = read(wheel)
        said = message_from_bytes(metadata)
        description = said.get_payload(decode=True).decode()
        assert said["Description-Content-Type"] == "text/markdown"
        assert description.startswith(f"# {wheel.name}\n")
        assert not LINK.search(description)
        # Nothing but links is changed.
        readme = (wheel.source / "README.md").read_text(encoding="utf-8")
        assert re.sub(r"\[([^]]+)\]\((?!https://)[^)]+\)", r"\1", readme) == description
