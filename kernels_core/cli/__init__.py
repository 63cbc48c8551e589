"""The command line, `kernels-core`. Only here is `click` imported.

main.py            the commands and their options, nothing else
output.py          how they show what they found: as text, as tables, as JSON
doctor.py          `doctor`: everything that can be known of the backends, as one value
examination.py     calls every hook of one backend
hardware.py        what torch sees on this machine, and what to install for it
diagnosis_text.py  a diagnosis as text for people
new_backend.py     `new-backend`: writes a plugin project from the files in `template`
lock.py            `lock`: the lock of a project, written or checked
download.py        `download`: the locked kernels of a project, ahead of use
bundle.py          `bundle` and `unbundle`: kernels for a machine that reaches no Hub
check.py           `check`: judges a kernel repository; its report as text in check_text.py, for
                   programs in check_formats.py
"""
