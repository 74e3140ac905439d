//! The ways in which tasks run here besides handlers: commands and calls of URLs, as far as they were built in and are available.

use crate::run::context::Live;
use crate::run::drive::Body;
use crate::run::ended::Ended;
use crate::run::hub::Hub;
use crate::run::settings::HealthCheck;
use crate::task::{CommandSpec, HttpSpec};
use flyball_executor::Class;
use flyball_policy::queue::TaskId;
use std::sync::Arc;
use std::time::Duration;

/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(crate) struct Ways {
    #[cfg(feature = "command")]
    pub(crate) commands: Option<super::command::Commands>,
    #[cfg(feature = "http")]
    pub(crate) http: Option<super::http::Caller>,
}

#[cfg_attr(
    not(all(feature = "command", feature = "http")),
    allow(
        unused_variables,
        clippy::unused_self,
        clippy::unused_async,
        reason = "a way that was not built in has nothing to do"
    )
)]
impl Ways {
    /// Commands that could start now; `None`: none ever.
    pub(crate) fn free_processes(&self) -> Option<u32> {
        #[cfg(feature = "command")]
        return self.commands.as_ref().map(|commands| commands.free());
        #[cfg(not(feature = "command"))]
        None
    }

    pub(crate) fn calls_urls(&self) -> bool {
        #[cfg(feature = "http")]
        return self.http.is_some();
        #[cfg(not(feature = "http"))]
        false
    }

    /// The lowest priority of a class with a command that runs and could be paused.
    pub(crate) fn weakest_running(&self) -> Option<u8> {
        #[cfg(feature = "command")]
        return self.commands.as_ref()?.weakest();
        #[cfg(not(feature = "command"))]
        None
    }

    /// The highest priority of paused commands, while there is a slot for one.
    pub(crate) fn next_back(&self) -> Option<u8> {
        #[cfg(feature = "command")]
        return self.commands.as_ref()?.next_back();
        #[cfg(not(feature = "command"))]
        None
    }

    /// Lets paused commands go on for which there are slots again.
    pub(crate) fn resume(&self, hub: &Hub) {
        #[cfg(feature = "command")]
        if let Some(commands) = &self.commands {
            commands.resume(hub);
        }
    }

    pub(crate) fn command(
        &self,
        hub: &Arc<Hub>,
        class: &Class,
        live: &Arc<Live>,
        command: CommandSpec,
        timeout: Duration,
        instead: bool,
    ) -> Body {
        #[cfg(feature = "command")]
        if let Some(commands) = &self.commands {
            return commands.run(hub, class, live, command, timeout, instead);
        }
        Box::pin(async { Ended::returned(None) })
    }

    pub(crate) fn call(&self, live: &Arc<Live>, call: HttpSpec) -> Body {
        #[cfg(feature = "http")]
        if let Some(http) = &self.http {
            return http.call(Arc::clone(live), call);
        }
        Box::pin(async { Ended::returned(None) })
    }

    /// Tasks after this one with outputs, the first few.
    pub(crate) fn outputs_after(&self, after: TaskId, most: usize) -> Vec<TaskId> {
        #[cfg(feature = "command")]
        if let Some(commands) = &self.commands {
            let ids = commands.outputs().tasks().into_iter();
            return ids.filter(|id| *id > after).take(most).collect();
        }
        Vec::new()
    }

    pub(crate) fn forget_output(&self, id: TaskId) {
        #[cfg(feature = "command")]
        if let Some(commands) = &self.commands {
            commands.outputs().remove(id);
        }
    }

    /// Asks a dependency whether it is well.
    pub(crate) async fn check(&self, check: HealthCheck) -> Result<(), Box<str>> {
        let asked = async {
            match check {
                #[cfg(feature = "http")]
                HealthCheck::Url(url) if self.http.is_some() => match &self.http {
                    Some(http) => http.check(&url).await,
                    None => Ok(()),
                },
                #[cfg(feature = "command")]
                HealthCheck::Command(argv) if self.commands.is_some() => match &self.commands {
                    Some(commands) => commands.check(argv).await,
                    None => Ok(()),
                },
                // Nobody can ask: tasks themselves find out.
                _ => Ok(()),
            }
        };
        tokio::time::timeout(CHECK_TIMEOUT, asked)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {CHECK_TIMEOUT:?}").into()))
    }
}
