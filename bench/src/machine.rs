//! The machine: what it is, who else uses it, and company for it.

use crate::sys;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::process::{Child, Command, Stdio};

/// What the figures were measured on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    pub rustc: String,
    pub commit: String,
    /// Days since 1970-01-01 as a date, UTC.
    pub date: String,
    /// Whether the load generators had real-time priority.
    pub instrument_realtime: bool,
    pub quick: bool,
    pub rounds: usize,
    /// Largest share of the machine that other processes used while a sample was taken, company that the sample asked for
    /// not counted; absent where it is not known.
    pub foreign_share_max: Option<f64>,
}

fn first_line_of(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Civil date of a day number (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn date_of(days: i64) -> String {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

impl Machine {
    /// Looks at this machine; what cannot be found out is "unknown".
    pub fn look(quick: bool, rounds: usize) -> Self {
        let unknown = || "unknown".to_owned();
        let memory_kib = first_line_of("/proc/meminfo", "MemTotal")
            .and_then(|text| text.trim_end_matches(" kB").trim().parse::<u64>().ok());
        let seconds = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Machine {
            cpu: first_line_of("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cpus: sys::cpus(),
            memory_bytes: memory_kib.unwrap_or(0) * 1024,
            kernel: output_of("uname", &["-sr"]).unwrap_or_else(unknown),
            rustc: output_of("rustc", &["--version"]).unwrap_or_else(unknown),
            commit: output_of("git", &["describe", "--always", "--dirty"]).unwrap_or_else(unknown),
            date: date_of((seconds / 86_400) as i64),
            instrument_realtime: std::thread::spawn(sys::become_instrument)
                .join()
                .unwrap_or(false),
            quick,
            rounds,
            foreign_share_max: None,
        }
    }
}

/// Jiffies (10 ms) of all CPUs: (busy, stolen time included; everything).
fn jiffies() -> (f64, f64) {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse().ok())
        .collect();
    let everything: f64 = fields.iter().sum();
    let idle: f64 = fields.iter().skip(3).take(2).sum();
    (everything - idle, everything)
}

/// CPU time of another process, nanoseconds, from its scheduler statistics.
fn cpu_ns_of(pid: u32) -> u64 {
    std::fs::read_to_string(format!("/proc/{pid}/schedstat"))
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// A window over the use of the machine by others.
pub struct Window<'a> {
    company: &'a Company,
    started_ns: u64,
    busy: f64,
    everything: f64,
    own_ns: u64,
    company_ns: u64,
}

/// What a [`Window`] saw. CPU times are nanoseconds over all CPUs.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub wall_ns: f64,
    /// CPU time of the busy processes that the sample started as company.
    pub company_ns: f64,
    /// CPU time of everybody else and of the hypervisor; noisy by a few jiffies, and so also a little below zero.
    pub others_ns: f64,
    /// `others_ns` as a share of the machine, not below zero.
    pub others_share: f64,
}

impl<'a> Window<'a> {
    pub fn open(company: &'a Company) -> Self {
        let (busy, everything) = jiffies();
        Window {
            company,
            started_ns: sys::now_ns(),
            busy,
            everything,
            own_ns: sys::process_cpu_ns(),
            company_ns: company.cpu_ns(),
        }
    }

    pub fn close(self) -> Seen {
        let (busy, everything) = jiffies();
        let wall_ns = (sys::now_ns() - self.started_ns) as f64;
        let own_ns = (sys::process_cpu_ns() - self.own_ns) as f64;
        let company_ns = (self.company.cpu_ns() - self.company_ns) as f64;
        let others_ns = (busy - self.busy) * 1e7 - own_ns - company_ns;
        let machine_ns = ((everything - self.everything) * 1e7).max(1.0);
        Seen {
            wall_ns,
            company_ns,
            others_ns,
            others_share: (others_ns / machine_ns).max(0.0),
        }
    }
}

/// Waits until others use less than 5% of the machine over 200 ms, at most `limit_ns`. Returns how long it waited.
pub fn wait_for_quiet(limit_ns: u64) -> u64 {
    let alone = Company::none();
    let begun = sys::now_ns();
    loop {
        let window = Window::open(&alone);
        sys::sleep_until_ns(sys::now_ns() + 200_000_000.min(limit_ns));
        let waited = sys::now_ns() - begun;
        if window.close().others_share < 0.05 || waited >= limit_ns {
            return waited;
        }
    }
}

/// Busy foreign processes beside a sample; they end with it.
pub struct Company(Vec<Child>);

impl Company {
    pub fn none() -> Self {
        Company(Vec::new())
    }

    /// Starts `count` processes that spin at normal priority.
    pub fn start(count: usize) -> Result<Self> {
        let program = std::env::current_exe().context("the path of this program")?;
        let spawn = |_| {
            Command::new(&program)
                .arg("spin")
                .stdin(Stdio::null())
                .spawn()
        };
        Ok(Company(
            (0..count)
                .map(spawn)
                .collect::<Result<_, _>>()
                .context("starting a busy process")?,
        ))
    }

    fn cpu_ns(&self) -> u64 {
        self.0.iter().map(|child| cpu_ns_of(child.id())).sum()
    }

    /// Ends them; also done on drop.
    pub fn end(&mut self) {
        for child in &mut self.0 {
            // It may have been ended from outside; then there is only its status left to collect.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.0.clear();
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        self.end();
    }
}

/// The busy process itself: never returns.
pub fn spin() -> ! {
    sys::die_with_parent();
    loop {
        crate::work::churn(1 << 20);
    }
}

#[cfg(test)]
mod tests {
    use super::date_of;

    #[test]
    fn dates() {
        assert_eq!(date_of(0), "1970-01-01");
        assert_eq!(date_of(19_782), "2024-02-29");
        assert_eq!(date_of(20_778), "2026-11-21");
    }
}
