//! Makes the proof of a resource request, and the call around it, compared with a bare signature over as many bytes.

use std::hint::black_box;

use keybound_benches::{Case, Limit, Outcome, RingKey, Subject, Work, again};
use keybound_core::UnixTime;
use keybound_core::jose::Algorithm;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

pub(crate) fn cases(subject: &Subject) -> Outcome<Vec<Case<'_>>> {
    let algorithm = subject.key.public().algorithm();
    let case = |what, ours| -> Outcome<_> {
        Ok(Case::new("proof", format!("{algorithm}{what}"), ours).beside(floor(subject)?))
    };
    let limit = |instructions| {
        (algorithm == Algorithm::Es256).then_some(Limit {
            instructions,
            allocations: 1,
        })
    };
    // The core's part: its API takes time and entropy as arguments.
    let core = again(|| subject.call_in(&subject.shared, || (NOW, [7; 16])));
    // A driver's part as well: it reads the clock and draws 16 random bytes.
    let driver = again(|| subject.call());
    // The proof from its parts, which hashes the access token each time.
    let parts = again(|| Ok(subject.proof()?));
    Ok(vec![
        case(", time and entropy given", core)?.with_limit(limit(8_700)),
        case(" of a Token", driver)?.with_limit(limit(9_200)),
        case(" by Proof::build", parts)?.with_limit(limit(43_000)),
    ])
}

fn floor<'a>(subject: &Subject) -> Outcome<Work<'a>> {
    let ring = RingKey::new(&subject.key)?;
    let proof = subject.proof()?;
    let (message, _) = proof.as_str().rsplit_once('.').ok_or("a JWS has dots")?;
    let message = message.as_bytes().to_vec();
    Ok(again(move || {
        ring.sign(&message, |signature| {
            black_box(signature);
        })
    }))
}
