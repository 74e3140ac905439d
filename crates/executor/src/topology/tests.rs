//! The machine is read from trees that these tests write.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::heat::{self, CpuHeat, Temperature};
use super::*;

/// A directory that vanishes with the value.
struct Tree(PathBuf);

impl Tree {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("flyball-topology-{}-{unique}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn root(&self) -> &Path {
        &self.0
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    fn cpu(&self, id: u32, siblings: &str, core_id: u32, package: u32, node: u32) -> &Self {
        let base = format!("sys/devices/system/cpu/cpu{id}");
        let topology = format!("{base}/topology");
        self.file(
            &format!("{topology}/thread_siblings_list"),
            format!("{siblings}\n"),
        )
        .file(&format!("{topology}/core_id"), format!("{core_id}\n"))
        .file(
            &format!("{topology}/physical_package_id"),
            format!("{package}\n"),
        )
        .file(&format!("{base}/node{node}/cpulist"), "")
    }

    /// Two sockets of two cores of two threads, numbered as Linux does on x86: 0 and 1 the first threads of
    /// socket 0, 2 and 3 those of socket 1, 4 to 7 their siblings.
    fn two_sockets() -> Self {
        let tree = Self::new();
        tree.file("sys/devices/system/cpu/online", "0-7\n")
            .file("sys/devices/system/cpu/cpufreq/boost", "1")
            .file("sys/devices/system/cpu/cpuidle/current_driver", "none");
        for id in 0..8u32 {
            let first = id % 4;
            let package = first / 2;
            tree.cpu(
                id,
                &format!("{first},{}", first + 4),
                first % 2,
                package,
                package,
            );
        }
        tree
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn order(topology: &Topology, workers: usize, layout: Layout) -> Vec<u32> {
    topology
        .layout(workers, layout)
        .iter()
        .map(|cpus| {
            assert_eq!(cpus.len(), 1);
            cpus.iter().next().unwrap()
        })
        .collect()
}

/// CPU-14: distinct cores first, then their siblings, over the nodes as asked; beyond the CPUs it begins again.
#[test]
fn layout_takes_cores_before_siblings() {
    let tree = Tree::two_sockets();
    let topology = Topology::read(tree.root(), None).unwrap();
    assert_eq!(
        order(&topology, 10, Layout::Spread),
        [0, 2, 1, 3, 4, 6, 5, 7, 0, 2]
    );
    assert_eq!(order(&topology, 8, Layout::Pack), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(topology.layout(0, Layout::Spread).is_empty());
}

/// CPU-14: a cpuset bounds the layout; a sibling outside it makes the other thread a core like any.
#[test]
fn layout_stays_inside_the_allowed_mask() {
    let tree = Tree::two_sockets();
    let allowed: CpuSet = "1,5-7".parse().unwrap();
    let topology = Topology::read(tree.root(), Some(&allowed)).unwrap();
    // 1 and 5 share a core; the siblings of 6 and 7 are not ours.
    assert_eq!(order(&topology, 4, Layout::Spread), [1, 6, 7, 5]);
    assert_eq!(order(&topology, 4, Layout::Pack), [1, 6, 7, 5]);
}

#[test]
fn offline_cpus_are_left_out() {
    let tree = Tree::two_sockets();
    tree.file("sys/devices/system/cpu/online", "0-2,4\n");
    let topology = Topology::read(tree.root(), None).unwrap();
    assert_eq!(order(&topology, 4, Layout::Spread), [0, 2, 1, 4]);

    // Without the list, each CPU's own file counts.
    std::fs::remove_file(tree.root().join("sys/devices/system/cpu/online")).unwrap();
    tree.file("sys/devices/system/cpu/cpu7/online", "0\n");
    tree.file("sys/devices/system/cpu/cpu6/online", "1\n");
    let topology = Topology::read(tree.root(), None).unwrap();
    assert_eq!(topology.cpus().len(), 7);
}

#[test]
fn garbage_costs_only_what_it_would_have_told() {
    let tree = Tree::new();
    tree.cpu(0, "0,1", 0, 0, 0)
        .cpu(1, "0,1", 0, 0, 0)
        .cpu(2, "0-4294967295", 1, 0, 0)
        .cpu(3, "0,1", 1, 0, 0)
        .file("sys/devices/system/cpu/online", [0xff, 0xfe])
        .file(
            "sys/devices/system/cpu/cpu2/topology/physical_package_id",
            "?",
        )
        .file("sys/devices/system/cpu/cpu+4/online", "1")
        .file("sys/devices/system/cpu/cpu99999999999/online", "1")
        .file("sys/devices/system/cpu/cpux/online", "1");
    let topology = Topology::read(tree.root(), None).unwrap();
    let cores: Vec<(u32, u32)> = topology
        .cpus()
        .iter()
        .map(|cpu| (cpu.id, cpu.core))
        .collect();
    // CPU 3 is not in its own list of siblings, CPU 2's list is absurd: each is a core of its own.
    assert_eq!(cores, [(0, 0), (1, 0), (2, 2), (3, 3)]);
}

#[test]
fn nothing_to_read_is_unavailable_with_the_reason() {
    let tree = Tree::new();
    let missing = Topology::read(tree.root(), None).unwrap_err();
    assert!(missing.why.contains("sys/devices/system/cpu"), "{missing}");

    let tree = Tree::two_sockets();
    let elsewhere: CpuSet = [63].into_iter().collect();
    let missing = Topology::read(tree.root(), Some(&elsewhere)).unwrap_err();
    assert!(missing.why.contains("no CPU"), "{missing}");
}

#[test]
fn a_flat_machine_lays_out_in_order() {
    let topology = Topology::flat(&"2-4".parse().unwrap());
    assert_eq!(order(&topology, 4, Layout::Pack), [2, 3, 4, 2]);
    assert_eq!(Topology::flat(&CpuSet::default()).cpus().len(), 1);
}

/// CPU-14: on this machine, whatever it is, the layout names allowed CPUs only.
#[cfg(target_os = "linux")]
#[test]
fn the_real_machine_can_be_read() {
    let allowed = crate::os::allowed_cpus().unwrap();
    if let Ok(topology) = Topology::read(Path::new("/"), Some(&allowed)) {
        for cpus in topology.layout(allowed.len(), Layout::Spread) {
            assert!(cpus.iter().all(|cpu| allowed.contains(cpu)));
        }
    }
}

/// CPU-14: one core near its limit stands out from the others, by its own sensor and by its frequency limit.
#[test]
fn a_hot_core_is_told_from_the_others() {
    let tree = Tree::two_sockets();
    tree.file("sys/class/thermal/thermal_zone0/type", "acpitz\n")
        .file("sys/class/thermal/thermal_zone0/temp", "99000\n")
        .file("sys/class/thermal/thermal_zone1/type", "x86_pkg_temp\n")
        .file("sys/class/thermal/thermal_zone1/temp", "55000\n")
        .file(
            "sys/class/thermal/thermal_zone1/trip_point_0_type",
            "critical\n",
        )
        .file(
            "sys/class/thermal/thermal_zone1/trip_point_0_temp",
            "105000",
        )
        .file(
            "sys/class/thermal/thermal_zone1/trip_point_1_type",
            "passive\n",
        )
        .file("sys/class/thermal/thermal_zone1/trip_point_1_temp", "95000")
        .file(
            "sys/class/thermal/thermal_zone1/trip_point_2_type",
            "passive\n",
        )
        .file("sys/class/thermal/thermal_zone1/trip_point_2_temp", "0")
        .file("sys/class/hwmon/hwmon0/name", "coretemp\n")
        .file("sys/class/hwmon/hwmon0/temp1_label", "Package id 0\n")
        .file("sys/class/hwmon/hwmon0/temp1_input", "55000\n")
        .file("sys/class/hwmon/hwmon0/temp3_label", "Core 1\n")
        .file("sys/class/hwmon/hwmon0/temp3_input", "94000\n")
        .file("sys/class/hwmon/hwmon0/temp3_max", "95000\n");
    for cpu in 0..8 {
        let base = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq");
        let allowed = if cpu % 4 == 1 { "1200000" } else { "3600000" };
        tree.file(&format!("{base}/cpuinfo_max_freq"), "3600000\n")
            .file(&format!("{base}/scaling_max_freq"), allowed)
            .file(&format!("{base}/scaling_cur_freq"), "2000000\n");
    }
    let topology = Topology::read(tree.root(), None).unwrap();
    let heat = heat::read(tree.root(), &topology).unwrap();
    let package = Some(Temperature {
        millicelsius: 55_000,
        limit_millicelsius: Some(95_000),
    });
    assert_eq!(heat[0].temperature, package);
    assert_eq!(
        heat[1],
        CpuHeat {
            cpu: 1,
            temperature: Some(Temperature {
                millicelsius: 94_000,
                limit_millicelsius: Some(95_000)
            }),
            current_khz: Some(2_000_000),
            allowed_khz: Some(1_200_000),
            hardware_khz: Some(3_600_000),
        }
    );
    // The sibling shares the core and so the sensor; the other package has none.
    assert_eq!(heat[5].temperature, heat[1].temperature);
    assert_eq!(heat[2].temperature, None);
    assert_eq!(heat[2].allowed_khz, heat[2].hardware_khz);
}

/// CPU-14: zones that name a CPU speak for it, zones of "the CPU" for all.
#[test]
fn zones_speak_for_the_cpus_that_their_type_names() {
    let tree = Tree::two_sockets();
    tree.file("sys/class/thermal/thermal_zone0/type", "cpu-thermal")
        .file("sys/class/thermal/thermal_zone0/temp", "40000")
        .file("sys/class/thermal/thermal_zone1/type", "cpu6-thermal")
        .file("sys/class/thermal/thermal_zone1/temp", "80000")
        .file("sys/class/thermal/thermal_zone2/type", "battery")
        .file("sys/class/thermal/thermal_zone2/temp", "90000");
    let topology = Topology::read(tree.root(), None).unwrap();
    let heat = heat::read(tree.root(), &topology).unwrap();
    let temperatures: Vec<i64> = heat
        .iter()
        .map(|heat| heat.temperature.unwrap().millicelsius)
        .collect();
    assert_eq!(
        temperatures,
        [
            40_000, 40_000, 40_000, 40_000, 40_000, 40_000, 80_000, 40_000
        ]
    );
}

/// CPU-14: where the kernel reports nothing, or nonsense, the reading is unavailable and says why.
#[test]
fn absent_and_absurd_sensors_are_unavailable() {
    let tree = Tree::two_sockets();
    let topology = Topology::read(tree.root(), None).unwrap();
    let missing = heat::read(tree.root(), &topology).unwrap_err();
    assert!(missing.why.contains("no thermal zone"), "{missing}");

    tree.file("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp")
        .file("sys/class/thermal/thermal_zone0/temp", "-273000")
        .file("sys/class/thermal/thermal_zone1/type", [0xff])
        .file("sys/class/thermal/thermal_zone2/type", "cpu-thermal")
        .file("sys/class/thermal/thermal_zone2/temp", "warm")
        .file("sys/class/hwmon/hwmon0/name", "coretemp")
        .file("sys/class/hwmon/hwmon0/temp2_label", "Core x")
        .file("sys/class/hwmon/hwmon0/temp2_input", "50000")
        .file("sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq", "0")
        .file(
            "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq",
            "<unknown>",
        );
    assert!(heat::read(tree.root(), &topology).is_err());
}

#[test]
fn the_tightest_quota_of_all_levels_counts() {
    let tree = Tree::new();
    assert_eq!(quota_cpus(tree.root()), None);
    tree.file("proc/self/cgroup", "0::/pod/box\n")
        .file(
            "proc/self/mountinfo",
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n",
        )
        .file("sys/fs/cgroup/pod/box/cpu.max", "max 100000\n");
    assert_eq!(quota_cpus(tree.root()), None);
    tree.file("sys/fs/cgroup/pod/cpu.max", "150000 100000\n");
    assert_eq!(quota_cpus(tree.root()), Some(1.5));
    tree.file("sys/fs/cgroup/pod/box/cpu.max", "20000 100000\n");
    assert_eq!(quota_cpus(tree.root()), Some(0.2));
    tree.file("sys/fs/cgroup/pod/box/cpu.max", "-5 zero\n");
    assert_eq!(quota_cpus(tree.root()), Some(1.5));
}

#[test]
fn version_1_quotas_count_too() {
    let tree = Tree::new();
    tree.file(
        "proc/self/cgroup",
        "4:memory:/m\n3:cpu,cpuacct:/docker/abc\n",
    )
    .file(
        "proc/self/mountinfo",
        "31 23 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
    )
    .file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    .file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    assert_eq!(quota_cpus(tree.root()), None);
    tree.file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n");
    assert_eq!(quota_cpus(tree.root()), Some(2.5));
}
