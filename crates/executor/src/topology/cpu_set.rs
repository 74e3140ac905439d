//! Sets of CPUs, and the list format in which the kernel prints them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The largest CPU number that a list may name. Linux is built for at most 8,192 CPUs; the bound keeps a garbage list such
/// as `0-4294967295` from costing memory.
const CPU_MAX: u32 = 65_535;

/// A set of CPU numbers, 0 to 65,535.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    /// Whether `cpu` is in the set.
    pub(crate) fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// How many CPUs are in the set.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set holds no CPU.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The CPUs in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }
}

/// Numbers above 65,535 are left out.
impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().filter(|&cpu| cpu <= CPU_MAX).collect())
    }
}

/// Text that is not a CPU list such as `0-3,8,10-11`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a list of CPUs such as 0-3,8")]
pub(crate) struct ParseCpuSetError(String);

/// Reads the kernel's list format: numbers and ascending ranges between commas; an empty text is the empty set.
impl FromStr for CpuSet {
    type Err = ParseCpuSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseCpuSetError(text.to_owned());
        let number = |digits: &str| -> Result<u32, ParseCpuSetError> {
            let value = digits.parse().map_err(|_| bad())?;
            if value <= CPU_MAX {
                Ok(value)
            } else {
                Err(bad())
            }
        };
        let mut cpus = BTreeSet::new();
        if text.trim().is_empty() {
            return Ok(Self(cpus));
        }
        for part in text.trim().split(',') {
            match part.split_once('-') {
                None => {
                    cpus.insert(number(part)?);
                }
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(bad());
                    }
                    cpus.extend(first..=last);
                }
            }
        }
        Ok(Self(cpus))
    }
}

/// Prints the kernel's list format, so that it reads back as the same set.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_back_as_printed() {
        for list in ["", "0", "0-3", "0-3,8,10-11", "1,3,5", "65535"] {
            assert_eq!(list.parse::<CpuSet>().unwrap().to_string(), list);
        }
        assert_eq!("3,1,2,2\n".parse::<CpuSet>().unwrap().to_string(), "1-3");
    }

    #[test]
    fn garbage_is_refused() {
        for list in ["a", "1,", "3-1", "-1", "1-", "0-4294967295", "70000", "0x3"] {
            assert!(list.parse::<CpuSet>().is_err(), "{list}");
        }
    }
}
