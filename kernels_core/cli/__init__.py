"""The command line, `kernels-core`. Only here is `click` imported.

main.py            the commands and their options, nothing else
output.py          how they print results: as text, as tables, as JSON
doctor.py          `doctor`: the state of all backends, as one value
examination.py     calls every hook of one backend
hardware.py        what torch sees on this machine, and what to install for it
diagnosis_text.py  a diagnosis as text
new_backend.py     `new-backend`: generates a plugin project from the files in `template`
lock.py            `lock`: the lock of a project, written or checked
download.py        `download`: the locked kernels of a project, downloaded ahead of use
bundle.py          `bundle` and `unbundle`: kernels for a machine without access to the Hub
check.py           `check`: checks a kernel repository; check_text.py has its report as text,
                   check_formats.py other formats
"""
