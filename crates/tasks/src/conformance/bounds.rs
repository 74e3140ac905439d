//! What is refused.

use super::fixture::{Calls, Make, Wanted, block_on, done, request, task};
use crate::error::Error;
use crate::{Batch, Beat, Parent, Selection};
use bytes::Bytes;
use flyball_policy::queue::{Dependency, State, TaskId, Token, When};
use std::time::Duration;

/// TASK-6: a full queue says so and when to try again, loses nothing, and takes tasks again when there is room.
pub fn a_full_queue_refuses_and_forgets_nothing(make: Make<'_>) {
    let fixture = make(Wanted { max_tasks: 10 });
    fixture.put((0..9).map(|_| task("a")).collect());
    let refused = block_on(fixture.queue().enqueue(Batch {
        tasks: vec![task("a"), task("a")],
        idempotency: None,
    }));
    match refused {
        Err(Error::Full { retry_after, .. }) => assert!(retry_after > Duration::ZERO),
        other => panic!("{other:?}"),
    }
    fixture.put_one(task("a"));
    assert_eq!(block_on(fixture.queue().stats()).unwrap().refused, 1);
    let leases = fixture.get(100);
    assert_eq!(leases.len(), 10);
    fixture.end(done(leases[0].id, leases[0].token)).unwrap();
    fixture.put_one(task("a"));
}

/// TASK-4, TASK-5: bad requests are refused with what was wrong, and change nothing.
pub fn bad_requests_change_nothing(make: Make<'_>) {
    let fixture = make(Wanted::default());
    let queue = fixture.queue();
    let nobody = TaskId(1_000_000);
    let token = Token {
        epoch: 1,
        number: 1,
    };
    assert!(matches!(
        fixture.end(done(nobody, token)),
        Err(Error::UnknownTask { id }) if id == nobody
    ));
    assert!(matches!(
        block_on(queue.heartbeat(nobody, token, Beat::default())),
        Err(Error::UnknownTask { .. })
    ));
    assert!(matches!(
        block_on(queue.task(nobody)),
        Err(Error::UnknownTask { .. })
    ));
    assert!(matches!(
        block_on(queue.why(nobody)),
        Err(Error::UnknownTask { .. })
    ));
    assert!(matches!(
        block_on(queue.cancel(Selection::Ids(vec![nobody]), String::new())),
        Err(Error::UnknownTask { .. })
    ));
    let mut orphan = task("a");
    orphan.head.after = vec![Dependency {
        parent: nobody,
        when: When::Success,
    }];
    let mut huge = task("a");
    huge.payload = Bytes::from(vec![b' '; (1 << 20) + 1]);
    let mut labels = task("a");
    labels.labels = (0..65)
        .map(|number| (number.to_string().into(), "x".into()))
        .collect();
    let mut nameless = task("");
    nameless.head.kind = "".into();
    let mut twin = task("a");
    twin.reference = Some("x".into());
    let mut itself = task("a");
    itself.reference = Some("x".into());
    itself.after = vec![Parent {
        reference: "x".into(),
        when: When::Success,
    }];
    for bad in [
        vec![orphan],
        vec![huge],
        vec![labels],
        vec![nameless],
        vec![twin.clone(), twin],
        vec![itself],
        vec![task("a"); 1_001],
    ] {
        let refused = block_on(queue.enqueue(Batch {
            tasks: bad,
            idempotency: None,
        }));
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    for bad in [(0, 30), (1_001, 30), (1, 0), (1, 25 * 60 * 60)] {
        let mut request = request(bad.0);
        request.lease = Duration::from_secs(bad.1);
        let refused = block_on(queue.lease(request));
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    let id = fixture.put_one(task("a"));
    let lease = fixture.get_one();
    let wrong = Token {
        number: lease.token.number + 1,
        ..lease.token
    };
    assert!(matches!(
        fixture.end(done(id, wrong)),
        Err(Error::StaleToken { .. })
    ));
    assert_eq!(fixture.state(id), State::Running);
    let stats = block_on(queue.stats()).unwrap();
    assert_eq!(stats.by_state.values().sum::<u64>(), 1);
}

/// TASK-1: a queue that is closed refuses, and says why.
pub fn a_closed_queue_refuses(make: Make<'_>) {
    let mut fixture = make(Wanted::default());
    fixture.put_one(task("a"));
    block_on(fixture.queue().close()).unwrap();
    let refused = block_on(fixture.queue().enqueue(Batch {
        tasks: vec![task("a")],
        idempotency: None,
    }));
    assert!(matches!(refused, Err(Error::Closing)), "{refused:?}");
    let refused = block_on(fixture.queue().lease(request(1)));
    assert!(matches!(refused, Err(Error::Closing)), "{refused:?}");
    fixture.restart();
    assert_eq!(fixture.get(10).len(), 1);
}
