//! A Kubernetes API server in memory: as much of one as the operator uses, and a log of what was written.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use operator::rbac::RULES;
use serde_json::{Value, json};

/// What happened, in order, in all fakes of one test.
pub type Log = Arc<Mutex<Vec<String>>>;

/// The server. Objects are named `<plural>/<name>`; there is one namespace.
#[derive(Clone)]
pub struct ApiServer {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    notes: Log,
    log: Log,
}

impl ApiServer {
    pub fn new(log: Log) -> Self {
        Self { objects: Arc::default(), notes: Log::default(), log }
    }

    /// A client of this server.
    pub fn client(&self) -> kube::Client {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let server = self.clone();
        tokio::spawn(async move {
            while let Some((request, reply)) = handle.next_request().await {
                reply.send_response(server.answer(request).await);
            }
        });
        kube::Client::new(service, "plant-7")
    }

    pub fn get(&self, key: &str) -> Value {
        self.objects.lock().unwrap().get(key).cloned().unwrap_or_default()
    }

    pub fn put(&self, key: &str, object: Value) {
        self.objects.lock().unwrap().insert(key.to_owned(), object);
    }

    pub fn remove(&self, key: &str) {
        self.objects.lock().unwrap().remove(key).unwrap();
    }

    pub fn change(&self, key: &str, change: impl FnOnce(&mut Value)) {
        change(self.objects.lock().unwrap().get_mut(key).unwrap());
    }

    pub fn keys(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }

    /// What the Events since the last call say.
    pub fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().unwrap())
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        let path: Vec<&str> = parts.uri.path().trim_start_matches('/').split('/').collect();
        let from = path.iter().position(|segment| *segment == "namespaces").unwrap();
        // `/api/v1/namespaces/plant-7` itself, or something in it.
        let target = if path.len() == from + 2 { &path[from..] } else { &path[from + 2..] };
        assert_granted(&parts.method, path[0] == "api", path[1], target);
        let query = parts.uri.query().unwrap_or_default();
        let (code, answer) = match (&parts.method, target) {
            (&Method::GET, [plural]) => (StatusCode::OK, self.list(plural, query)),
            (&Method::GET, [plural, name]) => found(self.get(&format!("{plural}/{name}"))),
            (&Method::POST, ["events"]) => {
                let key = format!("events/{}", body["metadata"]["name"].as_str().unwrap());
                if self.get(&key).is_null() {
                    self.note(format!("create events: {}", body["reason"].as_str().unwrap()));
                    self.notes.lock().unwrap().push(body["note"].as_str().unwrap().to_owned());
                    self.put(&key, body.clone());
                    (StatusCode::CREATED, body)
                } else {
                    failure(StatusCode::CONFLICT)
                }
            }
            (&Method::PATCH, [plural, name]) if query.contains("fieldManager") => {
                self.note(format!("apply {plural}/{}", without_hash(plural, name)));
                (StatusCode::OK, self.apply(&format!("{plural}/{name}"), body))
            }
            (&Method::PATCH, [plural, name, "status"]) => {
                self.note(format!("apply {plural}/{name}/status"));
                let key = format!("{plural}/{name}");
                self.change(&key, |object| object["status"] = body["status"].clone());
                (StatusCode::OK, self.get(&key))
            }
            (&Method::PATCH, ["events", name]) => {
                let key = format!("events/{name}");
                // The server lets nothing else be changed.
                assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["series"]);
                self.change(&key, |event| event["series"] = body["series"].clone());
                let event = self.get(&key);
                let (reason, count) = (event["reason"].as_str().unwrap(), &event["series"]["count"]);
                self.note(format!("count events: {reason} {count}"));
                (StatusCode::OK, event)
            }
            (&Method::PATCH, [plural, name]) => {
                self.note(format!("merge {plural}/{name}"));
                let key = format!("{plural}/{name}");
                match *plural {
                    "iotpipelines" => self.merge_finalizers(&key, &body),
                    _ => (StatusCode::OK, self.merge_workload(&key, &body)),
                }
            }
            (&Method::DELETE, [plural, name]) => {
                self.note(format!("delete {plural}/{}", without_hash(plural, name)));
                assert!(body["preconditions"]["uid"].is_string(), "{body}");
                self.remove(&format!("{plural}/{name}"));
                (StatusCode::OK, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            (method, target) => panic!("{method} {target:?}"),
        };
        Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap()
    }

    fn list(&self, plural: &str, query: &str) -> Value {
        let selector = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector=")).unwrap();
        let selector = selector.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
        let objects = self.objects.lock().unwrap();
        let items: Vec<&Value> = objects
            .iter()
            .filter(|(key, _)| key.split('/').next() == Some(plural))
            .map(|(_, object)| object)
            .filter(|object| {
                selector.split(',').all(|pair| {
                    let (name, value) = pair.split_once('=').unwrap();
                    object["metadata"]["labels"][name] == value
                })
            })
            .collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
    }

    /// As a server-side apply by the only manager: what is not named goes, but for what the server keeps itself.
    fn apply(&self, key: &str, mut object: Value) -> Value {
        let before = self.get(key);
        for kept in ["/status", "/metadata/uid", "/metadata/generation", "/metadata/managedFields"] {
            let (parent, field) = kept.rsplit_once('/').unwrap();
            if let Some(value) = before.pointer(kept) {
                object.pointer_mut(parent).unwrap()[field] = value.clone();
            }
        }
        object["metadata"]["uid"] = json!(format!("uid-of-{key}"));
        if object["spec"].is_object() {
            object["spec"]["defaultOfTheServer"] = json!(true);
        }
        if object["spec"] != before["spec"] {
            object["metadata"]["generation"] =
                json!(before["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
            note_edit(&mut object);
        }
        // Lists of the real server do not repeat these.
        object.as_object_mut().unwrap().remove("apiVersion");
        object.as_object_mut().unwrap().remove("kind");
        self.put(key, object.clone());
        object
    }

    fn merge_finalizers(&self, key: &str, patch: &Value) -> (StatusCode, Value) {
        let mut object = self.get(key);
        if patch["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return failure(StatusCode::CONFLICT);
        }
        object["metadata"]["finalizers"] = patch["metadata"]["finalizers"].clone();
        let is_gone = object["metadata"]["deletionTimestamp"].is_string()
            && object["metadata"]["finalizers"].as_array().unwrap().is_empty();
        if is_gone {
            self.remove(key);
        } else {
            self.put(key, object.clone());
        }
        (StatusCode::OK, object)
    }

    /// As a strategic merge: volumes are known by their names.
    fn merge_workload(&self, key: &str, patch: &Value) -> Value {
        let mut object = self.get(key);
        assert_eq!(patch["metadata"]["uid"], object["metadata"]["uid"]);
        object["spec"]["replicas"] = patch["spec"]["replicas"].clone();
        let volumes = object["spec"]["template"]["spec"]["volumes"].as_array_mut().unwrap();
        for patched in patch["spec"]["template"]["spec"]["volumes"].as_array().into_iter().flatten() {
            let volume = volumes.iter_mut().find(|volume| volume["name"] == patched["name"]).unwrap();
            *volume = patched.clone();
        }
        note_edit(&mut object);
        self.put(key, object.clone());
        object
    }

    fn note(&self, entry: String) {
        self.log.lock().unwrap().push(entry);
    }
}

/// Whatever the operator asks for is in the list that the chart's Role is made from.
fn assert_granted(method: &Method, is_core: bool, group: &str, target: &[&str]) {
    let verb = match (method.as_str(), target.len()) {
        ("GET", 1) => "list",
        ("GET", _) => "get",
        ("POST", _) => "create",
        ("PATCH", _) => "patch",
        ("DELETE", _) => "delete",
        other => panic!("{other:?}"),
    };
    let resource = match target {
        [plural, _, subresource] => format!("{plural}/{subresource}"),
        [plural, ..] => (*plural).to_owned(),
        [] => panic!("{method} without a resource"),
    };
    let group = if is_core { "" } else { group };
    let is_granted = RULES
        .iter()
        .any(|rule| rule.api_group == group && rule.resource == resource && rule.verbs.contains(&verb));
    assert!(is_granted, "{verb} {resource} in group {group:?} is not granted");
}

fn found(object: Value) -> (StatusCode, Value) {
    if object.is_null() { failure(StatusCode::NOT_FOUND) } else { (StatusCode::OK, object) }
}

/// Notes who wrote an object, and when.
fn note_edit(object: &mut Value) {
    let now = jiff::Timestamp::now();
    object["metadata"]["managedFields"] =
        json!([{"manager": "iotpipeline", "operation": "Apply", "time": now}]);
}

fn failure(code: StatusCode) -> (StatusCode, Value) {
    let reason = code.canonical_reason().unwrap().replace(' ', "");
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": reason,
    });
    (code, status)
}

/// The name of a ConfigMap ends with a hash of its content, which is nobody's business here.
fn without_hash(plural: &str, name: &str) -> String {
    match name.rsplit_once('-') {
        Some((stem, _)) if plural == "configmaps" => format!("{stem}-*"),
        _ => name.to_owned(),
    }
}
