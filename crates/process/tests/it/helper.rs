//! What this binary does when a test runs it as a command.

use std::io::{Read, Write};

use flyball_process::{Command, Options, SpawnServer};

/// Set by the test that needs a program whose `main` does not call `init`.
pub(crate) const NO_INIT: &str = "FLYBALL_TEST_NO_INIT";

pub(crate) fn is_uninitialised_program() -> bool {
    std::env::var_os(NO_INIT).is_some()
}

/// Says what starting a server answers in a program that never called `init`.
pub(crate) fn without_init() {
    let _ = writeln!(
        std::io::stdout(),
        "{}",
        SpawnServer::start(Options::default()).unwrap_err()
    );
}

/// Runs a helper, if this process is one.
pub(crate) fn run() -> bool {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let [flag, name, rest @ ..] = arguments.as_slice() else {
        return false;
    };
    if flag != "--helper" {
        return false;
    }
    match name.as_str() {
        // Uses this many milliseconds of CPU time.
        "burn" => {
            let goal = rest[0].parse::<u64>().unwrap() * 1_000_000;
            let mut sum = 0_u64;
            while flyball_core::time::process_cpu_nanos() < goal {
                for number in 0..10_000 {
                    sum = std::hint::black_box(sum.wrapping_mul(31) + number);
                }
            }
        }
        // Touches this many mebibytes.
        "fill" => {
            let bytes = rest[0].parse::<usize>().unwrap() << 20;
            let mut data = vec![0_u8; bytes];
            data.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            std::hint::black_box(&data);
        }
        // Touches this many mebibytes, says so on standard output, and stays until its standard input ends.
        "hold" => {
            let bytes = rest[0].parse::<usize>().unwrap() << 20;
            let mut data = vec![0_u8; bytes];
            data.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            let _ = writeln!(std::io::stdout(), "held");
            let _ = std::io::stdin().read(&mut [0]);
            std::hint::black_box(&data);
        }
        // Shares the machine by this folder, says how many slots it has once it is not alone, and stays until it is killed.
        "share" => {
            use flyball_process::bounds::sharing::{Sharing, Want};
            let (told, hears) = std::sync::mpsc::channel();
            let folder = std::path::Path::new(&rest[0]);
            let sharing = Sharing::join(folder, 8, Want::slots(100, 8), move |part| {
                let _ = told.send(part);
            });
            let sharing = sharing.unwrap();
            while sharing.part().others == 0 {
                let _ = hears.recv();
            }
            let _ = writeln!(std::io::stdout(), "{}", sharing.part().slots);
            let _ = std::io::stdin().read(&mut [0]);
        }
        // Writes the same bytes that it was given, as hexadecimal.
        "hex" => {
            use std::os::unix::ffi::OsStrExt;
            for argument in std::env::args_os().skip(3) {
                let hex: String = argument
                    .as_bytes()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                let _ = writeln!(std::io::stdout(), "{hex}");
            }
        }
        // A program with a spawn server and trees below it, which waits to be killed. Descriptor 2 is held by all of them.
        "parent" => {
            let server = SpawnServer::start(Options::default()).unwrap();
            let scripts = [
                "echo $$ >&2; sleep 600",
                "trap '' TERM HUP INT; echo $$ >&2; sleep 600 & wait; sleep 600",
                "setsid sh -c 'echo $$ >&2; sleep 600' & wait",
                "(sh -c 'echo $$ >&2; sleep 600' &) ; sleep 600",
                "echo $$ >&2; kill -STOP $$",
            ];
            let children: Vec<_> = scripts
                .iter()
                .map(|script| {
                    server
                        .spawn(Command::new("sh").arg("-c").arg(script))
                        .unwrap()
                })
                .collect();
            // Until the test closes its end, which it does not: it kills.
            let _ = std::io::stdin().read(&mut [0]);
            drop(children);
        }
        other => panic!("no helper {other}"),
    }
    true
}
