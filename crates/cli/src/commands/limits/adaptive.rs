//! Adaptive limits, printed.

use flyball_engine::view::{GateView, LimitChangeView};

use crate::show::{Column, Ink, Screen, Table, UNKNOWN, count, inert, millis, percent, rate};

/// Changes that are shown of one limit.
const CHANGES: usize = 10;

/// The limits, a line each.
pub(super) fn table(all: &[GateView], screen: Screen) -> String {
    let mut table = Table::new([
        Column::left("LIMIT"),
        Column::left("BOUNDS"),
        Column::left("ALGORITHM"),
        Column::right("IN"),
        Column::right("OF"),
        Column::right("WAITING"),
        Column::right("CALLS"),
        Column::right("SHED"),
        Column::left("LEVEL"),
        Column::left("MODE"),
    ]);
    for limit in all {
        let plain = |text| (text, Ink::Plain);
        let full = limit.in_flight >= limit.limit;
        let shed = match limit.shed_percent {
            Some(shed) if limit.mode == "observe" => format!("({})", percent(shed)),
            shed => percent(shed),
        };
        table.painted([
            plain(inert(&limit.name)),
            plain(inert(&limit.scope)),
            plain(inert(&limit.algorithm)),
            (
                count(u64::from(limit.in_flight)),
                if full { Ink::Doubtful } else { Ink::Plain },
            ),
            plain(count(u64::from(limit.limit))),
            plain(count(u64::from(limit.waiting))),
            plain(rate(limit.calls_per_second)),
            plain(shed),
            (inert(&limit.level), ink(&limit.level)),
            plain(inert(&limit.mode)),
        ]);
    }
    let mut out = table.print(screen);
    if all.iter().any(|limit| limit.mode == "observe") {
        out += "In brackets: what would have been shed; a limit that observes refuses nobody.\n";
    }
    for limit in all {
        out.extend(unused(&limit.name, limit.unused.as_deref()));
    }
    out
}

/// Says why a limit bounds nothing, if it does not.
pub(super) fn unused(name: &str, why: Option<&str>) -> Option<String> {
    let why = why?;
    Some(format!("{} bounds nothing: {}\n", inert(name), inert(why)))
}

fn ink(level: &str) -> Ink {
    match level {
        "conserve" => Ink::Doubtful,
        "survive" => Ink::Bad,
        _ => Ink::Plain,
    }
}

/// One limit, in full.
pub(super) fn details(limit: GateView, screen: Screen) -> String {
    let observes = limit.mode == "observe";
    let of_tasks = limit.scope.starts_with("class:");
    let mut lines = vec![
        ("bounds", inert(&limit.scope)),
        (
            "limit",
            format!(
                "{} by {}, {} to {}",
                limit.limit,
                inert(&limit.algorithm),
                limit.min,
                limit.max
            ),
        ),
        ("mode", inert(&limit.mode)),
        ("in flight", limit.in_flight.to_string()),
        (
            "waiting",
            if of_tasks {
                format!("{} durable tasks, in their queue", limit.waiting)
            } else {
                format!(
                    "{} (at most {}, for at most three tenths of {}{})",
                    limit.waiting,
                    limit.queue_max,
                    millis(limit.deadline_ms),
                    if limit.overloaded {
                        "; overloaded: much shorter, the last first"
                    } else {
                        ""
                    }
                )
            },
        ),
        ("level", inert(&limit.level)),
        (
            "calls",
            format!("{} ({})", limit.calls, rate(limit.calls_per_second)),
        ),
        (
            if observes { "would have shed" } else { "shed" },
            format!(
                "{} ({} of the last calls)",
                limit.shed,
                percent(limit.shed_percent)
            ),
        ),
        ("gave up waiting", limit.cancelled.to_string()),
        (
            if observes {
                "would have held"
            } else {
                "held up"
            },
            format!("{} times", limit.blocked),
        ),
        ("latency", millis(limit.latency_ms)),
    ];
    if let Some(why) = &limit.unused {
        lines.insert(1, ("bounds nothing", inert(why)));
    }
    if of_tasks {
        // Nothing of the queue is shed, and nobody gives up.
        lines.retain(|(what, _)| {
            !matches!(
                *what,
                "shed" | "would have shed" | "gave up waiting" | "level"
            )
        });
    }
    if limit.run_delay_percent.is_some() {
        lines.push(("run delay", percent(limit.run_delay_percent)));
    }
    let mut out = format!("{}\n", inert(&limit.name));
    for (what, value) in lines {
        out += &format!("  {what:16} {value}\n");
    }
    out += &classes(&limit, screen);
    out += &changes(&limit.changes, limit.changed);
    out
}

fn classes(limit: &GateView, screen: Screen) -> String {
    let used = |entered: u64, shed: u64, waited: u64| entered + shed + waited > 0;
    let mut seen = limit
        .classes
        .iter()
        .filter(|class| used(class.entered, class.shed, class.waited))
        .peekable();
    if seen.peek().is_none() {
        return String::new();
    }
    let mut table = Table::new([
        Column::left("CLASS"),
        Column::right("IN"),
        Column::right("WAITED"),
        Column::right("SHED"),
        Column::right("PART"),
        Column::right("OVERLOAD"),
        Column::right("WAITED TOO LONG"),
        Column::right("DEADLINE"),
        Column::right("LINE FULL"),
    ]);
    for class in seen {
        table.row([
            inert(&class.class),
            count(class.entered),
            count(class.waited),
            count(class.shed),
            percent(class.shed_percent),
            count(class.shed_overload),
            count(class.shed_waited),
            count(class.shed_deadline),
            count(class.shed_queue_full),
        ]);
    }
    format!("\n{}", table.print(screen))
}

fn changes(changes: &[LimitChangeView], all: u64) -> String {
    if changes.is_empty() {
        return String::new();
    }
    let last = &changes[changes.len().saturating_sub(CHANGES)..];
    let mut out = format!("\nlast {} of {all} changes\n", last.len());
    for change in last {
        let reason = match change.reason.as_str() {
            "" => UNKNOWN.to_owned(),
            reason => inert(reason),
        };
        let LimitChangeView {
            timestamp,
            from,
            to,
            ..
        } = change;
        out += &format!("  {timestamp}  {from} → {to}: {reason}\n");
    }
    out
}
