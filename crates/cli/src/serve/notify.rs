//! What a service tells systemd (`sd_notify(3)`): a datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names.
//!
//! Without that variable nobody listens and nothing is sent. What cannot be sent is no reason to end: systemd then acts as if it had not
//! been told, and the log says why.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use flyball_core::time::{Clock, OsClock};

/// The line to whoever supervises this process, if somebody does.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says.
    ///
    /// # Errors
    /// The variable is there and cannot be used.
    pub(crate) fn from_environment() -> io::Result<Notifier> {
        Notifier::of(|name| std::env::var_os(name), std::process::id())
    }

    fn of(environment: impl Fn(&str) -> Option<OsString>, own_id: u32) -> io::Result<Notifier> {
        let Some(name) = environment("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Notifier::default());
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address(&name)?)?;
        // A supervisor that does not read must not stop what it supervises.
        socket.set_nonblocking(true)?;
        let number = |name| environment(name)?.to_str()?.parse::<u64>().ok();
        // Set for another process, if it was inherited.
        let ours =
            environment("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(own_id.into());
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0);
        Ok(Notifier {
            socket: Some(socket),
            watchdog: watchdog.map(Duration::from_micros),
        })
    }

    /// How often it wants to hear that all is well: half the time after which it would act.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog.map(|time| time / 2)
    }

    /// It serves.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// It reads its configuration anew; `ready` ends that.
    pub(crate) fn reloading(&self) {
        let now = OsClock.now().as_nanos() / 1000;
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=reading the configuration"
        ));
    }

    /// It ends, within this time.
    pub(crate) fn stopping(&self, within: Duration) {
        self.tell(&format!(
            "STOPPING=1\nSTATUS=finishing what was accepted\nEXTEND_TIMEOUT_USEC={}",
            within.as_micros()
        ));
    }

    /// All is well.
    pub(crate) fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, text: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(text.as_bytes())
        {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }
}

/// A path, or with `@` in front a name in the abstract namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "NOTIFY_SOCKET is neither an absolute path nor a name after @",
        )),
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(set: Vec<(&'static str, String)>) -> impl Fn(&str) -> Option<OsString> {
        move |name| {
            let (_, value) = set.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(value))
        }
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn paths_and_abstract_names_are_told() {
        let name = format!("flyball-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let _ = std::fs::remove_file(&path);
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, at) in [
            (by_path, path.display().to_string()),
            (by_name, format!("@{name}")),
        ] {
            let notifier = Notifier::of(environment(vec![("NOTIFY_SOCKET", at)]), 1).unwrap();
            notifier.ready("serving\non x");
            assert_eq!(heard(&socket), "READY=1\nSTATUS=serving on x");
            notifier.reloading();
            let text = heard(&socket);
            let time = text
                .lines()
                .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
            assert!(text.starts_with("RELOADING=1\n") && time.unwrap().parse::<u64>().is_ok());
            notifier.stopping(Duration::from_secs(2));
            assert!(heard(&socket).ends_with("\nEXTEND_TIMEOUT_USEC=2000000"));
            notifier.alive();
            assert_eq!(heard(&socket), "WATCHDOG=1");
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_ours() {
        let name = format!("flyball-watchdog-{}", std::process::id());
        let _socket =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let watchdog = |pid: Option<&str>, usec: &str| {
            let mut set = vec![
                ("NOTIFY_SOCKET", format!("@{name}")),
                ("WATCHDOG_USEC", usec.to_owned()),
            ];
            set.extend(pid.map(|pid| ("WATCHDOG_PID", pid.to_owned())));
            Notifier::of(environment(set), 7).unwrap().watchdog()
        };
        let half = Some(Duration::from_secs(15));
        assert_eq!(
            (watchdog(Some("7"), "30000000"), watchdog(None, "30000000")),
            (half, half)
        );
        for (pid, usec) in [
            (Some("8"), "30000000"),
            (Some("x"), "30000000"),
            (None, "0"),
            (None, "soon"),
        ] {
            assert_eq!(watchdog(pid, usec), None);
        }
    }

    #[test]
    fn nobody_is_told_where_nobody_listens() {
        let silent = Notifier::of(environment(vec![]), 1).unwrap();
        silent.ready("x");
        assert_eq!(silent.watchdog(), None);
        for wrong in ["relative", "/nonexistent/socket"] {
            assert!(
                Notifier::of(environment(vec![("NOTIFY_SOCKET", wrong.to_owned())]), 1).is_err()
            );
        }
    }
}
