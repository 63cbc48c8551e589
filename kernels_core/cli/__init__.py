"""The command line, `kernels-core`. Only here is `click` imported.

main.py          the commands and their options, nothing else
doctor.py        `doctor`: puts everything that can be known of the backends into one value
examination.py   asks one backend every question that can be put to any of them
hardware.py      what torch sees on this machine, and what to install for it
rendering.py     that value as text for people and as JSON
values.py        any value in terms of what JSON knows
new_backend.py   `new-backend`: writes a plugin project from the files in `template`
lock.py          `lock`: the lock of a project, written or checked
download.py      `download`: the locked kernels of a project, ahead of use
bundle.py        `bundle` and `unbundle`: kernels for a machine that reaches no Hub
check.py         `check`: judges a kernel repository; its report as text in check_text.py, for
                 programs in check_formats.py
tables.py        text in columns
"""
