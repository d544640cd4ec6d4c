//! A pipeline whose backends trust nobody: TLS everywhere, users with no more rights than documented, a pooler
//! between workers and database. Its passwords change while messages flow.

use std::{collections::BTreeMap, time::Duration};

use crds::worker::Component;
use e2e::{
    Result,
    backends::{kafka_admin, mqtt_password},
    database::{Database, quoted},
    fleet::{Fleet, Shares},
    manifest::set,
    pods::restarts,
    scenario::{Scenario, scenario},
    wait::eventually,
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{ResourceExt, api::PostParams};
use serde_json::{Value, json};
use snafu::{OptionExt, Report, ResultExt, Whatever};

/// How long the kubelet may take to bring a changed Secret to a pod, and a worker to use it.
const ROTATED: Duration = Duration::from_secs(180);

/// Where the cluster keeps what clients present.
const CLIENT_SECRETS: &str = "iot-secrets";

#[tokio::test]
async fn passwords_change_under_load_and_nothing_is_lost() -> Report<Whatever> {
    scenario("secured", async |test: &Scenario| {
        let user = test.schema();
        let superuser = Database::superuser(&test.cluster).await?;
        make_users(test, &superuser, &user, "first").await?;
        make_secrets(test, &user, "first").await?;
        test.start(&manifest(test, &user)?).await?;
        expect_least_rights(&superuser, test, &user).await?;
        let pods = pods(test).await?;

        let fleet = test.fleet(50, 200.0, None, Shares::NONE);
        publish_more(test, &fleet).await?;
        make_users(test, &superuser, &user, "second").await?;
        for (name, key) in
            [("mqtt-login", "password"), ("kafka-login", "password"), ("tsdb-login", "password")]
        {
            let changed = BTreeMap::from([(key.to_owned(), format!("second-{user}"))]);
            test.cluster.change_secret(&test.namespace, name, &changed).await?;
        }
        // Whoever is connected stays so until the connection ends, and must then use what is new.
        let end_sessions =
            format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{user}'");
        superuser.number(&end_sessions).await?;
        eventually(ROTATED, "the pipeline is Ready with its new passwords and rows arrive", async || {
            let before = test.table().count().await?;
            publish_more(test, &fleet).await?;
            test.ready().await?;
            let after = test.table().count().await?;
            Ok((after > before + 500).then_some(()).ok_or(format!("{before} rows, then {after}")))
        })
        .await?;

        let ledger = test.halt(fleet).await?;
        // A broken MQTT connection repeats what it had not acknowledged.
        test.expect_delivered(&ledger, true).await?;
        assert_eq!(self::pods(test).await?, pods, "a pod was replaced or started again");
        remove_users(&superuser, &user).await
    })
    .await
}

fn manifest(test: &Scenario, user: &str) -> Result<Value> {
    let mut manifest = test.manifest()?;
    let ca = json!({"caSecretRef": {"name": "backends-ca"}});
    for (pointer, value) in [
        ("/spec/mqtt/url", json!("mqtts://mosquitto.mqtt:8883")),
        ("/spec/mqtt/tls", ca.clone()),
        ("/spec/mqtt/credentialsSecretRef/name", json!("mqtt-login")),
        ("/spec/kafka/bootstrapServers", json!("kafka.kafka:9095")),
        ("/spec/kafka/tls", ca.clone()),
        (
            "/spec/kafka/sasl",
            json!({"mechanism": "ScramSha512", "username": user, "passwordSecretRef": {"name": "kafka-login"}}),
        ),
        ("/spec/timescale/tls", ca),
        ("/spec/timescale/secretRef/name", json!("tsdb-login")),
        ("/spec/timescale/adminSecretRef", json!({"name": "tsdb"})),
    ] {
        manifest = set(manifest, pointer, value)?;
    }
    Ok(manifest)
}

/// The users with exactly the rights that docs/security.md names, or their next passwords.
async fn make_users(test: &Scenario, superuser: &Database, user: &str, turn: &str) -> Result<()> {
    let password = format!("{turn}-{user}");
    let mut kafka = format!("user {user} {password}\n");
    if turn == "first" {
        superuser.execute(&format!("CREATE ROLE {} LOGIN", quoted(user))).await?;
        kafka += &format!(
            "allow {user} topic {topic} Create,Delete,Describe,Alter,DescribeConfigs,AlterConfigs,Read,Write\n\
             allow {user} group iotp.{namespace}.telemetry Read\n",
            topic = test.topic(),
            namespace = test.namespace,
        );
    }
    superuser.execute(&format!("ALTER ROLE {} PASSWORD '{password}'", quoted(user))).await?;
    mqtt_password(user, &password).await?;
    kafka_admin(kafka).await
}

async fn remove_users(superuser: &Database, user: &str) -> Result<()> {
    kafka_admin(format!("remove-user {user}\n")).await?;
    superuser.execute(&format!("DROP OWNED BY {0}", quoted(user))).await?;
    superuser.execute(&format!("DROP ROLE {}", quoted(user))).await?;
    Ok(())
}

async fn make_secrets(test: &Scenario, user: &str, turn: &str) -> Result<()> {
    let password = format!("{turn}-{user}");
    let ca = test.cluster.secret(CLIENT_SECRETS, "backends-ca").await?;
    let ca = e2e::cluster::value_of(&ca, "ca.crt").whatever_context("there is no authority")?;
    for secret in [
        secret_of("backends-ca", &[("ca.crt", &ca)]),
        secret_of("mqtt-login", &[("username", user), ("password", &password)]),
        secret_of("kafka-login", &[("password", &password)]),
        secret_of(
            "tsdb-login",
            &[
                ("host", "pgbouncer.timescaledb"),
                ("port", "6432"),
                ("dbname", "iot"),
                ("username", user),
                ("password", &password),
            ],
        ),
    ] {
        let created =
            test.cluster.api::<Secret>(&test.namespace).create(&PostParams::default(), &secret).await;
        created.whatever_context("failed to create a Secret")?;
    }
    Ok(())
}

fn secret_of(name: &str, values: &[(&str, &str)]) -> Secret {
    let values = values.iter().map(|(key, value)| ((*key).to_owned(), ByteString((*value).into())));
    let mut secret = Secret { data: Some(values.collect()), ..Secret::default() };
    secret.metadata.name = Some(name.to_owned());
    secret
}

/// The workers' role may write rows and positions, and alter or create nothing.
async fn expect_least_rights(superuser: &Database, test: &Scenario, user: &str) -> Result<()> {
    let (schema, table) = (test.schema(), test.table().quoted());
    for (question, expected) in [
        (format!("has_table_privilege('{user}', '{table}', 'INSERT')"), true),
        (format!("has_table_privilege('{user}', '{table}', 'DELETE')"), false),
        (format!("has_table_privilege('{user}', '{table}', 'TRUNCATE')"), false),
        (format!("has_schema_privilege('{user}', '{schema}', 'CREATE')"), false),
        (format!("pg_has_role('{user}', 'iot', 'MEMBER')"), false),
    ] {
        let answer: Vec<(bool,)> = superuser.query(&format!("SELECT {question}")).await?;
        assert_eq!(answer, [(expected,)], "{question}");
    }
    Ok(())
}

/// Which pods there are and how often their containers were started again.
async fn pods(test: &Scenario) -> Result<BTreeMap<String, i32>> {
    let mut pods = test.workers(Component::Bridge).await?;
    pods.extend(test.workers(Component::Processor).await?);
    Ok(pods.iter().map(|pod| (pod.name_any(), restarts(std::slice::from_ref(pod)))).collect())
}

async fn publish_more(test: &Scenario, fleet: &Fleet) -> Result<()> {
    test.published(fleet, fleet.progress().published() + 1_000).await
}
