"""Collect the tables of archspec, which it finds by a path relative to its source."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("archspec")
module_collection_mode = "pyz+py"
