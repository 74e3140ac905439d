//! The command line of `serve`, and the sources of its configuration.

use std::path::{Path, PathBuf};

use clap::Args;
use flyball_engine::config::Sources;

/// Read if no other file is named.
const SYSTEM_FILE: &str = "/etc/flyball/flyball.yaml";

const EXAMPLES: &str = "\
Examples:
  flyball serve
  flyball serve --config flyball.yaml --state-dir ./state
  flyball serve --listen 127.0.0.1:0 --log-format json

Later ones prevail: defaults, the file, FLYBALL_… variables, flags, changes at
run time. `flyball config schema` lists every setting, `flyball config check`
checks a file.

The daemon answers on the address and on a socket in its state folder; what
changes something over the address needs the token in the state folder's
admin.token.

Signals: HUP reads the configuration again (a wrong one is logged and changes
nothing), TERM and INT finish what was accepted and end; the second of them
ends at once.

Exit status: 0 ended as asked, 1 it could not start or left closures running,
2 wrong usage or configuration, 4 another daemon has the state folder, 130
ended by a second signal.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    /// The configuration [default: $FLYBALL_CONFIG, else /etc/flyball/flyball.yaml if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the API listens, IP:PORT; port 0 is any free one [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Folder of all state: socket, admin token, queue [default: $FLYBALL_STATE_DIR, $STATE_DIRECTORY, else flyball in the user's
    /// state folder]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// How log lines look: human or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Which log lines are written: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Say that a proxy in front does TLS, which allows other addresses than loopback
    #[arg(long)]
    behind_tls_proxy: bool,
}

impl Serve {
    /// What the configuration is read from, and how that is said to people.
    pub(crate) fn sources(&self) -> (Sources, String) {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let (sources, from) = match (&self.config, set("FLYBALL_CONFIG")) {
            (Some(file), _) => (Sources::new().with_file(file), file.display().to_string()),
            (None, Some(file)) => (
                Sources::new().with_file(&file),
                format!("{} (FLYBALL_CONFIG)", Path::new(&file).display()),
            ),
            (None, None) if Path::new(SYSTEM_FILE).exists() => (
                Sources::new().with_file_if_present(SYSTEM_FILE),
                SYSTEM_FILE.to_owned(),
            ),
            (None, None) => (
                Sources::new().with_file_if_present(SYSTEM_FILE),
                format!("defaults (no --config, no FLYBALL_CONFIG, no {SYSTEM_FILE})"),
            ),
        };
        let mut sources = sources.with_environment(std::env::vars_os());
        let behind_proxy = self.behind_tls_proxy.then(|| "true".to_owned());
        for (flag, key, value) in [
            ("--listen", "server.listen", &self.listen),
            ("--log-format", "server.log.format", &self.log_format),
            ("--log-level", "server.log.level", &self.log_level),
            (
                "--behind-tls-proxy",
                "server.behind_tls_proxy",
                &behind_proxy,
            ),
        ] {
            if let Some(value) = value {
                sources = sources.with_flag(flag, key, value);
            }
        }
        let folder = match &self.state_dir {
            Some(folder) => Some(("--state-dir", folder.clone())),
            None if set("FLYBALL_QUEUE_STATE_DIR").is_some() => None,
            None => set("FLYBALL_STATE_DIR")
                .map(|folder| ("FLYBALL_STATE_DIR", folder.to_string_lossy().into_owned())),
        };
        if let Some((origin, folder)) = folder {
            sources = sources.with_flag(origin, "queue.state_dir", folder);
        }
        (sources, from)
    }
}
