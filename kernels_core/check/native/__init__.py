"""Readers of native code; what they find are the values of `facts.native`.

    reading         which files are native code, and which reader reads them
    source          reading untrusted files in pieces, with limits
    elf             the format of Linux
    macho           the format of macOS; macho_symbols reads its symbols
    pe              the format of Windows
    device_code     which accelerators a library has code for

elf, macho and pe need the extra `check`.
"""
