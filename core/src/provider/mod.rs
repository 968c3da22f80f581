//! Providers, as data: where they are, what they want to be sent, what they can't do without.
//!
//! Most need no type of their own; what is odd about them is a setting that any client can have, or is read by every
//! client as it is. These are held by `core/tests/it/providers.rs`:
//!
//! | provider | what to set | what is odd, and taken care of |
//! |---|---|---|
//! | Auth0 | `audience` by [`AuthorizationBuilder::param`](crate::AuthorizationBuilder::param); the issuer's closing slash | nothing more |
//! | Azure AD v1 | `resource` by [`Grant::param`](crate::Grant::param) | `expires_in` is a text |
//! | Bluesky (atproto) | the client id is a URL; [`push`](crate::AuthorizationBuilder::push), [`private_key_jwt`](crate::ClientAuth::private_key_jwt), [`require_iss`](crate::Client::require_iss) | another nonce with every answer, pushed requests included |
//! | GitHub | nothing | errors in a 200, while a device is polled as well; scopes between commas; tokens that don't say when they expire |
//! | Marqeta | [`Client::relay`](crate::Client::relay); `user_token` and `audience` by `param`; `private_key_jwt` with a `kid` | the browser's proof goes through, once |
//! | Okta | `private_key_jwt` by another key than the proof's | asks every first request for a nonce |
//! | Zoom | `Grant::extension("account_credentials")` with `account_id` | nothing more |
//!
//! What no setting takes care of, and what to do about it; the last test there holds these. "By yourself" is a request of the
//! application's own, whose answer [`Client::parse_token_response`](crate::Client::parse_token_response) takes as it would any other:
//!
//! | what is odd | where | here |
//! |---|---|---|
//! | the token comes by GET | [Safaricom's Daraja](https://developer.safaricom.co.ke/apis/Authorization) | not supported (RFC 6749 §3.2 wants POST, and caches keep what comes by GET): by yourself |
//! | credentials in the query | | not supported: they would be in URLs, and so in logs. What isn't secret, such as `grant_type`, may stand in the [`Endpoint`](crate::Endpoint)'s query |
//! | answers as a form, not as JSON | GitHub, unless asked for JSON, which every request does | not supported: by yourself, with the members as JSON |
//! | the token in an envelope, or under names of its own | Oracle's lending services, `{"AuthResponse": {"Token": …}}` | by yourself, with the inner object, its members named as in RFC 6749 §5.1 |
//! | `client_key` for `client_id` | [TikTok](https://pilcrowonpaper.com/blog/dear-oauth-providers) | [`Client::param`](crate::Client::param), and [`AuthorizationBuilder::param`](crate::AuthorizationBuilder::param) for the person's URL; `client_id` goes along |
//! | proofs by ES512 or ES256K | clients of [Jack Henry](https://jackhenry.dev/authentication-framework/concepts/advanced-topics/dpop/) may | refused ([`ProofError::Alg`](crate::dpop::ProofError::Alg)): ring can't verify them. ES256 will do there as well |
//! | `htm` in lower case | [an old sample of Solid's](https://github.com/solid/authentication-panel/issues/85) | refused, since case counts; [`ProofVerifier::method`](crate::dpop::ProofVerifier::method) once more, `"get"`, lets it pass. Ours is the request's own method |

pub mod moov;
pub mod treasury_prime;
