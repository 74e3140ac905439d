//! `flyball limits`: the bounds in force, and how near each is; adaptive limits; throttles; the circuit breakers of what tasks call.

mod adaptive;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use flyball_engine::view::tasks::BreakerView;
use flyball_engine::view::{GateView, LimitView, ThrottleView};
use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    Assignment, Paging, STATUS, Session, json_value, note, parse_assignment, with_session,
};
use crate::client::{Failure, Reach, escape};
use crate::show::{Column, Ink, Screen, Table, UNKNOWN, count, inert, percent, quantity};

const ADAPTIVE: &str = "/v1/limits/adaptive";
const THROTTLES: &str = "/v1/cpu/throttler/throttles";
const BREAKERS: &str = "/v1/limits/breakers";

#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{STATUS}"), args_conflicts_with_subcommands = false)]
pub(crate) struct Limits {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    paging: Paging,
}

const EXAMPLES: &str = "\
Examples:
  flyball limits
  flyball limits --json | jq '.items[] | select(.refused > 0)'
  flyball limits show batch
  flyball limits set batch scope=class:batch mode=observe
  flyball limits set batch mode=enforce max=40
  flyball limits throttles
  flyball limits throttle machine --at 70
  flyball limits breakers
  flyball limits force api.example.org:443 open
  flyball limits force api.example.org:443 none

SETTING is what changes the limit: `flyball config set`, `flyball classes
change` or `flyball knobs pin`.";

#[derive(Subcommand, Debug)]
enum Action {
    /// List the adaptive limits (`flyball limits` shows them below the bounds)
    #[command(after_help = "\
Examples:
  flyball limits list
  flyball limits list --json | jq '.items[] | select(.level != \"normal\")'")]
    List(Paging),
    /// Show everything about an adaptive limit
    #[command(after_help = "Example:\n  flyball limits show batch")]
    Show {
        /// Its name
        name: String,
    },
    /// Change an adaptive limit, or add one for a class or a dependency
    #[command(after_help = "\
Examples:
  flyball limits set batch scope=class:batch             as many tasks of batch at once as are good
  flyball limits set batch mode=observe                  decide and count, hold nothing back
  flyball limits set batch limit=4                       always 4
  flyball limits set batch limit=null algorithm=null     find it again
  flyball limits set pay scope=dependency:pay.example.org:443 max=20
  flyball limits set db deadline=2s min=2                a gate that a program has named db

`flyball config schema` lists the settings (limits.adaptive).")]
    Set {
        /// Its name
        name: String,
        /// Settings: mode=observe max=40 …; null takes one back
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = parse_assignment)]
        settings: Vec<Assignment>,
    },
    /// Remove the adaptive limit of a class or a dependency, or take back what was set of a program's
    #[command(after_help = "Example:\n  flyball limits remove batch")]
    Remove {
        /// Its name
        name: String,
    },
    /// Show the throttles: what use they hold at which threshold, and what that costs (`flyball limits` shows them below the bounds)
    #[command(after_help = "\
Examples:
  flyball limits throttles
  flyball limits throttles --json | jq '.items[] | select(.state == \"cannot_hold\") | .reason'")]
    Throttles(Paging),
    /// Add a throttle, change or remove one: what is not said stays, or has its default
    #[command(after_help = "\
Examples:
  flyball limits throttle machine --at 70
  flyball limits throttle night --scope process --at 50 --observe
  flyball limits throttle night --enforce
  flyball limits throttle night --off
  flyball limits throttle night --remove")]
    Throttle(Throttle),
    /// Show the circuit breakers of what tasks call (`flyball limits` shows them below the bounds)
    #[command(after_help = "\
Examples:
  flyball limits breakers
  flyball limits breakers --json | jq '.items[] | select(.state != \"closed\")'")]
    Breakers(Paging),
    /// Decide in place of a breaker: keep it open or closed, or leave it alone again
    #[command(after_help = "\
Examples:
  flyball limits force api.example.org:443 open      no task calls it
  flyball limits force api.example.org:443 none      as its calls go, again")]
    Force {
        /// The breaker, as `flyball limits` lists it
        name: String,
        /// What it is to be
        to: Forced,
    },
    /// Have an adaptive limit find its number anew; or close a breaker, and forget what it counted
    #[command(after_help = "\
Examples:
  flyball limits reset batch
  flyball limits reset api.example.org:443")]
    Reset {
        /// The adaptive limit or the breaker
        name: String,
    },
}

#[derive(Args, Debug)]
struct Throttle {
    /// Its name; `machine` and `quota` are the daemon's own
    name: String,
    /// What it measures: machine, process, quota or class:NAME; needed for a new one
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,
    /// What it holds, percent of all CPUs: 1 to 100; needed for a new one
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent, allow_negative_numbers = true)]
    at: Option<f64>,
    /// How far use must fall below that for it to end, points: 0 to 50, and less than --at
    #[arg(long, value_name = "POINTS", value_parser = parse_percent, allow_negative_numbers = true)]
    hysteresis: Option<f64>,
    /// Hold back classes of a lower priority than this one's
    #[arg(long, value_name = "CLASS")]
    below: Option<String>,
    /// Decide and count, but hold nothing back
    #[arg(long, conflicts_with = "enforce")]
    observe: bool,
    /// Hold back what is to be held back
    #[arg(long)]
    enforce: bool,
    /// Switch it on
    #[arg(long, conflicts_with = "off")]
    on: bool,
    /// Switch it off
    #[arg(long)]
    off: bool,
    /// Take it away
    #[arg(long, conflicts_with_all = ["scope", "at", "hysteresis", "below", "observe", "enforce", "on", "off"])]
    remove: bool,
}

impl Throttle {
    fn fields(&self) -> serde_json::Map<String, serde_json::Value> {
        let mode = match (self.observe, self.enforce) {
            (true, _) => Some("observe"),
            (_, true) => Some("enforce"),
            _ => None,
        };
        let enabled = (self.on || self.off).then_some(self.on);
        [
            ("name", Some(json!(self.name))),
            ("scope", self.scope.as_ref().map(|scope| json!(scope))),
            ("threshold_percent", self.at.map(|at| json!(at))),
            (
                "hysteresis_percent",
                self.hysteresis.map(|points| json!(points)),
            ),
            ("below", self.below.as_ref().map(|class| json!(class))),
            ("mode", mode.map(|mode| json!(mode))),
            ("enabled", enabled.map(|on| json!(on))),
        ]
        .into_iter()
        .filter_map(|(field, value)| Some((field.to_owned(), value?)))
        .collect()
    }
}

/// A number, with or without the sign.
fn parse_percent(text: &str) -> Result<f64, String> {
    super::knobs::parse_finite(text.strip_suffix('%').unwrap_or(text))
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Forced {
    /// No call goes through
    Open,
    /// All calls go through
    Closed,
    /// As its calls go
    None,
}

pub(crate) fn run(options: Limits) -> ExitCode {
    with_session(&options.reach, |session| match &options.action {
        None => {
            let mut out = session.list("/v1/limits", &options.paging, table)?;
            if !session.json {
                out.extend(beside(session));
            }
            Ok(out)
        }
        Some(Action::List(paging)) => {
            let mut out = session.list(ADAPTIVE, paging, |all: Vec<GateView>, screen| {
                if all.is_empty() {
                    none_yet(session).to_owned()
                } else {
                    adaptive::table(&all, screen)
                }
            })?;
            if !session.json {
                let all: Vec<LimitView> = session.items("/v1/limits")?;
                out.extend(without_gate(&all).into_bytes());
            }
            Ok(out)
        }
        Some(Action::Show { name }) => {
            let reply = session.client.get(&path(name));
            let reply = reply.map_err(|failure| instead(session, name, failure))?;
            session.show(&reply, adaptive::details)
        }
        Some(Action::Set { name, settings }) => {
            let fields: serde_json::Map<String, serde_json::Value> = settings
                .iter()
                .map(|setting| (setting.key.clone(), json_value(&setting.value)))
                .collect();
            let reply = session
                .client
                .send(Method::PUT, &path(name), &fields.into())?;
            session.show(&reply, adaptive::details)
        }
        Some(Action::Remove { name }) => {
            session.client.act(Method::DELETE, &path(name))?;
            let text = format!("limit {} is gone, or as its program made it\n", inert(name));
            Ok(match session.json {
                true => Vec::new(),
                false => text.into_bytes(),
            })
        }
        Some(Action::Throttles(paging)) => {
            session.list(THROTTLES, paging, |all: Vec<ThrottleView>, screen| {
                if all.is_empty() {
                    "there is no throttle\n".to_owned()
                } else {
                    throttles(&all, screen)
                }
            })
        }
        Some(Action::Throttle(throttle)) if throttle.remove => {
            let path = format!("/v1/cpu/throttler/throttle/{}", escape(&throttle.name));
            session.client.act(Method::DELETE, &path)?;
            let text = format!("throttle {} is gone\n", inert(&throttle.name));
            Ok(match session.json {
                true => Vec::new(),
                false => text.into_bytes(),
            })
        }
        Some(Action::Throttle(throttle)) => {
            let path = "/v1/cpu/throttler/throttle";
            let all: Vec<ThrottleView> = session.items(THROTTLES)?;
            let is_there = all.iter().any(|known| known.name == throttle.name);
            let method = if is_there { Method::PUT } else { Method::POST };
            let fields = serde_json::Value::Object(throttle.fields());
            let reply = session.client.send(method, path, &fields)?;
            session.show(&reply, |throttle: ThrottleView, screen| {
                throttles(&[throttle], screen)
            })
        }
        Some(Action::Breakers(paging)) => {
            session.list(BREAKERS, paging, |all: Vec<BreakerView>, screen| {
                if all.is_empty() {
                    "no task has called anything yet\n".to_owned()
                } else {
                    breakers(&all, screen)
                }
            })
        }
        Some(Action::Force { name, to }) => {
            let word = match to {
                Forced::Open => "open",
                Forced::Closed => "closed",
                Forced::None => "none",
            };
            let path = format!("/v1/limits/breakers/{}", escape(name));
            let body = json!({ "force": word });
            session.show(&session.client.send(Method::PUT, &path, &body)?, one)
        }
        Some(Action::Reset { name }) => {
            reset(session, name).map_err(|failure| instead(session, name, failure))
        }
    })
}

/// What there is to say where no adaptive limit is.
fn none_yet(session: &Session) -> &'static str {
    let config = session.client.get("/v1/config");
    let config = config.and_then(|reply| reply.read::<serde_json::Value>());
    // Who may not read the configuration is told by the daemon when a limit is set.
    match config {
        Ok(config) if config["limits"]["enabled"] == false => {
            "adaptive limits are switched off; `flyball config set limits.enabled=true` switches them on\n"
        }
        _ => "there is no adaptive limit; `flyball limits set NAME scope=class:NAME` adds one\n",
    }
}

fn path(name: &str) -> String {
    format!("/v1/limits/{}", escape(name))
}

/// Resets the adaptive limit of a name, or else the breaker: names of limits have neither dots nor colons, those of hosts have.
fn reset(session: &Session, name: &str) -> Result<Vec<u8>, Failure> {
    let limit = session
        .client
        .act(Method::POST, &format!("{}/reset", path(name)));
    match limit {
        Err(Failure::Missing(no_limit)) => {
            let breaker = format!("/v1/limits/breakers/{}/reset", escape(name));
            match session.client.act(Method::POST, &breaker) {
                Ok(reply) => session.show(&reply, one),
                Err(Failure::Missing(no_breaker)) => {
                    Err(Failure::Missing(format!("{no_limit}\n  {no_breaker}")))
                }
                // Without a queue there are no breakers.
                Err(Failure::Refused(_)) => Err(Failure::Missing(no_limit)),
                Err(other) => Err(other),
            }
        }
        reply => session.show(&reply?, adaptive::details),
    }
}

/// Says of a name that no adaptive limit has what else has it, and what shows that.
fn instead(session: &Session, name: &str, failure: Failure) -> Failure {
    let Failure::Missing(mut text) = failure else {
        return failure;
    };
    let throttles = session.items::<ThrottleView>(THROTTLES).unwrap_or_default();
    if throttles.iter().any(|throttle| throttle.name == name) {
        text += &format!(
            "\n  {} is a throttle: `flyball limits throttles` shows it",
            inert(name)
        );
    }
    let breakers = session.items::<BreakerView>(BREAKERS).unwrap_or_default();
    if breakers.iter().any(|breaker| breaker.name == name) {
        text += &format!(
            "\n  {} is a circuit breaker: `flyball limits breakers` shows it",
            inert(name)
        );
    }
    Failure::Missing(text)
}

/// The adaptive limits, the throttles and the breakers there are, each with a table of its own. The bounds are shown whatever comes of it.
fn beside(session: &Session) -> Vec<u8> {
    let mut out = part(session, "adaptive limits", ADAPTIVE, adaptive::table);
    out.extend(part(session, "throttles", THROTTLES, throttles));
    out.extend(known_breakers(session));
    out
}

/// A table of what there is, below another; nothing where there is none.
fn part<T: DeserializeOwned>(
    session: &Session,
    what: &str,
    path: &str,
    table: impl FnOnce(&[T], Screen) -> String,
) -> Vec<u8> {
    match session.items::<T>(path) {
        Ok(all) if all.is_empty() => Vec::new(),
        Ok(all) => format!("\n{}", table(&all, session.screen)).into_bytes(),
        Err(failure) => {
            note(&format!("{what}: {}", failure.text()));
            Vec::new()
        }
    }
}

/// The breakers; nothing where the queue of tasks is switched off.
fn known_breakers(session: &Session) -> Vec<u8> {
    let all: Vec<BreakerView> = match session.items(BREAKERS) {
        Ok(all) => all,
        Err(Failure::Refused(_) | Failure::Missing(_)) => return Vec::new(),
        Err(failure) => {
            note(&format!("breakers: {}", failure.text()));
            return Vec::new();
        }
    };
    if all.is_empty() {
        return Vec::new();
    }
    format!("\n{}", breakers(&all, session.screen)).into_bytes()
}

fn one(breaker: BreakerView, screen: Screen) -> String {
    breakers(&[breaker], screen)
}

fn throttles(all: &[ThrottleView], screen: Screen) -> String {
    let mut table = Table::new([
        Column::left("THROTTLE"),
        Column::left("SCOPE"),
        Column::right("AT"),
        Column::right("USED"),
        Column::right("LEVEL"),
        Column::left("STATE"),
        Column::right("THROTTLED"),
        Column::right("EFFECT"),
        Column::left("HOLDS BACK"),
    ]);
    for throttle in all {
        let ink = match throttle.state.as_str() {
            "active" => Ink::Doubtful,
            "cannot_hold" => Ink::Bad,
            _ => Ink::Plain,
        };
        let state = match throttle.mode.as_str() {
            "observe" => format!("{} (observes)", throttle.state),
            _ => throttle.state.clone(),
        };
        let effect = throttle.throughput_effect_percent.map(|percent| -percent);
        let plain = |text| (text, Ink::Plain);
        table.painted([
            plain(throttle.name.clone()),
            plain(throttle.scope.clone()),
            plain(percent(Some(throttle.threshold_percent))),
            plain(percent(throttle.usage_percent)),
            plain(format!("{:.2}", throttle.level)),
            (inert(&state), ink),
            plain(format!("{:.1} s", throttle.throttled_ms as f64 / 1e3)),
            plain(percent(effect)),
            plain(throttle.acts_on.join(" ")),
        ]);
    }
    let mut out = table.print(screen);
    for throttle in all
        .iter()
        .filter(|throttle| throttle.state == "cannot_hold")
    {
        out += &format!("{}: {}\n", throttle.name, inert(&throttle.reason));
    }
    out
}

fn breakers(all: &[BreakerView], screen: Screen) -> String {
    let mut table = Table::new([
        Column::left("BREAKER"),
        Column::left("STATE"),
        Column::right("CALLS"),
        Column::right("FAILED"),
        Column::right("SLOW"),
        Column::right("OUT"),
        Column::right("REFUSED"),
        Column::right("OPENED"),
        Column::left("UNTIL"),
    ]);
    for breaker in all {
        let ink = match breaker.state.as_str() {
            "closed" => Ink::Good,
            "open" => Ink::Bad,
            _ => Ink::Doubtful,
        };
        let mut state = match &breaker.forced {
            Some(forced) => format!("{} (forced {forced})", breaker.state),
            None => breaker.state.clone(),
        };
        if breaker.config.mode == "observe" {
            state += ", observes";
        }
        let plain = |text| (text, Ink::Plain);
        table.painted([
            plain(breaker.name.clone()),
            (inert(&state), ink),
            plain(count(breaker.calls)),
            plain(percent(breaker.failure_percent)),
            plain(percent(breaker.slow_percent)),
            plain(count(breaker.in_flight)),
            plain(count(breaker.refused)),
            plain(count(breaker.opened)),
            plain(
                breaker
                    .until
                    .map_or_else(|| UNKNOWN.to_owned(), |time| time.to_string()),
            ),
        ]);
    }
    table.print(screen)
}

/// Adaptive limits that have no figures, as nothing goes by them.
fn without_gate(limits: &[LimitView]) -> String {
    let gateless = limits.iter().filter(|limit| limit.limit.is_none());
    gateless
        .filter_map(|limit| {
            let name = limit.name.strip_prefix("adaptive/")?;
            adaptive::unused(name, limit.unused.as_deref())
        })
        .collect()
}

fn table(limits: Vec<LimitView>, screen: Screen) -> String {
    let gateless = without_gate(&limits);
    let mut table = Table::new([
        Column::left("LIMIT"),
        Column::right("USED"),
        Column::right("OF"),
        Column::right("REFUSED"),
        Column::left("SETTING"),
    ]);
    // Those have tables of their own.
    let bounds = limits
        .into_iter()
        .filter(|limit| !matches!(limit.kind.as_str(), "adaptive" | "breaker"));
    for limit in bounds {
        let full = limit
            .limit
            .zip(limit.used)
            .is_some_and(|(most, used)| used >= most && most > 0.0);
        let ink = if full { Ink::Doubtful } else { Ink::Plain };
        // An answered null is "no limit", which is known.
        let most = limit
            .limit
            .map_or_else(|| "none".to_owned(), |most| quantity(most, &limit.unit));
        let refused = match limit.would_refuse {
            Some(would) => format!("would {}", count(would)),
            None => limit.refused.map_or_else(|| UNKNOWN.to_owned(), count),
        };
        table.painted([
            (limit.name, ink),
            (crate::show::number(limit.used), ink),
            (most, Ink::Plain),
            (refused, Ink::Plain),
            (limit.setting, Ink::Plain),
        ]);
    }
    table.print(screen) + &gateless
}
