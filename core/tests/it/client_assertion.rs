//! Clients that authenticate themselves by a signature, beside the proof or without one.

use std::collections::BTreeMap;

use keybound_core::driver::{ServerState, Step};
use keybound_core::jose::{Algorithm, PublicJwk, Signature, SigningKey};
use keybound_core::{Cause, Client, ClientAuth, Error, Grant, Issuer, Secret, TokenType};
use serde_json::{Value, json};

use crate::peer::{Asks, ISSUER, Peer, ScriptedResponse, json_response, params, with_header};
use crate::rustcrypto::{Theirs, decode, ours, parse, verifies};
use crate::world::{START, TOKEN_URL, World, endpoint};

/// A world whose client signs by this key, and the client.
fn world(peer: Peer, key: SigningKey) -> (World, Client) {
    let mut world = World::with(peer);
    let auth = ClientAuth::private_key_jwt("app", key.public().with_kid("key-1")).unwrap();
    let mut client = Client::new(endpoint(TOKEN_URL), auth)
        .revocation_endpoint(endpoint("https://as.example/revoke"));
    if world.peer.bound {
        client = client.dpop(world.key.public().clone());
    }
    world.client_key = Some(key);
    (world, client)
}

/// Header and claims of the assertion among these parameters, once its signature holds.
fn verified(params: &BTreeMap<String, String>, key: &PublicJwk) -> (Value, Value) {
    assert_eq!(
        params["client_assertion_type"],
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    );
    assert_eq!(params["client_id"], "app");
    let (input, signature) = params["client_assertion"].rsplit_once('.').unwrap();
    let (header, claims) = input.split_once('.').unwrap();
    let (header, claims) = (parse(header), parse(claims));
    let jwk: Value = key.to_json().parse().unwrap();
    assert!(verifies(
        header["alg"].as_str().unwrap(),
        &jwk,
        input.as_bytes(),
        &decode(signature)
    ));
    (header, claims)
}

#[test]
fn rustcrypto_verifies_the_assertion_by_every_algorithm_beside_a_proof_by_another_key() {
    for algorithm in Algorithm::ALL {
        let key = ours(*algorithm);
        let public = key.public().clone();
        let (mut world, client) = world(Peer::bound(), key);
        let token = world
            .run(client.token(Grant::client_credentials()).unwrap())
            .unwrap();
        assert_eq!(token.key(), Some(world.key.public()));
        let request = &world.peer.requests[0];
        let (header, claims) = verified(&request.params, &public);
        assert_eq!(
            header,
            json!({ "typ": "JWT", "alg": algorithm.as_str(), "kid": "key-1" })
        );
        let jti = claims["jti"].as_str().unwrap();
        assert!(decode(jti).len() == 16 && Some(jti) != request.jti.as_deref());
        let (iat, exp) = (START.as_secs(), START.as_secs() + 60);
        assert_eq!(
            claims,
            json!({ "iss": "app", "sub": "app", "aud": TOKEN_URL, "jti": jti, "iat": iat, "exp": exp })
        );
        assert!(
            !request.headers.contains_key("authorization")
                && !request.params.contains_key("client_secret")
        );
    }
}

#[test]
fn every_request_has_an_assertion_of_its_own_a_nonce_retry_included() {
    let key = ours(Algorithm::Es256);
    let public = key.public().clone();
    let (mut world, client) = world(Peer::bound(), key);
    world.peer.authorization_server.asks = Asks::Always;
    let token = world
        .run(client.token(Grant::client_credentials()).unwrap())
        .unwrap();
    world
        .run(client.revoke(token.access_token().clone(), None).unwrap())
        .unwrap();
    let jtis: Vec<Value> = world
        .peer
        .requests
        .iter()
        .map(|request| verified(&request.params, &public).1["jti"].clone())
        .collect();
    assert_eq!(jtis.len(), 3);
    assert!(jtis[0] != jtis[1] && jtis[1] != jtis[2] && jtis[0] != jtis[2]);
}

#[test]
fn without_a_proof_one_signature_is_enough_and_a_key_without_kid_names_none() {
    let key = ours(Algorithm::Es256);
    let (mut world, _) = world(Peer::bearer(), key);
    let public = world.client_key.as_ref().unwrap().public().clone();
    let auth = ClientAuth::private_key_jwt("app", public.clone()).unwrap();
    let token = world
        .run(
            Client::new(endpoint(TOKEN_URL), auth)
                .token(Grant::client_credentials())
                .unwrap(),
        )
        .unwrap();
    assert_eq!(token.token_type(), &TokenType::Bearer);
    let (header, _) = verified(&world.peer.requests[0].params, &public);
    assert_eq!(header, json!({ "typ": "JWT", "alg": "ES256" }));
}

#[test]
fn the_assertion_is_for_the_issuer_where_it_is_known_and_for_whom_the_application_says_before_all()
{
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let auth = ClientAuth::private_key_jwt("app", key.public().clone()).unwrap();
    let client = |auth: &ClientAuth| {
        Client::new(endpoint(TOKEN_URL), auth.clone())
            .revocation_endpoint(endpoint("https://as.example/revoke"))
    };
    let issuer = || Issuer::https(ISSUER).unwrap();
    let chosen = auth.clone().audience("urn:as").unwrap();
    for (client, audience) in [
        (client(&auth), TOKEN_URL),
        (client(&auth).issuer(issuer()), ISSUER),
        (client(&chosen), "urn:as"),
        (client(&chosen).issuer(issuer()), "urn:as"),
    ] {
        let mut world = World::with(Peer::bearer());
        world.client_key = Some(SigningKey::from_jwk(key.to_jwk().expose().as_bytes()).unwrap());
        world
            .run(client.token(Grant::client_credentials()).unwrap())
            .unwrap();
        world
            .run(client.revoke(Secret::new("t"), None).unwrap())
            .unwrap();
        for request in &world.peer.requests {
            assert_eq!(verified(&request.params, key.public()).1["aud"], audience);
        }
    }
    assert_eq!(
        auth.audience("").map(drop).unwrap_err().argument(),
        "audience"
    );
    let none = ClientAuth::none("app").unwrap();
    assert_eq!(
        none.audience("x").map(drop).unwrap_err().argument(),
        "audience"
    );
    assert_eq!(
        ClientAuth::private_key_jwt("", key.public().clone())
            .map(drop)
            .unwrap_err()
            .argument(),
        "client_id"
    );
}

#[test]
fn each_of_two_signatures_says_which_key_it_is_for_and_one_may_be_elsewhere() {
    let elsewhere = Theirs::new(Algorithm::Es384);
    let client_key = PublicJwk::from_json(elsewhere.jwk().to_string().as_bytes())
        .unwrap()
        .with_kid("hsm");
    let (mut world, _) = world(Peer::bound(), ours(Algorithm::Es256));
    let client = Client::new(
        endpoint(TOKEN_URL),
        ClientAuth::private_key_jwt("app", client_key.clone()).unwrap(),
    )
    .dpop(world.key.public().clone());
    let (context, operation) = (world.context(), client.token(Grant::client_credentials()));
    let mut step = world.shared.start(operation.unwrap(), context);
    let mut asked = Vec::new();
    let token = loop {
        let context = world.context();
        step = match step {
            Step::Sign(signing) => {
                let wanted = &signing.effect;
                asked.push(wanted.key().clone());
                let signature = if wanted.key().is_same_key(&client_key) {
                    assert_eq!(wanted.key().kid(), Some("hsm"));
                    Signature::from_der(Algorithm::Es384, &elsewhere.sign_der(wanted.message()))
                        .unwrap()
                } else {
                    world.key.sign(wanted).unwrap()
                };
                signing.signed(Ok(signature), &mut world.shared, context)
            }
            Step::Send(sent) => match world.peer.ask(&sent.effect.request, START) {
                ScriptedResponse::Response(answer) => {
                    sent.received(&answer, &mut world.shared, context)
                }
                ScriptedResponse::NoResponse(_) => panic!("no answer"),
            },
            Step::Done(token) => break token,
            _ => panic!("there is nothing else to do"),
        };
    };
    assert!(asked == [client_key.clone(), world.key.public().clone()]);
    assert!(token.is_ok());
    verified(&world.peer.requests[0].params, &client_key);
}

#[test]
fn a_signature_by_the_wrong_one_of_two_keys_is_refused() {
    let (mut world, client) = world(Peer::bound(), ours(Algorithm::Es384));
    world.client_key = None;
    let operation = client.token(Grant::client_credentials()).unwrap();
    assert!(matches!(world.run(operation), Err(Error::Signer(_))));
    assert!(world.peer.requests.is_empty());
}

#[test]
fn the_assertion_has_the_time_of_the_servers_clock_once_that_is_known() {
    let client_key = ours(Algorithm::Es256);
    let mut world = World::with(Peer::bound());
    let auth = ClientAuth::private_key_jwt("app", client_key.public().clone()).unwrap();
    let client = Client::new(endpoint(TOKEN_URL), auth).dpop(world.key.public().clone());
    let public = client_key.public().clone();
    world.client_key = Some(client_key);
    let refusal = json_response(400, &json!({ "error": "invalid_dpop_proof" }));
    let refusal = with_header(refusal, "date", "Tue, 14 Nov 2023 21:13:20 GMT");
    let context = world.context();
    let operation = client.token(Grant::client_credentials()).unwrap();
    let mut step = world.shared.start(operation, context);
    let mut iats = Vec::new();
    while iats.len() < 2 {
        let context = world.context();
        step = match step {
            Step::Sign(signing) => {
                let signature = world.sign(&signing.effect).map_err(Cause::new);
                signing.signed(signature, &mut world.shared, context)
            }
            Step::Send(sent) => {
                let params = params(&sent.effect.request);
                iats.push(verified(&params, &public).1["iat"].clone());
                sent.received(&refusal, &mut world.shared, context)
            }
            _ => panic!("it goes on"),
        };
    }
    assert_eq!(iats, [START.as_secs(), START.as_secs() - 3600]);
}

#[test]
fn a_wrong_clock_is_corrected_once_for_an_assertion_as_well_and_forgotten_where_that_is_no_help() {
    let refused = |date: &str| {
        let refusal = json_response(401, &json!({ "error": "invalid_client" }));
        with_header(refusal, "date", date)
    };
    let an_hour_ago = "Tue, 14 Nov 2023 21:13:20 GMT";
    let key = ours(Algorithm::Es256);
    let public = key.public().clone();
    let (mut world, client) = world(Peer::bearer(), key);
    let iat = |world: &World, at: usize| {
        verified(&world.peer.requests[at].params, &public).1["iat"]
            .as_u64()
            .unwrap()
    };
    let token = |world: &mut World| world.run(client.token(Grant::client_credentials()).unwrap());

    world
        .peer
        .script
        .push_back(ScriptedResponse::Response(refused(an_hour_ago)));
    token(&mut world).unwrap();
    assert_eq!(
        (iat(&world, 0), iat(&world, 1)),
        (START.as_secs(), START.as_secs() - 3600)
    );
    // It is known from now on.
    token(&mut world).unwrap();
    assert_eq!(
        (iat(&world, 2), world.peer.requests.len()),
        (START.as_secs() - 3600, 3)
    );

    // The same clock again says that it was something else, once what was learned is old.
    world.shared.set_server_state(ServerState::new());
    world
        .peer
        .script
        .extend([refused(an_hour_ago), refused(an_hour_ago)].map(ScriptedResponse::Response));
    assert!(token(&mut world).is_err());
    assert_eq!(world.peer.requests.len(), 5);
    token(&mut world).unwrap();
    assert_eq!(iat(&world, 5), START.as_secs());

    // Where both clocks agree, or another code is given, there is nothing to correct.
    for refusal in [
        refused("Tue, 14 Nov 2023 22:13:20 GMT"),
        json_response(401, &json!({ "error": "invalid_client" })),
    ] {
        world
            .peer
            .script
            .push_back(ScriptedResponse::Response(refusal));
        assert!(token(&mut world).is_err());
    }
    let other = json_response(400, &json!({ "error": "invalid_grant" }));
    world
        .peer
        .script
        .push_back(ScriptedResponse::Response(with_header(
            other,
            "date",
            an_hour_ago,
        )));
    assert!(token(&mut world).is_err());
    assert_eq!(world.peer.requests.len(), 9);
}
