//! Home of the workspace's tests; the tests themselves are in `it/`.
