#!/bin/sh
# Print a Python that can make the environment: $PYTHON if set, else the first on the PATH.
for python in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
        >/dev/null 2>&1; then
        echo "$python"
        exit 0
    fi
done
echo "ulelib needs Python 3.11 or newer with its venv module (on Debian: python3-venv)." >&2
echo "Here python3 is: $(python3 --version 2>&1)." >&2
echo "Name another one with: PYTHON=/path/to/python make" >&2
exit 1
