//! The database behind TLS and passwords: what is wrong is said, what rotates loses nothing, and the environment
//! changes nothing.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    thread,
    time::Duration,
};

use crds::{
    names::{CERTIFICATE_FILE, KEY_FILE, SecretPurpose},
    pipeline::DatabaseTlsMode,
    worker::{DatabaseTlsConfig, TlsConfig},
};

use crate::harness::{Processor, Scenario, client_certificate, under_load, wait_until};

const PARTITIONS: i32 = 2;

/// The same server, by a name that its certificate does not have.
const ALIAS: &str = "timescaledb-alias.timescaledb";

fn use_tls(scenario: &mut Scenario, mode: DatabaseTlsMode, ca: Option<&str>, has_client_certificate: bool) {
    let certificates = TlsConfig { has_ca: ca.is_some(), has_client_certificate };
    scenario.config.database_tls = DatabaseTlsConfig { mode, certificates };
    if let Some(ca) = ca {
        scenario.mount_ca(SecretPurpose::TimescaleCa, ca);
    }
}

/// A role of the test's own with no more than the rights of a processor.
fn create_role(scenario: &Scenario, attributes: &str) {
    let name = &scenario.name;
    scenario.execute(&format!(
        "CREATE ROLE {name} LOGIN {attributes};
         GRANT USAGE ON SCHEMA {name} TO {name};
         GRANT INSERT ON {name}.telemetry, {name}.telemetry_dead_letters TO {name};
         GRANT SELECT, INSERT, UPDATE ON {name}._iotpipeline_positions TO {name};"
    ));
}

fn drop_role(scenario: &Scenario) {
    scenario.execute("DROP OWNED BY {schema}; DROP ROLE {schema}");
}

fn mount_role(scenario: &Scenario, password: Option<&str>) {
    scenario.mount_database(|url| {
        url.set_username(&scenario.name).unwrap();
        url.set_password(password).unwrap();
    });
}

fn terminate_sessions(scenario: &Scenario) {
    scenario
        .query("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{schema}'");
}

/// Whether the server sees the connection of the test's own role encrypted.
fn is_encrypted(scenario: &Scenario) -> bool {
    let sql = "SELECT DISTINCT ssl, application_name FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
               WHERE usename = '{schema}'";
    match scenario.query(sql).as_slice() {
        [session] if session == "t|iotpipeline-processor" => true,
        [session] if session == "f|iotpipeline-processor" => false,
        sessions => panic!("{sessions:?}"),
    }
}

#[test]
fn every_mode_checks_what_it_says() {
    use DatabaseTlsMode::{Disable, Require, VerifyCa, VerifyFull};
    let mut scenario = Scenario::new("database_tls", PARTITIONS);
    create_role(&scenario, "PASSWORD 'x'");
    let records = scenario.producer();
    records.send_events(0..10, PARTITIONS);
    records.flush();
    let cases = [
        (Disable, None, false, Ok(false)),
        (Require, None, true, Ok(true)),
        (VerifyCa, Some("backends-ca"), true, Ok(true)),
        (VerifyFull, Some("backends-ca"), false, Ok(true)),
        (VerifyCa, Some("stranger-ca"), false, Err("timescale.tls.caSecretRef")),
        (VerifyFull, Some("stranger-ca"), false, Err("timescale.tls.caSecretRef")),
        (VerifyFull, Some("backends-ca"), true, Err("is for other names")),
        (VerifyFull, None, false, Err("timescale.tls.caSecretRef")),
    ];
    for (mode, ca, by_other_name, expected) in cases {
        use_tls(&mut scenario, mode, ca, false);
        scenario.mount_database(|url| {
            url.set_username(&scenario.name).unwrap();
            url.set_password(Some("x")).unwrap();
            if by_other_name {
                url.set_host(Some(ALIAS)).unwrap();
            }
        });
        let case = format!("{mode:?} {ca:?} {by_other_name}");
        let processor = scenario.start();
        match expected {
            Ok(encrypted) => {
                processor.wait_for(&case, |status| status.ready && status.partitions.len() == 2);
                assert_eq!(is_encrypted(&scenario), encrypted, "{case}");
                // Only then it is killed; those who come after it are let in no more.
                let rows = || scenario.number("SELECT count(*) FROM {schema}.telemetry");
                wait_until(|| rows() == 10).unwrap_or_else(|()| panic!("{case}: {} rows", rows()));
            }
            Err(words) => {
                let message = processor.wait_for_problem("DatabaseUnreachable");
                assert!(message.contains(words), "{case}: {message}");
            }
        }
    }
    scenario.assert_each_once(10);
    drop_role(&scenario);
}

#[test]
fn a_mended_authority_is_read_at_the_next_connect() {
    let mut scenario = Scenario::new("database_mended", PARTITIONS);
    use_tls(&mut scenario, DatabaseTlsMode::VerifyFull, Some("stranger-ca"), false);
    let processor = scenario.start();
    processor.wait_for_problem("DatabaseUnreachable");
    scenario.mount_ca(SecretPurpose::TimescaleCa, "backends-ca");
    processor.wait_for("ready", |status| status.ready);
}

#[test]
fn a_client_certificate_is_asked_for_shown_and_rotated_under_load() {
    let mut scenario = Scenario::new("database_certificate", PARTITIONS);
    create_role(&scenario, "IN ROLE certificate_only");
    mount_role(&scenario, Some("unused"));
    use_tls(&mut scenario, DatabaseTlsMode::VerifyFull, Some("backends-ca"), false);
    let message = scenario.start().wait_for_problem("DatabaseRefused");
    assert!(message.contains("timescale.tls") && message.contains("(SQLSTATE 28000)"), "{message}");

    use_tls(&mut scenario, DatabaseTlsMode::VerifyFull, Some("backends-ca"), true);
    mount_role(&scenario, None);
    scenario.mount_client(SecretPurpose::TimescaleClient, "client-stranger");
    let message = scenario.start().wait_for_problem("DatabaseUnreachable");
    assert!(message.contains("timescale.tls.clientSecretRef"), "{message}");

    let renew = || {
        let (certificate, key) = client_certificate(&scenario.name);
        scenario.mount(SecretPurpose::TimescaleClient, CERTIFICATE_FILE, &certificate);
        scenario.mount(SecretPurpose::TimescaleClient, KEY_FILE, &key);
    };
    renew();
    let _processor = scenario.start_ready();
    let total = under_load(&scenario, PARTITIONS, 10, || {
        for _ in 0..3 {
            renew();
            terminate_sessions(&scenario);
            thread::sleep(Duration::from_secs(1));
        }
    });
    scenario.assert_each_once(total);
    drop_role(&scenario);
}

#[test]
fn a_password_rotates_under_load() {
    let scenario = Scenario::new("database_password", PARTITIONS);
    create_role(&scenario, "PASSWORD 'hunter0'");
    mount_role(&scenario, Some("hunter0"));
    let processor = scenario.start_ready();
    let rotate = |n: i32| scenario.execute(&format!("ALTER ROLE {{schema}} PASSWORD 'hunter{n}'"));
    let total = under_load(&scenario, PARTITIONS, 15, || {
        for n in 1..5 {
            rotate(n);
            if n % 2 == 0 {
                // The old password is tried first and refused.
                terminate_sessions(&scenario);
                let message = processor.wait_for_problem("DatabaseRefused");
                assert!(message.contains("timescale.secretRef") && !message.contains("hunter"), "{message}");
                mount_role(&scenario, Some(&format!("hunter{n}")));
            } else {
                mount_role(&scenario, Some(&format!("hunter{n}")));
                // Who is connected stays so.
                assert!(processor.status().unwrap().ready);
                terminate_sessions(&scenario);
            }
            processor.wait_for("ready again", |status| status.ready);
        }
    });
    scenario.assert_each_once(total);
    assert!(scenario.dead_letters(0).is_empty());
    drop_role(&scenario);
}

#[test]
fn a_missing_right_is_a_problem_without_the_servers_words() {
    let scenario = Scenario::new("database_rights", 1);
    create_role(&scenario, "PASSWORD 'x'");
    mount_role(&scenario, Some("x"));
    scenario.execute("REVOKE INSERT ON {schema}.telemetry FROM {schema}");
    let records = scenario.producer();
    records.send_events(0..10, 1);
    records.flush();
    let processor = scenario.start();
    let message = processor.wait_for_problem("PermissionMissing");
    assert_eq!(message, "Failed to copy the rows: the role lacks a right (SQLSTATE 42501).");
    scenario.execute("GRANT INSERT ON {schema}.telemetry TO {schema}");
    processor.wait_for("ready", |status| status.ready);
    scenario.assert_each_once(10);
    drop_role(&scenario);
}

/// A server that answers everything with the same bytes.
fn false_server(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(answer);
        }
    });
    port
}

fn start_at(scenario: &Scenario, port: u16) -> Processor {
    scenario.mount_database(|url| {
        url.set_host(Some("localhost")).unwrap();
        url.set_port(Some(port)).unwrap();
    });
    scenario.start()
}

#[test]
fn what_a_server_answers_is_never_repeated() {
    let mut scenario = Scenario::new("database_echo", 1);
    let message =
        start_at(&scenario, false_server(b"HTTP/1.1 401 hunter2")).wait_for_problem("DatabaseUnreachable");
    assert!(!message.contains("hunter2") && !message.contains("HTTP"), "{message}");
    // ErrorResponse with a text where the SQLSTATE should be.
    let answer = b"E\0\0\0\x24SFATAL\0VFATAL\0Chunter2\0Mhunter2\0\0";
    let message = start_at(&scenario, false_server(answer)).wait_for_problem("DatabaseRefused");
    assert!(!message.contains("hunter2") && message.contains("SQLSTATE unknown"), "{message}");
    use_tls(&mut scenario, DatabaseTlsMode::Require, None, false);
    let message = start_at(&scenario, false_server(b"N")).wait_for_problem("DatabaseUnreachable");
    assert!(message.contains("set timescale.tls.mode to Disable"), "{message}");
}

#[test]
fn the_environment_changes_nothing() {
    let mut scenario = Scenario::new("database_environment", PARTITIONS);
    create_role(&scenario, "PASSWORD 'x'");
    mount_role(&scenario, Some("x"));
    let environment = [
        ("PGHOST", "nowhere.invalid"),
        ("PGHOSTADDR", "192.0.2.1"),
        ("PGPORT", "1"),
        ("PGUSER", "nobody"),
        ("PGPASSWORD", "wrong"),
        ("PGDATABASE", "nothing"),
        ("PGSSLMODE", "disable"),
        ("PGSSLROOTCERT", "/nonexistent"),
        ("PGPASSFILE", "/nonexistent"),
        ("PGAPPNAME", "someone-else"),
    ];
    for ca in [Some("backends-ca"), None] {
        let mode = if ca.is_some() { DatabaseTlsMode::VerifyFull } else { DatabaseTlsMode::Require };
        use_tls(&mut scenario, mode, ca, false);
        let processor = scenario.start_in(&environment);
        processor.wait_for("ready", |status| status.ready && status.partitions.len() == 2);
        assert!(is_encrypted(&scenario));
    }
    // With PGSSLROOTCERT the server would be trusted.
    use_tls(&mut scenario, DatabaseTlsMode::VerifyFull, None, false);
    let ca = std::env::temp_dir().join(format!("{}.crt", scenario.name));
    std::fs::write(&ca, crate::harness::test_secret("backends-ca", "ca.crt")).unwrap();
    let processor = scenario.start_in(&[("PGSSLROOTCERT", ca.to_str().unwrap())]);
    processor.wait_for_problem("DatabaseUnreachable");
    std::fs::remove_file(ca).unwrap();
    for (name, value) in [("PGOPTIONS", "-c role=none"), ("PGSSLCERT", "/x"), ("PGSSLKEY", "/x")] {
        assert!(!scenario.start_in(&[(name, value)]).wait_for_end().success(), "{name}");
    }
    drop_role(&scenario);
}
