"""The recorded output of jaxconv: a fixed set of conversions, and the bytes that they wrote when they were recorded.

    python -m tests.golden              records the output of every case again
    python -m tests.golden 'preset/*'   records the cases that match again
    python -m tests.golden --sources    records the sources again

A change that is meant to keep all output is compared with the record by `test_golden.py`. Where it fixes a fault, the files
that change are named in ALLOWED there; the record itself stays. Only the public surface of jaxconv is used here, so that
its modules can move.
"""
