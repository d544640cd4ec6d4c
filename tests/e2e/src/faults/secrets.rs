//! Credentials that change while messages flow: the workers go on as another user, and then as the first one again
//! while the other one may not come in any more.

use std::{collections::BTreeMap, fs, time::Duration};

use crds::{
    names::{PASSWORD_FILE, SECRETS_DIR, SecretPurpose},
    worker::Component,
};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use snafu::{OptionExt, ResultExt};

use super::{PROCESSORS, Trial, crash::WORKER, network};
use crate::{
    Result,
    backends::mqtt_password,
    cluster::value_of,
    database::{Database, literal, quoted},
    pods::proc_of,
    wait::eventually,
};

/// How long the kubelet may take to bring a changed Secret to a pod, and a worker to use it.
const ROTATED: Duration = Duration::from_secs(180);

/// The Secrets of a scenario, who reads them, and where a worker finds them.
const MQTT: (&str, Component, SecretPurpose) = ("mqtt-user", Component::Bridge, SecretPurpose::Mqtt);
const DATABASE: (&str, Component, SecretPurpose) = ("tsdb", Component::Processor, SecretPurpose::Timescale);

/// Changes the Secrets for broker and database, and back.
pub async fn rotated(trial: &Trial<'_>) -> Result<String> {
    let superuser = Database::superuser(&trial.test.cluster).await?;
    let user = trial.test.schema();
    let first_owner = login(trial, DATABASE.0).await?.0;
    let role =
        format!("CREATE ROLE {} LOGIN PASSWORD 'first' IN ROLE {}", quoted(&user), quoted(&first_owner));
    superuser.execute(&role).await?;
    mqtt_password(&user, "first").await?;
    let result = there_and_back(trial, &superuser, &user).await;
    end_sessions(&superuser, &user).await?;
    superuser.script(&format!("DROP OWNED BY {0}; DROP ROLE {0}", quoted(&user))).await?;
    result?;
    Ok("the workers came in as another user, and back".to_owned())
}

async fn there_and_back(trial: &Trial<'_>, superuser: &Database, user: &str) -> Result<()> {
    let (mqtt, database) = (login(trial, MQTT.0).await?, login(trial, DATABASE.0).await?);
    let other = (user.to_owned(), "first".to_owned());
    change(trial, MQTT, &other).await?;
    change(trial, DATABASE, &other).await?;
    // Whoever is connected stays so until the connection ends. A session does not tell whose pipeline it is of: its last
    // statement may have been a COMMIT.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE application_name = 'iotpipeline-processor'";
    superuser.number(end).await?;
    network::reset_once(trial, network::BRIDGE_MOSQUITTO).await?;
    sessions(superuser, user, i64::from(PROCESSORS)).await?;
    trial.say("the workers come in as another user");

    change(trial, MQTT, &mqtt).await?;
    change(trial, DATABASE, &database).await?;
    superuser.execute(&format!("ALTER ROLE {} NOLOGIN", quoted(user))).await?;
    // Mosquitto ends the connection of whoever came with another password.
    mqtt_password(user, "second").await?;
    end_sessions(superuser, user).await?;
    sessions(superuser, user, 0).await
}

/// User and password in a Secret.
async fn login(trial: &Trial<'_>, secret: &str) -> Result<(String, String)> {
    let secret: Secret = trial.test.cluster.secret(&trial.test.namespace, secret).await?;
    let both = value_of(&secret, "username").zip(value_of(&secret, "password"));
    both.whatever_context("a Secret has no user")
}

/// Changes a Secret, and waits until the pods have it.
async fn change(
    trial: &Trial<'_>,
    (secret, component, purpose): (&str, Component, SecretPurpose),
    (user, password): &(String, String),
) -> Result<()> {
    let namespace = &trial.test.namespace;
    let values =
        BTreeMap::from([("username".to_owned(), user.clone()), ("password".to_owned(), password.clone())]);
    trial.test.cluster.change_secret(namespace, secret, &values).await?;
    for pod in trial.pods(component).await? {
        // The kubelet looks at once at a pod about which something changes, and else once a minute.
        let touched = json!({"metadata": {"annotations": {"iotpipeline.dev/rotated": user}}});
        let pods = trial.test.cluster.api::<Pod>(namespace);
        pods.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(touched))
            .await
            .whatever_context("failed to annotate a pod")?;
        let file = format!("root{SECRETS_DIR}/{purpose}/{PASSWORD_FILE}");
        eventually(ROTATED, "a pod has the changed Secret", async || {
            let process = proc_of(&pod, WORKER).pop().whatever_context("a worker does not run")?;
            let mounted = fs::read_to_string(process.join(&file)).unwrap_or_default();
            Ok((mounted == *password).then_some(()).ok_or("not yet".to_owned()))
        })
        .await?;
    }
    Ok(())
}

async fn end_sessions(superuser: &Database, user: &str) -> Result<()> {
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = {}",
        literal(user)
    );
    superuser.number(&end).await?;
    Ok(())
}

/// Waits until at least so many sessions are the user's; or none, where none are wanted.
async fn sessions(superuser: &Database, user: &str, wanted: i64) -> Result<()> {
    let count = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = {}", literal(user));
    eventually(ROTATED, &format!("{wanted} sessions are those of {user}"), async || {
        let found = superuser.number(&count).await?;
        let is_so = if wanted == 0 { found == 0 } else { found >= wanted };
        Ok(is_so.then_some(()).ok_or(format!("{found} sessions")))
    })
    .await
}
