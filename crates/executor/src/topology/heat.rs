//! Temperatures and frequency limits of the CPUs, as the kernel reports them.
//!
//! Three sources, none of which is present everywhere: thermal zones (`sys/class/thermal`), core sensors of the `coretemp`
//! driver (`sys/class/hwmon`), which alone tell one core from another on x86, and frequency limits (`cpufreq`), which a
//! firmware or a thermal daemon lowers when a core is too hot. In virtual machines there is usually none: then the reading
//! is [`Unavailable`] with the reason.
//!
//! Which CPUs a zone speaks for is not in sysfs. It is taken from the zone's type: `x86_pkg_temp` is a package (the zones
//! of that type stand in the order of the packages), `cpu3-thermal` and the like one CPU, other types with `cpu` in them
//! all CPUs; everything else (battery, wireless) none.
//!
//! Follows the kernel's `Documentation/driver-api/thermal/sysfs-api.rst`, `Documentation/hwmon/coretemp.rst` and
//! `Documentation/admin-guide/pm/cpufreq.rst`.

use std::path::Path;

use super::{Cpu, Topology, numbered, packages, read_number, read_text};
use crate::os::Unavailable;

/// Temperatures outside this range are sensor faults (a disconnected diode reads -273 °C or 2³¹), in thousandths of °C.
const PLAUSIBLE_MILLICELSIUS: std::ops::RangeInclusive<i64> = -50_000..=200_000;

/// Trip points looked at per zone; the kernel's limit is 12 in most versions.
const TRIPS_MAX: u32 = 16;

/// A temperature and the temperature at which the kernel or the hardware acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Temperature {
    /// Thousandths of a degree Celsius, -50,000 to 200,000.
    pub(crate) millicelsius: i64,
    /// The lowest trip point at which performance is reduced (`passive`, else `hot`, else `critical`), in the same unit.
    pub(crate) limit_millicelsius: Option<i64>,
}

/// What is known of one CPU. A figure that is not known is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuHeat {
    /// The kernel's number of the CPU.
    pub(crate) cpu: u32,
    /// The reading that is nearest its limit among those that speak for this CPU.
    pub(crate) temperature: Option<Temperature>,
    /// The frequency at which it runs, kHz.
    pub(crate) current_khz: Option<u64>,
    /// The highest frequency that it may use now, kHz.
    pub(crate) allowed_khz: Option<u64>,
    /// The highest frequency of the hardware, kHz.
    pub(crate) hardware_khz: Option<u64>,
}

/// Reads the heat of every CPU of `topology` below `root` (`/` in earnest), in the topology's order.
///
/// # Errors
/// [`Unavailable`] when neither a temperature nor a frequency limit is known for any of them.
pub(crate) fn read(root: &Path, topology: &Topology) -> Result<Vec<CpuHeat>, Unavailable> {
    let sensors: Vec<Sensor> = zones(root, topology)
        .into_iter()
        .chain(core_sensors(root, topology))
        .collect();
    let readings: Vec<CpuHeat> = topology
        .cpus()
        .iter()
        .map(|cpu| {
            let policy = root.join(format!("sys/devices/system/cpu/cpu{}/cpufreq", cpu.id));
            let khz = |file: &str| read_number(&policy.join(file)).filter(|&khz: &u64| khz > 0);
            CpuHeat {
                cpu: cpu.id,
                temperature: sensors
                    .iter()
                    .filter(|sensor| sensor.speaks_for.covers(cpu))
                    .map(|sensor| sensor.temperature)
                    .max_by_key(nearness),
                current_khz: khz("cpuinfo_cur_freq").or_else(|| khz("scaling_cur_freq")),
                allowed_khz: khz("scaling_max_freq"),
                hardware_khz: khz("cpuinfo_max_freq"),
            }
        })
        .collect();
    let known = |heat: &CpuHeat| {
        heat.temperature.is_some() || (heat.allowed_khz.is_some() && heat.hardware_khz.is_some())
    };
    if readings.iter().any(known) {
        return Ok(readings);
    }
    Err(Unavailable::new(
        "the heat of the CPUs",
        format!(
            "the kernel reports no thermal zone or core sensor of a CPU and no frequency limit below {}",
            root.join("sys").display()
        ),
    ))
}

/// Orders readings by how little is left up to the limit; readings without a limit come first.
fn nearness(reading: &Temperature) -> (bool, i64) {
    match reading.limit_millicelsius {
        Some(limit) => (true, reading.millicelsius - limit),
        None => (false, reading.millicelsius),
    }
}

struct Sensor {
    speaks_for: Scope,
    temperature: Temperature,
}

#[derive(Clone, Copy)]
enum Scope {
    All,
    Package(u32),
    Core { package: u32, core_id: u32 },
    Cpu(u32),
}

impl Scope {
    fn covers(self, cpu: &Cpu) -> bool {
        match self {
            Self::All => true,
            Self::Package(package) => cpu.package == package,
            Self::Core { package, core_id } => {
                cpu.package == package && cpu.core_id == Some(core_id)
            }
            Self::Cpu(id) => cpu.id == id,
        }
    }
}

fn plausible(millicelsius: i64) -> Option<i64> {
    PLAUSIBLE_MILLICELSIUS
        .contains(&millicelsius)
        .then_some(millicelsius)
}

fn zones(root: &Path, topology: &Topology) -> Vec<Sensor> {
    let mut packages = packages(topology.cpus()).into_iter();
    numbered(&root.join("sys/class/thermal"), "thermal_zone")
        .unwrap_or_default()
        .values()
        .filter_map(|zone| {
            let kind = read_text(&zone.join("type"))?.to_ascii_lowercase();
            let speaks_for = if kind == "x86_pkg_temp" {
                // The zone takes its package's turn even if its temperature cannot be read.
                Scope::Package(packages.next()?)
            } else {
                scope_of_type(&kind)?
            };
            Some(Sensor {
                speaks_for,
                temperature: Temperature {
                    millicelsius: plausible(read_number(&zone.join("temp"))?)?,
                    limit_millicelsius: trip_point(zone),
                },
            })
        })
        .collect()
}

/// `cpu3-thermal`, `cpu3_thermal` and `cpu3`: that CPU. `cpu-thermal`, `cpu_thermal`, `soc-cpu`: all. Others: none.
fn scope_of_type(kind: &str) -> Option<Scope> {
    let after = &kind[kind.find("cpu")? + "cpu".len()..];
    let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    Some(after[..digits].parse().map_or(Scope::All, Scope::Cpu))
}

/// The lowest trip point of the gentlest kind that the zone has.
fn trip_point(zone: &Path) -> Option<i64> {
    let trips: Vec<(String, i64)> = (0..TRIPS_MAX)
        .filter_map(|index| {
            let kind = read_text(&zone.join(format!("trip_point_{index}_type")))?;
            let temp = read_number(&zone.join(format!("trip_point_{index}_temp")))?;
            // Zero and less mark a trip point that is switched off.
            Some((kind, plausible(temp).filter(|&temp| temp > 0)?))
        })
        .collect();
    ["passive", "hot", "critical"].iter().find_map(|wanted| {
        trips
            .iter()
            .filter(|(kind, _)| kind == wanted)
            .map(|&(_, temp)| temp)
            .min()
    })
}

/// Sensors of the `coretemp` driver: one device a package, one label `Core N` a core.
fn core_sensors(root: &Path, topology: &Topology) -> Vec<Sensor> {
    let mut sensors = Vec::new();
    let mut packages_left = packages(topology.cpus()).into_iter();
    for device in numbered(&root.join("sys/class/hwmon"), "hwmon")
        .unwrap_or_default()
        .values()
        .filter(|device| read_text(&device.join("name")).as_deref() == Some("coretemp"))
    {
        let Some(next_package) = packages_left.next() else {
            break;
        };
        let labels: Vec<(String, String)> = labels(device);
        let package = labels
            .iter()
            .find_map(|(_, label)| label.strip_prefix("Package id ")?.parse().ok())
            .unwrap_or(next_package);
        sensors.extend(labels.iter().filter_map(|(stem, label)| {
            let millicelsius: i64 = read_number(&device.join(format!("{stem}_input")))?;
            Some(Sensor {
                speaks_for: Scope::Core {
                    package,
                    core_id: label.strip_prefix("Core ")?.parse().ok()?,
                },
                temperature: Temperature {
                    millicelsius: plausible(millicelsius)?,
                    limit_millicelsius: read_number(&device.join(format!("{stem}_max")))
                        .or_else(|| read_number(&device.join(format!("{stem}_crit"))))
                        .and_then(plausible)
                        .filter(|&limit| limit > 0),
                },
            })
        }));
    }
    sensors
}

/// The `tempN` of a device with their labels.
fn labels(device: &Path) -> Vec<(String, String)> {
    let Ok(entries) = std::fs::read_dir(device) else {
        return Vec::new();
    };
    let mut labels: Vec<(String, String)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name();
            let stem = name.to_str()?.strip_suffix("_label")?;
            stem.starts_with("temp")
                .then(|| Some((stem.to_owned(), read_text(&entry.path())?)))?
        })
        .collect();
    labels.sort();
    labels
}
