//! The memory per session and per server: bytes allocated and not freed.

use keybound_benches::{Outcome, People, Servers, Subject, held};

use crate::chart::{Chart, Line};

pub(crate) fn items(subject: &Subject) -> Outcome<Chart> {
    let steps = [1, 64, 1_000, 10_000, 100_000];
    let (mut sessions, mut servers) = (Vec::new(), Vec::new());
    // The memory that all sessions share, mainly the transport.
    let (shared, _pool) = held(|| Ok(People::with_sessions(subject, 0)?.into_pool()))?;
    for step in steps {
        let count = usize::try_from(step)?;
        let (bytes, _pool) = held(|| Ok(People::with_sessions(subject, count)?.into_pool()))?;
        sessions.push(Some((bytes - shared) / f64::from(step)));
        let (bytes, _shared) = held(|| Ok(Servers::known_to(subject, count)?.into_shared()))?;
        servers.push(Some(bytes / f64::from(step)));
    }
    Ok(Chart {
        title: "Memory",
        unit: "bytes for each",
        steps_are: "how many there are",
        steps: steps.to_vec(),
        lines: vec![
            Line("a session in a pool, beyond its token".to_owned(), sessions),
            Line("a server".to_owned(), servers),
        ],
    })
}
