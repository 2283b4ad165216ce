//! How much memory there is.

/// Bytes that could be taken now without swapping, within the container's limit; `None` where the
/// system does not say.
pub fn available_bytes() -> Option<usize> {
    let machine = from_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    Some(container_bytes().map_or(machine, |container| container.min(machine)))
}

/// `MemAvailable` of /proc/meminfo in bytes.
fn from_meminfo(text: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: usize = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// What is left of the cgroup's limit, if there is one.
fn container_bytes() -> Option<usize> {
    let read =
        |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<usize>().ok();
    Some(read("memory.max")?.saturating_sub(read("memory.current")?))
}
