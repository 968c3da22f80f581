//! Making the proof of a resource request, against a bare signature over as many bytes.

use keybound_core::dpop::Proof;
use keybound_core::{Ambient, Error, UnixTime};

use crate::Outcome;
use crate::floor::RingKey;
use crate::paired::{Case, Work, done};
use crate::subject::Subject;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

pub(crate) fn cases(subject: &Subject) -> Outcome<[Case<'_>; 3]> {
    let algorithm = subject.key.public().algorithm();
    Ok([
        // What the core does: its contract has time and entropy as arguments.
        Case {
            group: "proof",
            name: format!("{algorithm}, time and entropy given"),
            ours: Box::new(|| done(subject.authorized_in(Ambient::new(NOW, [7; 16]))?)),
            floor: floor(subject)?,
        },
        // What a driver does, who reads the clock and draws 16 random bytes.
        Case {
            group: "proof",
            name: format!("{algorithm} of a Token"),
            ours: Box::new(|| done(subject.authorized()?)),
            floor: floor(subject)?,
        },
        // From the parts, which hashes the access token each time.
        Case {
            group: "proof",
            name: format!("{algorithm} by Proof::build"),
            ours: Box::new(|| done(built(subject)?)),
            floor: floor(subject)?,
        },
    ])
}

fn built(subject: &Subject) -> Result<Proof, Error> {
    Proof::build(subject.key.public(), &subject.method, &subject.uri)?
        .nonce(&subject.nonce)
        .access_token(subject.token.access_token())
        .prepare(subject.ambient())
        .finish(|request| subject.key.sign(request))
}

fn floor<'a>(subject: &Subject) -> Outcome<Work<'a>> {
    let ring = RingKey::new(&subject.key)?;
    let proof = built(subject)?;
    let (message, _) = proof.as_str().rsplit_once('.').ok_or("a JWS has dots")?;
    let message = message.as_bytes().to_vec();
    Ok(Box::new(move || ring.sign(&message, |signature| done(signature))?))
}
