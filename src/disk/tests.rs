//! The leaf by itself, on a directory without quotas; with them tests/integration/disk_quota.rs has it.
