"""A pytest plugin for every Python suite: garbage is collected between tests, never in the midst of one.

httpcore 1.0.9 closes a stream that was dropped unread from within the collector. Where the collector happens to run
while the same thread holds the connection pool's lock, that thread waits for itself for ever
(https://github.com/encode/httpcore/pull/1108). LiteLLM drops its streams so: one run of its suite in ten hung.
"""

import gc

import pytest

gc.disable()


def pytest_collection_finish():
    # What the imports made stays: looking at it again after every test takes a second where there is much.
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    gc.collect()
