//! Sizes that come from a file or a flag, held to the memory there is before any of it is taken.

use crate::error::{Error, Result};
use serde::Serialize;
use std::fmt::Display;
use std::sync::OnceLock;

/// Memory in bytes, the container's limit counted.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// What the machine, or the container's limit, has.
    pub total: u64,
    /// What is free or can be freed.
    pub available: u64,
}

/// Memory of this machine, where the system tells.
pub fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |key: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok())
    };
    let (total, available) = (kib("MemTotal:")? * 1024, kib("MemAvailable:")? * 1024);
    // A container may be allowed less than the machine has.
    let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    // Version 2 of cgroups, else version 1.
    let group = |new: &str, old: &str| number(new).or_else(|| number(old));
    let limit = group("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes");
    match (
        limit,
        group("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ) {
        (Some(limit), used) if limit < total => Some(Memory {
            total: limit,
            available: available.min(limit.saturating_sub(used.unwrap_or(0))),
        }),
        _ => Some(Memory { total, available }),
    }
}

/// Bytes that this process can still take: what the system has free or can free, a container's
/// limit and the process's own counted, all read once. Where the system does not tell, as much as
/// an address space has.
///
/// # Example
/// ```
/// assert!(tweedie::room::bytes() > 0);
/// ```
pub fn bytes() -> u64 {
    static ROOM: OnceLock<u64> = OnceLock::new();
    *ROOM.get_or_init(|| {
        let free = memory().map_or(1 << 47, |m| m.available);
        address_space().map_or(free, |left| free.min(left))
    })
}

/// What `ulimit -v` leaves to this process.
fn address_space() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let limit: u64 = limits.lines().find_map(|l| {
        l.strip_prefix("Max address space")?.split_whitespace().next()?.parse().ok()
    })?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let taken = status
        .lines()
        .find_map(|l| l.strip_prefix("VmSize:")?.split_whitespace().next()?.parse::<u64>().ok())?;
    Some(limit.saturating_sub(taken * 1024))
}

/// Product of sizes, as an index.
///
/// # Errors
/// A product that no address space holds, by the name of what has these sizes.
///
/// # Example
/// ```
/// use tweedie::room::product;
/// assert_eq!(product("state", &[3, 32, 32]).unwrap(), 3072);
/// assert!(product("state", &[1 << 61, 8, 8]).is_err());
/// ```
pub fn product(what: impl Display, sizes: &[usize]) -> Result<usize> {
    // A product with a 0 is 0, whatever stands beside it.
    let whole = if sizes.contains(&0) {
        Some(0)
    } else {
        sizes.iter().try_fold(1usize, |n, &s| n.checked_mul(s))
    };
    whole.filter(|&n| n <= isize::MAX as usize / 8).ok_or_else(|| {
        let got = sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
        Error::domain(
            what,
            format!("{got} numbers"),
            "at most 2^60, what an address space holds",
            "correct the sizes",
        )
    })
}

/// Refuses what would take more memory than there is; `bytes` in f64, so that no sum of products
/// overflows.
///
/// # Errors
/// More than [`bytes`], with both numbers.
///
/// # Example
/// ```
/// let refused = tweedie::room::holds("noise", 1e30, "ask for fewer samples").unwrap_err().to_string();
/// assert!(refused.starts_with("memory for noise: got 1000000000000000.0 PB, allowed: at most "), "{refused}");
/// ```
pub fn holds(what: impl Display, bytes: f64, mend: impl Display) -> Result<()> {
    let room = self::bytes() as f64;
    if bytes <= room {
        return Ok(());
    }
    let allowed = format!("at most {}, what is available here", words(room));
    Err(Error::domain(format!("memory for {what}"), words(bytes), allowed, mend))
}

/// A number of bytes for people.
pub fn words(bytes: f64) -> String {
    let (unit, name) = [(1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")]
        .into_iter()
        .find(|u| bytes >= u.0)
        .unwrap_or((1e3, "kB"));
    format!("{:.1} {name}", bytes / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_refused_where_they_leave_the_address_space() {
        assert_eq!(product("x", &[]).unwrap(), 1);
        assert_eq!(product("x", &[0, usize::MAX, usize::MAX]).unwrap(), 0);
        for sizes in [&[usize::MAX][..], &[1 << 32, 1 << 32], &[3, usize::MAX / 2], &[1 << 60, 1]] {
            let got = product("shape", sizes).unwrap_err().to_string();
            assert!(
                got.starts_with("shape: got ")
                    && got.ends_with("an address space holds; correct the sizes"),
                "{got}"
            );
        }
    }

    #[test]
    fn there_is_room_for_a_little_and_not_for_more_than_the_machine() {
        holds("a page", 4096.0, "").unwrap();
        for bytes in [bytes() as f64 * 1.01, 1e30, f64::INFINITY, f64::NAN] {
            assert!(holds("all", bytes, "less").is_err(), "{bytes}");
        }
        assert_eq!(
            [512.0, 2.5e6, 3e9, 1.25e12].map(words),
            ["0.5 kB", "2.5 MB", "3.0 GB", "1.2 TB"]
        );
    }
}
