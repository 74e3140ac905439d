//! How the number of workers is found.

use crate::Engine;
use crate::knobs;
use crate::view::{ForecastView, GroupSizing, PoolSizing, Time};
use flyball_core::class::Group;
use flyball_policy::sched::pool::ForecastState;

fn forecast(state: &ForecastState) -> ForecastView {
    ForecastView {
        horizon_ms: state.horizon.as_secs_f64() * 1e3,
        followed: state.is_trusted,
        judged: state.judged,
        mistake: state.mistakes.map(|(mistake, _)| mistake),
        mistake_of_last_value: state.mistakes.map(|(_, last)| last),
    }
}

impl Engine {
    /// How many workers there are, how that number is found, and what was decided about it last.
    pub fn pool_sizing(&self) -> PoolSizing {
        let config = self.config();
        let sizing = config.worker_pool.sizing;
        let groups = [
            (Group::Front, "front", knobs::FRONT),
            (Group::Back, "back", knobs::BACK),
        ];
        let views = self.knobs();
        let group = |(group, name, knob): (Group, &str, &str)| {
            let knob = views.iter().find(|view| view.name == knob)?;
            let state = self.shared.sizer_state(group);
            let known = state.is_some();
            let state = state.unwrap_or_default();
            Some(GroupSizing {
                group: name.to_owned(),
                workers: knob.value as u32,
                min: knob.min as u32,
                max: knob.max as u32,
                pinned: knob.pinned.clone(),
                load: state.load,
                offered_workers: state.offered,
                foreseen_workers: state.foreseen,
                forecast: state.forecast.as_ref().map(forecast),
                stage: state.stage.map(str::to_owned),
                best: state.best,
                trying: state.trying,
                trials: state.trials,
                last_trial: state.verdict,
                next_trial: state.again_at.map(Time::of),
                patience: known.then_some(state.patience),
                last_decision: self.shared.decisions.last_of(&knob.name),
            })
        };
        PoolSizing {
            sizing: config.performance.enabled.then(|| sizing.to_string()),
            groups: groups.into_iter().filter_map(group).collect(),
        }
    }
}
