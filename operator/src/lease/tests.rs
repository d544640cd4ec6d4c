use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::*;

/// An API server with one Lease.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Value>,
    version: u64,
}

impl Server {
    fn election(&self, identity: &str) -> Election {
        self.election_on(identity, &Arc::default())
    }

    /// An operator that hears nothing but errors while `is_cut_off`.
    fn election_on(&self, identity: &str, is_cut_off: &Arc<AtomicBool>) -> Election {
        let is_cut_off = Arc::clone(is_cut_off);
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let server = self.clone();
        tokio::spawn(async move {
            while let Some((request, reply)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let body = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
                let (code, answer) = if is_cut_off.load(Ordering::SeqCst) {
                    failure(StatusCode::INTERNAL_SERVER_ERROR)
                } else {
                    server.answer(&parts.method, body)
                };
                let body = Body::from(answer.to_string().into_bytes());
                reply.send_response(Response::builder().status(code).body(body).unwrap());
            }
        });
        Election::new(Client::new(service, "default"), "system", "operator", identity)
    }

    fn answer(&self, method: &Method, body: Value) -> (StatusCode, Value) {
        let mut state = self.0.lock().unwrap();
        let sent = body["metadata"]["resourceVersion"].clone();
        let stored = state.lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
        match (method, stored) {
            (&Method::GET, Some(_)) => (StatusCode::OK, state.lease.clone().unwrap()),
            (&Method::GET, None) => failure(StatusCode::NOT_FOUND),
            (&Method::POST, Some(_)) => failure(StatusCode::CONFLICT),
            (&Method::PUT, Some(version)) if version != sent => failure(StatusCode::CONFLICT),
            _ => (StatusCode::OK, state.store(body)),
        }
    }

    /// Writes the Lease as somebody else.
    fn write(&self, spec: Value) {
        self.0.lock().unwrap().store(json!({"metadata": {"name": "operator"}, "spec": spec}));
    }

    fn spec(&self) -> Value {
        self.0.lock().unwrap().lease.clone().unwrap()["spec"].clone()
    }
}

impl State {
    fn store(&mut self, mut lease: Value) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease.insert(lease).clone()
    }
}

fn failure(code: StatusCode) -> (StatusCode, Value) {
    let reason = code.canonical_reason().unwrap().replace(' ', "");
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": reason,
    });
    (code, status)
}

const SECOND: Duration = Duration::from_secs(1);

fn held_by(holder: &str) -> Look {
    Look::HeldBy(holder.to_owned())
}

#[test]
fn a_holder_ends_well_before_another_may_take_over() {
    let Timing { duration, deadline, retry, request } = Timing::default();
    assert!(deadline + request + 5 * SECOND <= duration);
    assert!(2 * (retry + 2 * request) <= deadline, "one look may fail, of two requests");
}

#[tokio::test]
async fn a_free_lease_is_taken_and_released_again() {
    let server = Server::default();
    let (mut first, mut second) = (server.election("first"), server.election("second"));
    let tenure = first.acquire(|_| (), || ()).await;
    assert_eq!(server.spec()["holderIdentity"], "first");
    assert_eq!(second.look(Instant::now()).await.unwrap(), held_by("first"));
    first.release(tenure).await;
    assert_eq!(server.spec()["holderIdentity"], json!(null));
    // At once, not after the duration.
    assert_eq!(second.look(Instant::now()).await.unwrap(), Look::Held);
    assert_eq!(server.spec()["leaseTransitions"], 2);
}

#[tokio::test]
async fn of_two_that_saw_the_same_lease_one_gets_it() {
    let server = Server::default();
    server.write(json!({}));
    let (mut first, second) = (server.election("first"), server.election("second"));
    let as_read = second.api.get("operator").await.unwrap();
    assert_eq!(first.look(Instant::now()).await.unwrap(), Look::Held);
    assert!(matches!(second.write(as_read).await.unwrap(), Look::HeldBy(_)));
    assert_eq!(server.spec()["holderIdentity"], "first");
}

#[tokio::test]
async fn a_holder_is_replaced_only_when_it_has_not_renewed_for_the_duration() {
    let server = Server::default();
    let (mut first, mut second) = (server.election("first"), server.election("second"));
    let (began, duration) = (Instant::now(), Timing::default().duration);
    assert_eq!(first.look(began).await.unwrap(), Look::Held);
    assert_eq!(second.look(began).await.unwrap(), held_by("first"));
    assert_eq!(first.look(began + duration - SECOND).await.unwrap(), Look::Held);
    // Renewed since it was seen last, so the wait begins anew.
    let renewed = began + duration + SECOND;
    assert_eq!(second.look(renewed).await.unwrap(), held_by("first"));
    assert_eq!(second.look(renewed + duration - SECOND).await.unwrap(), held_by("first"));
    assert_eq!(second.look(renewed + duration).await.unwrap(), Look::Held);
    assert_eq!(first.look(renewed + duration).await.unwrap(), held_by("second"));
}

#[tokio::test]
async fn a_dead_holder_is_waited_for_whatever_its_clock_said() {
    let server = Server::default();
    let (began, duration) = (Instant::now(), Timing::default().duration);
    for renewed_at in ["1970-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"] {
        server.write(json!({"holderIdentity": "dead", "renewTime": renewed_at, "leaseDurationSeconds": 1}));
        let mut heir = server.election("heir");
        assert_eq!(heir.look(began).await.unwrap(), held_by("dead"));
        assert_eq!(heir.look(began + duration - SECOND).await.unwrap(), held_by("dead"));
        assert_eq!(heir.look(began + duration).await.unwrap(), Look::Held);
    }
}

#[tokio::test]
async fn an_operator_that_starts_again_in_its_pod_goes_on_at_once() {
    let server = Server::default();
    server.write(json!({"holderIdentity": "first", "leaseDurationSeconds": 15, "leaseTransitions": 7}));
    assert_eq!(server.election("first").look(Instant::now()).await.unwrap(), Look::Held);
    assert_eq!(server.spec()["leaseTransitions"], 7);
}

#[tokio::test]
async fn a_holder_that_is_replaced_hears_of_it() {
    let server = Server::default();
    let mut first = server.election("first");
    let tenure = first.acquire(|_| (), || ()).await;
    server.write(json!({"holderIdentity": "second", "leaseDurationSeconds": 30}));
    assert_eq!(first.keep(&tenure).await, "second");
}

#[tokio::test]
async fn a_holder_that_cannot_renew_is_ended() {
    let server = Server::default();
    let is_cut_off = Arc::default();
    let mut first = server.election_on("first", &is_cut_off);
    first.timing.deadline = 3 * SECOND;
    let (ended, end) = oneshot::channel();
    let tenure = first.acquire(|_| (), || ended.send(()).unwrap()).await;
    is_cut_off.store(true, Ordering::SeqCst);
    tokio::select! {
        holder = first.keep(&tenure) => panic!("lost to {holder}, which it cannot know"),
        ended = end => ended.unwrap(),
    }
}
