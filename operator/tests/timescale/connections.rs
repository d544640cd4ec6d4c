//! How the operator's sessions begin, or do not: passwords, certificates, poolers, and whatever else answers.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use access::{
    database::{DatabaseAccess, DatabaseTls},
    tls::{ClientCertificate, TlsMaterial},
};
use crds::{pipeline::DatabaseTlsMode, status::Reason};
use operator::{
    telemetry::chain,
    timescale::{Databases, DirectDatabases, Error, TablePlan, TableStep},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::support::Test;

#[tokio::test]
async fn silence_and_a_wrong_password_are_told_apart_and_neither_tells_the_password() {
    let test = Test::apache2().await;
    let open = |access: DatabaseAccess| async move {
        DirectDatabases::without_reuse().open(&access).await.map(drop).unwrap_err()
    };
    let wrong = open(DatabaseAccess { password: "hunter2".into(), ..test.access.clone() }).await;
    assert_eq!(wrong.reason(), Reason::DatabaseRefused);
    assert!(wrong.to_string().contains("28P01"), "{wrong}");
    let missing = open(DatabaseAccess { database: "nowhere".into(), ..test.access.clone() }).await;
    assert!(missing.to_string().contains("3D000"), "{missing}");
    let silent = open(DatabaseAccess { port: 9, password: "hunter2".into(), ..test.access.clone() }).await;
    assert_eq!(silent.reason(), Reason::DatabaseUnreachable);
    for error in [wrong, missing, silent] {
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[tokio::test]
async fn a_session_that_ended_well_lends_its_connection_to_the_next_and_no_other_does() {
    let test = Test::apache2().await;
    let user = test.database_of_a_role("user", "CONNECT").await;
    let databases = DirectDatabases::default();
    let session_of_user = format!(
        "SELECT coalesce(max(pid), 0)::bigint FROM pg_stat_activity WHERE usename = '{}'",
        user.access.username
    );
    let pid = async || test.number(&session_of_user).await;
    let open = async || databases.open(&user.access).await.unwrap();

    let first = open().await;
    let connection = pid().await;
    first.close().await;
    let mut second = open().await;
    assert_eq!(pid().await, connection);
    let table = user.table("telemetry");
    second.observe(&table, None).await.unwrap();
    second.close().await;
    let mut third = open().await;
    assert_eq!(pid().await, connection);

    let steps = vec![TableStep { changes: Vec::new(), sql: "SELECT 1 / 0".to_owned() }];
    assert!(third.apply(&table, &TablePlan { steps, ..TablePlan::default() }).await.is_err());
    third.close().await;
    let fourth = open().await;
    assert_ne!(pid().await, connection, "what failed may have left something behind");
    fourth.close().await;
    // Nobody is in the way of who wants to drop the database.
    let gone = async || pid().await == 0;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !gone().await && Instant::now() < deadline {
        sleep(Duration::from_millis(500)).await;
    }
    assert!(gone().await);
    user.finish().await;
    test.finish().await;
}

#[tokio::test]
async fn tls_is_as_strict_as_the_spec_says() {
    let test = Test::apache2().await;
    let with = |mode, ca: Option<&str>| {
        let material = TlsMaterial { ca: ca.map(|secret| secret_text(secret, "ca.crt")), client: None };
        DatabaseAccess { tls: DatabaseTls { mode, material }, ..test.access.clone() }
    };
    let alias = |access: DatabaseAccess| DatabaseAccess {
        host: access.host.replacen("timescaledb", "timescaledb-alias", 1),
        ..access
    };
    use DatabaseTlsMode::{Require, VerifyCa, VerifyFull};
    for trusted in [
        with(VerifyFull, Some("backends-ca")),
        with(VerifyCa, Some("backends-ca")),
        alias(with(VerifyCa, Some("backends-ca"))),
        with(Require, None),
        alias(with(Require, Some("stranger-ca"))),
    ] {
        DirectDatabases::without_reuse().open(&trusted).await.unwrap().close().await;
    }
    for (access, part) in [
        (with(VerifyFull, Some("stranger-ca")), "timescale.tls.caSecretRef"),
        (with(VerifyCa, Some("stranger-ca")), "timescale.tls.caSecretRef"),
        // The authorities of the system do not know it.
        (with(VerifyFull, None), "timescale.tls.caSecretRef"),
        (alias(with(VerifyFull, Some("backends-ca"))), "does not name the host"),
    ] {
        let error = refused(&access).await;
        assert_eq!(error.reason(), Reason::DatabaseUnreachable, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        // The names in the server's certificate are the server's words.
        assert!(!chain(&error).contains("svc.cluster.local"), "{error}");
    }
}

#[tokio::test]
async fn a_client_certificate_says_who_comes() {
    let test = Test::apache2().await;
    let as_operator = |client: Option<&str>| {
        let client = client.map(|secret| ClientCertificate {
            certificate: secret_text(secret, "tls.crt"),
            key: secret_text(secret, "tls.key"),
        });
        let material = TlsMaterial { ca: Some(secret_text("backends-ca", "ca.crt")), client };
        DatabaseAccess {
            username: "operator".into(),
            password: String::new(),
            tls: DatabaseTls { mode: DatabaseTlsMode::VerifyFull, material },
            ..test.access.clone()
        }
    };
    let mut session =
        DirectDatabases::without_reuse().open(&as_operator(Some("client-operator"))).await.unwrap();
    assert_eq!(session.observe(&test.table("none"), None).await.unwrap().role, "operator");
    session.close().await;
    for client in [None, Some("client-processor"), Some("client-stranger")] {
        let error = refused(&as_operator(client)).await;
        assert!(error.to_string().contains("timescale.tls.clientSecretRef"), "{client:?}: {error}");
    }
}

#[tokio::test]
async fn a_pooler_is_recognised_and_the_message_says_what_to_name_instead() {
    let test = Test::apache2().await;
    let uri = std::env::var("IOTPIPELINE_TEST_PGBOUNCER").unwrap();
    let pooler =
        DatabaseAccess::from_secret(|key| (key == "uri").then(|| uri.clone()), "x", DatabaseTls::default());
    // One that refuses what it does not know, and one that forgets it without a word.
    let forgetful = forgetful_pooler(&test.access).await;
    for access in [
        pooler.unwrap(),
        DatabaseAccess { host: forgetful.ip().to_string(), port: forgetful.port(), ..test.access },
    ] {
        let error = refused(&access).await;
        assert_eq!(error.reason(), Reason::DatabaseRefused);
        assert!(
            error.to_string().contains("name a Secret with its own address in timescale.adminSecretRef"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn whatever_answers_is_not_repeated() {
    const REPLIES: [&[u8]; 7] = [
        b"HTTP/1.1 400 Bad Request\r\nServer: hunter2\r\n\r\n",
        b"220 hunter2 ESMTP\r\n",
        b"-ERR hunter2\r\n",
        // An error whose code and text are whatever the server likes.
        b"E\0\0\0\x1fSFATAL\0Chunter2\0Mhunter2 x\0\0",
        b"E\0\0\0\x1dSFATAL\0C22P02\0Mhunter2 x\0\0",
        // A way to log in that nobody knows.
        b"R\0\0\0\x08\0\0\0\x63hunter2",
        b"",
    ];
    let test = Test::apache2().await;
    for reply in REPLIES {
        let address = answering(reply).await;
        for mode in [DatabaseTlsMode::Disable, DatabaseTlsMode::VerifyFull] {
            let error = refused(&DatabaseAccess {
                host: address.ip().to_string(),
                port: address.port(),
                tls: DatabaseTls { mode, material: TlsMaterial::default() },
                ..test.access.clone()
            })
            .await;
            let told = format!("{} {error:?}", chain(&error));
            assert!(!told.contains("hunter2") && !told.contains("1414"), "{told}");
        }
    }
}

async fn refused(access: &DatabaseAccess) -> Error {
    DirectDatabases::without_reuse().open(access).await.map(drop).unwrap_err()
}

/// A file of the Secrets that the tests are given.
fn secret_text(secret: &str, key: &str) -> String {
    let directory = std::env::var("IOTPIPELINE_TEST_SECRETS").unwrap();
    std::fs::read_to_string(PathBuf::from(directory).join(secret).join(key)).unwrap()
}

/// A server that answers every connection with the same bytes and ends it.
async fn answering(reply: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 1024]).await;
            let _ = socket.write_all(reply).await;
        }
    });
    address
}

/// What poolers are that ignore the options of a session: it takes them out and passes on all else.
async fn forgetful_pooler(server: &DatabaseAccess) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = (server.host.clone(), server.port);
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let length = client.read_u32().await.unwrap() as usize;
        let mut startup = vec![0; length - 4];
        client.read_exact(&mut startup).await.unwrap();
        let (version, parameters) = startup.split_at(4);
        let words: Vec<&[u8]> = parameters.split(|byte| *byte == 0).collect();
        let mut kept = version.to_vec();
        for pair in words.chunks_exact(2).filter(|pair| pair[0] != b"options" && !pair[0].is_empty()) {
            kept.extend([pair[0], b"\0", pair[1], b"\0"].concat());
        }
        kept.push(0);
        let mut upstream = TcpStream::connect(server).await.unwrap();
        upstream.write_u32(kept.len() as u32 + 4).await.unwrap();
        upstream.write_all(&kept).await.unwrap();
        let _ = copy_bidirectional(&mut client, &mut upstream).await;
    });
    address
}
