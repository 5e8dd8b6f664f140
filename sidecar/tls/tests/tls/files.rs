//! Files that cannot be used stop the start, each with its path and what to do.

use kvferry_tls::{LegOptions, LegTls, ListenerOptions, ListenerTls, MAX_FILE, TlsError};

use super::common::*;

fn refused(folder: &Folder) -> TlsError {
    let cert_dir = Some(folder.path());
    let listener =
        ListenerTls::start(ListenerOptions { cert_dir, ..ListenerOptions::default() }).unwrap_err();
    // A leg's own pair is read the same way.
    let client_cert_dir = Some(folder.path());
    let skip_verify = true;
    let leg =
        LegTls::start(LegOptions { client_cert_dir, skip_verify, ..LegOptions::default() }).unwrap_err();
    assert_eq!(listener, leg);
    listener
}

#[test]
fn a_missing_file_is_named() {
    let folder = Folder::new();
    let message = refused(&folder).to_string();
    assert!(message.contains(folder.file("tls.crt").to_str().unwrap()), "{message}");
    assert!(message.contains("check the path"), "{message}");

    folder.write("tls.crt", &Authority::new("ours").server(&[]).certificate);
    let TlsError::Unreadable { path, .. } = refused(&folder) else { panic!("another error") };
    assert_eq!(path, folder.file("tls.key"));
}

#[test]
fn what_is_no_file_is_not_opened() {
    let folder = Folder::with(&Authority::new("ours").server(&["localhost"]));
    std::fs::remove_file(folder.file("tls.key")).unwrap();
    std::fs::create_dir(folder.file("tls.key")).unwrap();
    let message = refused(&folder).to_string();
    assert!(message.contains("tls.key: not a regular file"), "{message}");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let authority = Authority::new("ours");
    let folder = Folder::with(&authority.server(&["localhost"]));
    folder.write("tls.key", &authority.server(&["localhost"]).key);
    let error = refused(&folder);
    let (certificate, key) = (folder.file("tls.crt"), folder.file("tls.key"));
    assert_eq!(error, TlsError::KeyMismatch { certificate, key });
    assert!(error.to_string().contains("put the matching pair there"));
}

#[test]
fn a_chain_with_the_issuer_first_is_refused_as_a_mismatch() {
    let authority = Authority::new("ours");
    let pair = authority.server(&["localhost"]);
    let folder = Folder::with(&pair);
    folder.write("tls.crt", &format!("{}{}", authority.pem(), pair.certificate));
    assert!(matches!(refused(&folder), TlsError::KeyMismatch { .. }));
}

#[test]
fn files_without_what_belongs_there_are_refused() {
    let pair = Authority::new("ours").server(&["localhost"]);
    let folder = Folder::with(&pair);

    for content in ["", "not PEM at all", &pair.key] {
        folder.write("tls.crt", content);
        assert_eq!(refused(&folder), TlsError::NoCertificate { path: folder.file("tls.crt") });
    }
    for content in [
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
        &pair.certificate[..pair.certificate.len() / 2],
    ] {
        folder.write("tls.crt", content);
        assert!(matches!(refused(&folder), TlsError::BadCertificate { .. }), "{content}");
    }

    folder.put(&pair);
    folder.write("tls.key", &pair.certificate);
    assert_eq!(refused(&folder), TlsError::NoKey { path: folder.file("tls.key") });
    let header = |kind: &str| format!("-----BEGIN {kind}-----\naGVsbG8=\n-----END {kind}-----\n");
    folder.write("tls.key", &header("ENCRYPTED PRIVATE KEY"));
    assert_eq!(refused(&folder), TlsError::EncryptedKey { path: folder.file("tls.key") });
    folder.write("tls.key", &header("PRIVATE KEY"));
    assert!(matches!(refused(&folder), TlsError::BadKey { .. }));
}

#[test]
fn files_beyond_the_limit_are_not_read() {
    let pair = Authority::new("ours").server(&["localhost"]);
    let folder = Folder::with(&pair);
    let filler = "#".repeat(usize::try_from(MAX_FILE).unwrap() - pair.certificate.len() - 1);
    folder.write("tls.crt", &format!("{filler}\n{}", pair.certificate));
    serving(&folder);
    folder.write("tls.crt", &format!("{filler}#\n{}", pair.certificate));
    assert_eq!(refused(&folder), TlsError::TooLarge { path: folder.file("tls.crt") });
}

#[test]
fn bundles_are_read_at_the_start() {
    let folder = Folder::new();
    let empty = folder.write("empty.crt", "");
    let leg = LegTls::start(LegOptions { ca: Some(empty.clone()), ..LegOptions::default() });
    assert_eq!(leg.unwrap_err(), TlsError::NoCertificate { path: empty });
    let absent = folder.file("absent.crt");
    let listener =
        ListenerTls::start(ListenerOptions { client_ca: Some(absent.clone()), ..ListenerOptions::default() });
    let TlsError::Unreadable { path, .. } = listener.unwrap_err() else { panic!("another error") };
    assert_eq!(path, absent);
}

#[test]
fn unknown_names_stop_the_start() {
    let cipher_suites = vec!["NULL".to_owned()];
    let listener = ListenerTls::start(ListenerOptions {
        cipher_suites: cipher_suites.clone(),
        ..ListenerOptions::default()
    });
    assert_eq!(listener.unwrap_err(), TlsError::UnknownSuite { given: "NULL".to_owned() });
    let leg = LegTls::start(LegOptions { cipher_suites, ..LegOptions::default() });
    assert_eq!(leg.unwrap_err(), TlsError::UnknownSuite { given: "NULL".to_owned() });
    let min_version = "VersionTLS10".to_owned();
    let leg = LegTls::start(LegOptions { min_version, ..LegOptions::default() });
    assert_eq!(leg.unwrap_err(), TlsError::UnknownVersion { given: "VersionTLS10".to_owned() });
}
