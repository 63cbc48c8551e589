"""The command line as `python -m kernels_core`."""

from kernels_core.cli.main import main

if __name__ == "__main__":
    main(prog_name="python -m kernels_core")
