//! Breakers, retries with a budget, bulkheads and hedged calls for programs: the policies of `flyball_policy::limit` behind a lock and a
//! clock.
