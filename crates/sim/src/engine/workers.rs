//! What workers do: ask for a grant, drain the class, give way, settle, ask again.

use std::cmp::Reverse;

use flyball_core::class::Group;
use flyball_core::id::{ClassId, ClassSet};
use flyball_policy::sched::{Algorithm, Pick};

use super::{Engine, FAULTY_FACTOR, NOBODY, OVERCOMMITTED_FACTOR, due, slot};
use crate::Error;
use crate::cpu::Running;
use crate::queue::TaskIndex;

impl Engine<'_> {
    pub(super) fn is_free(&self, worker: usize, group: Group) -> bool {
        worker != self.in_transit
            && match group {
                Group::Front => self.cpus[worker].front.is_none(),
                Group::Back => !self.cpus[worker].is_busy(),
            }
    }

    pub(super) fn any_free(&mut self, group: Group) -> Option<usize> {
        let idle = self.idle.choose(&mut self.rng);
        match group {
            Group::Front => idle.or_else(|| self.running_back.choose(&mut self.rng)),
            Group::Back => idle,
        }
    }

    pub(super) fn told_to_wait(&self, group: Group) -> bool {
        self.wake_ns[slot(group)] != u64::MAX
    }

    /// Classes that a worker's thread of `group` has work of.
    pub(super) fn open_to(&self, worker: usize, group: Group) -> ClassSet {
        self.group_classes[slot(group)] & (self.shared | self.cpus[worker].own)
    }

    /// Asks the scheduler on behalf of a free thread. Says whether it runs now.
    pub(super) fn start(&mut self, worker: usize, group: Group) -> Result<bool, Error> {
        let open = self.open_to(worker, group);
        if open.is_empty() {
            return Ok(false);
        }
        match self.scheduler.pick(self.time(), self.ready, open) {
            Pick::Run(grant) => {
                let class = grant.class;
                let task = self
                    .take(class, worker)
                    .filter(|_| open.contains(class))
                    .ok_or_else(|| self.broken("a grant for a class without work"))?;
                if self.running_back.contains(worker) {
                    self.pause_back(worker);
                }
                self.idle.remove(worker);
                if group == Group::Back {
                    self.running_back.insert(worker);
                }
                let poll_ns = self.begin_poll(worker, task);
                let running = Running {
                    grant,
                    task,
                    poll_ns,
                    used_ns: 0,
                };
                let cpu = &mut self.cpus[worker];
                match group {
                    Group::Front => cpu.front = Some(running),
                    Group::Back => cpu.back = Some(running),
                }
                Ok(true)
            }
            Pick::Wait { until } => {
                self.waits += 1;
                let until = until.as_nanos().max(self.now + 1);
                let wake = &mut self.wake_ns[slot(group)];
                *wake = until.min(*wake);
                Ok(false)
            }
            Pick::Idle => Err(self.broken("idle was answered although a class had work")),
        }
    }

    pub(super) fn pause_back(&mut self, worker: usize) {
        self.running_back.remove(worker);
        let left = self.timers.get(worker) - self.now;
        let cpu = &mut self.cpus[worker];
        cpu.back_left_ns = left;
        if let Some(back) = &cpu.back {
            self.metrics[back.grant.class.index()].preemptions += 1;
        }
    }

    /// Starts the poll of a task that has been taken; answers its CPU time.
    pub(super) fn begin_poll(&mut self, worker: usize, index: TaskIndex) -> u64 {
        let task = &mut self.tasks[index as usize];
        let (class, key, memory) = (task.class, task.key, task.memory);
        let mut work = task.poll_work_ns;
        let waited_ns = self.now - task.ready_ns;
        let holder = std::mem::replace(&mut task.holder, worker as u32);
        if holder != worker as u32 {
            self.hold(holder, worker as u32, memory);
        }
        let cpu = &mut self.cpus[worker];
        if let (Some(key), Some(keys)) = (key, self.config.keys) {
            if !cpu.warm_up(key) {
                work += keys.cold_ns;
                self.cold_starts += 1;
            }
            self.placement.key_ran(key, worker);
        }
        let mut factor = cpu.inverse_speed;
        if cpu.memory_used > cpu.memory {
            factor *= OVERCOMMITTED_FACTOR;
            self.overcommitted += 1;
        }
        if cpu.faulty {
            factor *= FAULTY_FACTOR;
        }
        let poll_ns = ((work as f64 * factor) as u64).max(1);
        self.metrics[class.index()].wait.record(waited_ns);
        let group = self.config.classes[class.index()].group;
        self.placement.started(worker, slot(group));
        self.timers.set(worker, self.now + poll_ns);
        poll_ns
    }

    /// Takes a task of `class` for `worker`: the older of its own and the untagged first one, else somebody else's.
    pub(super) fn take(&mut self, class: ClassId, worker: usize) -> Option<TaskIndex> {
        self.admit_late(class);
        let queue = &mut self.queues[class.index()];
        let ready_ns = |task: TaskIndex| self.tasks[task as usize].ready_ns;
        let own = queue.peek_tagged(worker).map(ready_ns);
        let common = queue.peek().map(ready_ns);
        let (taken, tagged_for) = match (own, common) {
            (Some(own), common) if common.is_none_or(|common| own <= common) => {
                (queue.pop_tagged(worker), Some(worker))
            }
            (_, Some(_)) => (queue.pop(), None),
            _ if self.config.stealing => match queue.steal(&mut self.rng) {
                Some((victim, task)) => {
                    self.steals += 1;
                    (Some(task), Some(victim))
                }
                None => (None, None),
            },
            _ => (None, None),
        };
        if let Some(holder) = tagged_for {
            self.after_untag(class, holder);
        }
        self.refresh(class);
        taken
    }

    /// Moves futures whose turn has come behind those that are queued; if nothing else is queued, the first one's has.
    pub(super) fn admit_late(&mut self, class: ClassId) {
        let queue = &mut self.queues[class.index()];
        let fair = &mut self.fair[class.index()];
        while let Some(virtual_ns) = queue.first_late() {
            if !fair.is_eligible(virtual_ns) {
                if !queue.only_late() {
                    return;
                }
                fair.catch_up(virtual_ns);
            }
            if let Some(index) = queue.pop_late() {
                let task = &self.tasks[index as usize];
                let spec = &self.config.classes[class.index()];
                queue.push(due(task, self.now, spec, self.algorithm), index);
            }
        }
    }

    pub(super) fn after_untag(&mut self, class: ClassId, worker: usize) {
        let group = self.config.classes[class.index()].group;
        self.placement.untagged(worker, slot(group));
        if self.queues[class.index()].tagged_for(worker) == 0 {
            self.cpus[worker].own.remove(class);
        }
    }

    /// The active thread of a CPU has finished its poll: it goes on inside its slice, or settles and the CPU looks around.
    pub(super) fn poll_ended(&mut self, worker: usize) -> Result<(), Error> {
        let preempting = self.algorithm == Algorithm::Priority;
        let Some(mut running) = self.cpus[worker].active().take() else {
            return Err(self.broken("an event of a CPU that runs nothing"));
        };
        self.timers.clear(worker);
        self.running_back.remove(worker);
        self.in_transit = worker;
        let class = running.grant.class;
        running.used_ns += running.poll_ns;
        self.cpus[worker].busy_ns += running.poll_ns;
        self.metrics[class.index()].service_ns += running.poll_ns;
        self.windows.served(class, running.poll_ns);
        let group = self.config.classes[class.index()].group;
        self.after_poll(worker, group, running.task, running.poll_ns)?;

        self.in_transit = usize::MAX;
        let outranked = preempting && !(self.higher[class.index()] & self.shared).is_empty()
            || group == Group::Back
                && !self.open_to(worker, Group::Front).is_empty()
                && !self.told_to_wait(Group::Front);
        let open = (self.shared | self.cpus[worker].own).contains(class);
        if running.used_ns < running.grant.slice_ns
            && !outranked
            && open
            && let Some(task) = self.take(class, worker)
        {
            running.task = task;
            running.poll_ns = self.begin_poll(worker, task);
            *self.thread(worker, group) = Some(running);
            if group == Group::Back {
                self.running_back.insert(worker);
            }
            return Ok(());
        }
        self.scheduler
            .settle(self.time(), running.grant, running.used_ns);
        self.look_around(worker)
    }

    pub(super) fn thread(&mut self, worker: usize, group: Group) -> &mut Option<Running> {
        match group {
            Group::Front => &mut self.cpus[worker].front,
            Group::Back => &mut self.cpus[worker].back,
        }
    }

    /// Ends a poll for its task: done, failed and to be repeated, asleep, or ready again.
    pub(super) fn after_poll(
        &mut self,
        worker: usize,
        group: Group,
        index: TaskIndex,
        poll_ns: u64,
    ) -> Result<(), Error> {
        let failed = self.cpus[worker].faulty && self.rng.below(10) != 0;
        self.placement.ended(worker, slot(group), poll_ns, failed);
        let task = &mut self.tasks[index as usize];
        let class = task.class;
        if task.polls > 1 {
            let queued = self.queues[class.index()].len();
            let fair = &mut self.fair[class.index()];
            task.virtual_ns = fair.charge(task.virtual_ns, poll_ns, queued + 1);
        }
        if failed {
            self.metrics[class.index()].failed_attempts += 1;
            task.polls_left = task.polls;
            return self.make_ready(index);
        }
        task.polls_left -= 1;
        if task.polls_left > 0 {
            let pause_ns = self.rng.exp(self.config.mean_size_ns as f64) as u64;
            self.sleeper_count += 1;
            self.sleepers
                .push(Reverse((self.now + pause_ns, self.sleeper_count, index)));
            return Ok(());
        }
        self.end(index)
    }

    pub(super) fn end(&mut self, index: TaskIndex) -> Result<(), Error> {
        let task = &self.tasks[index as usize];
        let class = task.class;
        let (word, bit) = ((task.number / 64) as usize, task.number % 64);
        if self.ended[word] >> bit & 1 == 1 {
            return Err(self.broken("a task ended twice"));
        }
        self.ended[word] |= 1 << bit;
        let latency_ns = self.now - task.arrived_ns;
        self.latency.record(latency_ns);
        if let Some(latencies) = &mut self.latencies {
            latencies.push(latency_ns);
        }
        let metrics = &mut self.metrics[class.index()];
        metrics.latency.record(latency_ns);
        metrics.completed += 1;
        let (holder, memory) = (task.holder, task.memory);
        self.hold(holder, NOBODY, memory);
        self.free.push(index);
        self.live -= 1;
        self.done += 1;
        match self.workload.replace(class.index() as u8) {
            Some(draw) => self.arrival(draw),
            None => Ok(()),
        }
    }

    /// Hands the memory of a task from one worker to another.
    pub(super) fn hold(&mut self, from: u32, to: u32, memory: u64) {
        for (worker, up) in [(from, false), (to, true)] {
            if let Some(cpu) = self.cpus.get_mut(worker as usize) {
                cpu.memory_used = if up {
                    cpu.memory_used + memory
                } else {
                    cpu.memory_used - memory
                };
                let free = cpu.memory.saturating_sub(cpu.memory_used);
                self.placement.memory(worker as usize, free);
            }
        }
    }

    /// What a CPU does next: its front thread asks, else its back thread goes on or asks, else it is idle.
    pub(super) fn look_around(&mut self, worker: usize) -> Result<(), Error> {
        if self.cpus[worker].front.is_none() && self.start(worker, Group::Front)? {
            return Ok(());
        }
        if self.cpus[worker].back.is_some() {
            let left = self.cpus[worker].back_left_ns;
            self.timers.set(worker, self.now + left);
            self.running_back.insert(worker);
            return Ok(());
        }
        if !self.start(worker, Group::Back)? {
            self.idle.insert(worker);
        }
        Ok(())
    }

    /// Threads that were told to wait ask again.
    pub(super) fn wake(&mut self) -> Result<(), Error> {
        for group in [Group::Front, Group::Back] {
            if self.wake_ns[slot(group)] <= self.now {
                self.wake_ns[slot(group)] = u64::MAX;
                self.dispatch(group)?;
            }
        }
        Ok(())
    }

    /// Starts free threads of a group as long as there is work for them and the scheduler lets them.
    pub(super) fn dispatch(&mut self, group: Group) -> Result<(), Error> {
        let common = self.group_classes[slot(group)];
        while !(self.shared & common).is_empty() {
            let Some(worker) = self.any_free(group) else {
                return Ok(());
            };
            if !self.start(worker, group)? {
                return Ok(());
            }
        }
        if !self.config.stealing && self.placement.ever_places() {
            for worker in 0..self.cpus.len() {
                if self.is_free(worker, group) && !(self.cpus[worker].own & common).is_empty() {
                    self.start(worker, group)?;
                }
            }
        }
        Ok(())
    }
}
