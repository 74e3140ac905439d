//! The command that runs again what failed, for pasting.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use flyball_core::units::format_duration;

use super::options::{Halt, Jobs, KILL_AFTER};
use super::plan::{Plan, SEPARATORS, joblog_path};
use crate::quote;
use crate::template::Values;

/// Bytes of inputs that the command which reruns may hold; a longer line is of no use in a terminal.
pub(super) const RERUN_BYTES_MAX: usize = 16 * 1024;

/// Builds it: from the joblog where there is one, else from the inputs that failed. `None` where they cannot be typed.
pub(super) fn command(plan: &Plan, again: Option<&Vec<(u64, Values)>>) -> Option<String> {
    let mut words: Vec<OsString> = vec!["flyball".into(), "run".into()];
    let named_inputs = plan.options.results.is_some() || plan.options.pipe;
    match (&plan.options.joblog, named_inputs) {
        (Some(log), false) => {
            options(plan, false, &mut words);
            words.push("--retry-failed".into());
            words.push("--joblog".into());
            words.push(joblog_path(log).into());
        }
        // Only the whole run knows what the inputs were.
        (Some(_), true) => return None,
        (None, _) => {
            let again = again.filter(|_| !plan.options.pipe)?;
            options(plan, true, &mut words);
            inputs(plan, again, &mut words)?;
        }
    }
    Some(quote::line(words.iter().map(|word| word.as_bytes())))
}

/// What to do where there is no such command.
pub(super) fn without_one(plan: &Plan) -> String {
    match &plan.options.joblog {
        Some(log) => format!(
            "again, only what failed: the same command with the same inputs, and --resume-failed --joblog {}",
            quote::readable(joblog_path(log).as_os_str().as_bytes())
        ),
        None => "no command to paste that reruns them: their inputs do not fit a command line; with --joblog there is one".to_owned(),
    }
}

/// The options of the run that change what is done; `making`: those that make commands of inputs, too. Left out are those that chose the inputs, which are
/// known now, their order, and what is only shown.
fn options(plan: &Plan, making: bool, words: &mut Vec<OsString>) {
    let options = &plan.options;
    let mut flag = |flag: &str| words.push(flag.into());
    if options.keep_order {
        flag("-k");
    }
    if options.tag {
        flag("--tag");
    }
    if options.line_buffer {
        flag("--line-buffer");
    }
    if options.ungroup {
        flag("-u");
    }
    if options.bounds.alone {
        flag("--alone");
    }
    let mut option = |flag: &str, value: OsString| {
        words.push(flag.into());
        words.push(value);
    };
    if options.jobs != Jobs::Auto {
        option("-j", options.jobs.to_string().into());
    }
    if options.class != "normal" {
        option("--class", options.class.clone().into());
    }
    if let (Some(text), true) = (&options.tagstring, making) {
        option("--tagstring", text.clone());
    }
    if let Some(timeout) = options.timeout {
        option("--timeout", format_duration(timeout).into());
    }
    if options.kill_after != KILL_AFTER {
        option("--kill-after", format_duration(options.kill_after).into());
    }
    if let Some(retries) = options.retries {
        option("--retries", retries.to_string().into());
    }
    if let Some(delay) = options.retry_delay {
        option("--retry-delay", format_duration(delay).into());
    }
    if options.halt != Halt::Never {
        option("--halt", options.halt.to_string().into());
    }
    if let Some(delay) = options.delay {
        option("--delay", format_duration(delay).into());
    }
    if let Some(nice) = options.nice {
        option("--nice", nice.to_string().into());
    }
    if let Some(folder) = &options.workdir {
        option("--workdir", folder.into());
    }
    for variable in &options.env {
        option("--env", variable.clone());
    }
    for (flag, value) in options.bounds.words() {
        option(flag, value.into());
    }
    if let (Some(folder), true) = (&options.results, making) {
        option("--results", folder.clone());
    }
    if let (Some(text), true) = (&options.replace, making) {
        option("-I", text.clone());
    }
}

/// The command and the inputs: each command gets those that it had.
fn inputs(plan: &Plan, again: &[(u64, Values)], words: &mut Vec<OsString>) -> Option<()> {
    let mut again: Vec<&(u64, Values)> = again.iter().collect();
    again.sort_by_key(|(number, _)| *number);
    let most = again
        .iter()
        .map(|(_, values)| values.len())
        .max()
        .unwrap_or(0);
    let linked = plan.combined && plan.each == 1;
    if linked && again.iter().any(|(_, values)| values.len() != most) {
        return None;
    }
    if linked && !plan.names.is_empty() {
        words.push("--header".into());
        words.push(":".into());
    }
    // All have as many, except the last under -n and any under -X.
    if !linked && most > 1 {
        if plan.options.xargs {
            words.push("-X".into());
            if let Some(bytes) = plan.options.max_chars {
                words.push("-s".into());
                words.push(bytes.to_string().into());
            }
        } else if plan.options.colsep.is_some() {
            return None;
        } else {
            words.push("-n".into());
            words.push(most.to_string().into());
        }
    }
    if plan
        .command
        .first()
        .is_some_and(|word| word.as_bytes().starts_with(b"-"))
    {
        words.push("--".into());
    }
    words.extend(plan.command.iter().cloned());
    if plan.once {
        return Some(());
    }
    let values = || again.iter().flat_map(|(_, values)| values);
    // It would be read as a separator, or end at the NUL.
    let untypable = |value: &OsString| {
        SEPARATORS.iter().any(|separator| value == separator) || value.as_bytes().contains(&0)
    };
    if values().any(untypable) {
        return None;
    }
    if !linked {
        words.push(":::".into());
        words.extend(values().cloned());
        return Some(());
    }
    for column in 0..most {
        words.push(if column == 0 { ":::" } else { ":::+" }.into());
        words.extend(plan.names.get(column).cloned());
        words.extend(again.iter().map(|(_, values)| values[column].clone()));
    }
    Some(())
}
