//! The files that the configuration names: most of them keep the daemon from starting, or an image from being pulled, when
//! they are wrong. They are read by the code that reads them for the daemon.

use std::error::Error;

use podd::config::{Config, Inflate};
use podd::hooks;
use podd::image::policy::Policies;
use podd::image::registries::{Paths, Registries};
use podd::image::registry::AuthFile;
use podd::spec::seccomp::Profiles;
use podd::sys::isal;
use podd::tls::{Tls, TlsFiles};

use super::finding::{Check, whole};

/// A file, or files that belong together, and what is wrong with them.
#[derive(Debug, Clone)]
pub(super) struct File {
    id: &'static str,
    /// What is well when nothing is wrong.
    what: String,
    wrong: Vec<String>,
    /// What comes of it.
    otherwise: &'static str,
}

/// Reads them.
pub(super) fn observe(config: &Config) -> Vec<File> {
    let images = &config.images;
    let paths = Paths {
        registries_conf: images.registries_conf.clone(),
        certs_dir: images.certs_dir.clone(),
        hosts_dir: images.hosts_dir.clone(),
    };
    let shown = |path: &std::path::Path| match (path.as_os_str().is_empty(), path.exists()) {
        (true, _) => "none configured".to_owned(),
        (false, false) => format!("there is no {}", path.display()),
        (false, true) => path.display().to_string(),
    };
    let auth = Some(&images.auth_file).filter(|path| !path.as_os_str().is_empty());
    let auth = auth.map_or_else(Vec::new, |path| wrong(AuthFile::read(path)));
    let policies = Policies::new(images).check().iter().map(|error| whole(error)).collect();
    let no_start = "correct it: podd does not start with it";
    let file = |id, what, wrong, otherwise| File { id, what, wrong, otherwise };
    let mut files = vec![
        file("files.registries", shown(&images.registries_conf), wrong(Registries::open(paths)), no_start),
        file(
            "files.policy",
            shown(&images.policy),
            policies,
            "correct it: images that it is about are refused",
        ),
        file("files.auth", shown(&images.auth_file), auth, "correct it: pulls that need it fail"),
        file(
            "files.seccomp",
            shown(&config.seccomp.profile),
            wrong(Profiles::load(&config.seccomp)),
            no_start,
        ),
        file("files.hooks", hooks_dirs(config), wrong(hooks::check(&config.containers.hooks_dirs)), no_start),
        file(
            "files.streaming-tls",
            shown(&config.streaming.tls_cert),
            wrong(Tls::open(TlsFiles::of_streaming(&config.streaming))),
            no_start,
        ),
        file(
            "files.metrics-tls",
            shown(&config.metrics.tls_cert),
            wrong(Tls::open(TlsFiles::of_metrics(&config.metrics))),
            no_start,
        ),
    ];
    if images.inflate == Inflate::Isal {
        let otherwise = "install it, or set images.inflate to zlib-rs";
        files.push(file("files.isal", "libisal can be loaded".to_owned(), wrong(isal::load()), otherwise));
    }
    files
}

fn hooks_dirs(config: &Config) -> String {
    match config.containers.hooks_dirs.len() {
        0 => "none configured".to_owned(),
        count => format!("{count} directories of hooks"),
    }
}

fn wrong<T>(result: Result<T, impl Error>) -> Vec<String> {
    result.err().map(|error| whole(&error)).into_iter().collect()
}

/// Judges them.
pub(super) fn checks(files: &[File]) -> Vec<Check> {
    let of_one = |file: &File| match file.wrong.is_empty() {
        true => vec![Check::ok(file.id, file.what.clone())],
        false => file.wrong.iter().map(|why| Check::problem(file.id, why.clone(), file.otherwise)).collect(),
    };
    files.iter().flat_map(of_one).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::finding::Outcome;
    use super::*;

    #[test]
    fn files_are_well_when_they_are_absent_and_named_when_they_are_broken() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::defaults(dir.path(), dir.path());
        config.images.registries_conf = dir.path().join("registries.conf");
        config.images.policy = dir.path().join("policy.json");
        config.images.policy_dir = dir.path().join("policies");
        config.images.auth_file = dir.path().join("auth.json");
        config.images.certs_dir = dir.path().join("certs.d");
        fs::write(&config.images.policy, r#"{"default":[{"type":"reject"}]}"#).unwrap();
        let good = checks(&observe(&config));
        assert!(good.iter().all(|check| check.outcome == Outcome::Ok), "{good:#?}");

        fs::create_dir(&config.images.policy_dir).unwrap();
        for file in ["registries.conf", "policy.json", "policies/prod.json", "auth.json", "seccomp.json"] {
            fs::write(dir.path().join(file), "{ no").unwrap();
        }
        config.seccomp.profile = dir.path().join("seccomp.json");
        config.streaming.tls_cert = dir.path().join("auth.json");
        let bad = checks(&observe(&config));
        for (id, name) in [
            ("files.registries", "registries.conf"),
            ("files.policy", "policy.json"),
            ("files.policy", "prod.json"),
            ("files.auth", "auth.json"),
            ("files.seccomp", "seccomp.json"),
            ("files.streaming-tls", "auth.json"),
        ] {
            let named = |check: &&Check| {
                check.id == id && check.outcome == Outcome::Problem && check.seen.contains(name)
            };
            assert!(bad.iter().any(|check| named(&check)), "{id} {name}: {bad:#?}");
        }
    }
}
