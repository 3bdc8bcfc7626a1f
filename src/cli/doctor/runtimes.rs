//! The OCI runtimes: each handler's binary, its version by its own word, and what it can do.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use podd::cgroup::Driver;
use podd::config::{Config, RuntimeConfig};
use podd::runtime::{Features, Kind, Runtime, RuntimeError};
use podd::spec::Base;

use super::finding::{Check, whole};

/// A runtime says who it is within some milliseconds; one that takes this long holds up every pod.
const SLOW: Duration = Duration::from_secs(2);

/// Major, minor and patch.
type Version = (u32, u32, u32);

/// Versions with a known hole: whose, those before which are affected, within which line, and what it is. Lines are by the
/// first two numbers; a line that is not named here is affected when it is older than the first that is.
const HOLES: [(Kind, &[Version], &str); 3] = [
    (
        Kind::Runc,
        &[(1, 2, 8), (1, 3, 3), (1, 4, 0)],
        "CVE-2025-31133, -52565 and -52881: ways out through masked paths and /dev/console",
    ),
    (Kind::Runc, &[(1, 1, 12)], "CVE-2024-21626: a way out through a leaked descriptor"),
    (Kind::Crun, &[(1, 4, 4)], "CVE-2022-27650: inheritable capabilities that are not empty"),
];

/// What was seen of one handler.
#[derive(Debug)]
pub(super) struct Handler {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Whether pods that name no handler get it.
    pub(super) default: bool,
    /// Whether it is there without a word in a file, so that nobody may want it.
    pub(super) built_in: bool,
    pub(super) answer: Result<Answer, Silence>,
    pub(super) took: Duration,
    /// What is wrong with its base document.
    pub(super) base: Option<String>,
}

/// What a runtime says of itself.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) kind: Kind,
    pub(super) version: String,
    pub(super) features: Features,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Silence {
    Missing,
    Unusable(String),
    Hangs(Duration),
}

/// Asks all at once.
pub(super) async fn observe(config: &Config) -> Vec<Handler> {
    let systemd = Driver::in_force(config.cgroup_driver).is_ok_and(|driver| driver == Driver::Systemd);
    let ask = |(name, runtime): (&String, &RuntimeConfig)| {
        let (name, runtime) = (name.clone(), runtime.clone());
        async move {
            let began = Instant::now();
            let probed = Runtime::probe(&name, &runtime, systemd).await;
            let base = Base::new(&config.containers, &name, &runtime.base_spec);
            Handler {
                default: name == config.default_runtime,
                built_in: runtime == RuntimeConfig::named(&name, &config.run_dir),
                answer: probed.map_err(silence).map(|probed| Answer {
                    kind: probed.kind(),
                    version: probed.version().to_owned(),
                    features: probed.features().clone(),
                }),
                took: began.elapsed(),
                base: base.err().map(|error| whole(&error)),
                path: runtime.path,
                name,
            }
        }
    };
    join_all(config.runtimes.iter().map(ask)).await
}

fn silence(error: RuntimeError) -> Silence {
    match error {
        RuntimeError::Binary { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Silence::Missing
        }
        RuntimeError::Binary { source, .. } | RuntimeError::Io { source, .. } => {
            Silence::Unusable(source.to_string())
        }
        RuntimeError::Failed { text, .. } => Silence::Unusable(text),
        RuntimeError::Timeout { after, .. } => Silence::Hangs(after),
    }
}

/// Judges them.
pub(super) fn checks(handlers: &[Handler]) -> Vec<Check> {
    handlers.iter().flat_map(of_one).collect()
}

fn of_one(handler: &Handler) -> Vec<Check> {
    let id = format!("runtime.{}", handler.name);
    let mut checks = match &handler.answer {
        Err(silence) => vec![silent(&id, handler, silence)],
        Ok(answer) => answered(&id, handler, answer),
    };
    checks.extend(handler.base.as_ref().map(|why| {
        Check::problem(
            format!("{id}.base-spec"),
            why.clone(),
            "correct the document: podd does not start with it",
        )
    }));
    checks
}

fn silent(id: &str, handler: &Handler, silence: &Silence) -> Check {
    let path = handler.path.display();
    let (seen, advice) = match silence {
        Silence::Missing => {
            (format!("there is no {path}"), format!("install it, or correct runtimes.{}.path", handler.name))
        }
        Silence::Unusable(why) => (
            format!("{path} does not say its version: {why}"),
            format!("run {path} --version, and put right what it says"),
        ),
        Silence::Hangs(after) => (
            format!("{path} --version did not end within {} s", after.as_secs()),
            "find out what it waits for (strace): every pod would wait for it too".to_owned(),
        ),
    };
    match (silence, handler.default, handler.built_in) {
        (Silence::Missing, false, true) => {
            Check::note(id, seen, "nothing, unless pods are to have this handler; it is in podd's defaults")
        }
        (_, true, _) => Check::problem(id, format!("{seen}; it is the default one"), &advice),
        (_, false, _) => Check::problem(id, seen, &advice),
    }
}

fn answered(id: &str, handler: &Handler, answer: &Answer) -> Vec<Check> {
    let Answer { kind, version, features } = answer;
    let name = match kind {
        Kind::Crun => "crun",
        Kind::Runc => "runc",
        Kind::Other => "a runtime of another kind,",
    };
    let role = if handler.default { ", the default" } else { "" };
    let mut checks = vec![match handler.took {
        took if took > SLOW => Check::warning(
            id,
            format!("{name} {version} took {:.1} s to say its version and features", took.as_secs_f64()),
            "find out what it waits for (strace): every operation on a container waits too",
        ),
        _ => Check::ok(id, format!("{name} {version} at {}{role}", handler.path.display())),
    }];
    let lacks = [
        ("read-only mounts with all below them", &features.recursive_read_only),
        ("volumes in user namespaces", &features.id_mapped_mounts),
    ];
    let lacks: Vec<_> = lacks.iter().filter_map(|(what, able)| Some((what, able.as_ref().err()?))).collect();
    checks.push(match lacks.first() {
        None => Check::ok(format!("{id}.features"), "recursive read-only and id-mapped mounts"),
        Some((_, why)) => {
            let names: Vec<_> = lacks.iter().map(|(what, _)| **what).collect();
            let seen = format!("no {}: {why}", names.join(" and no "));
            Check::note(
                format!("{id}.features"),
                seen,
                "nothing, unless pods ask for it; they are refused, with the reason",
            )
        }
    });
    checks.extend(holes(id, *kind, version));
    checks
}

/// What is known against this version; only the newest of it.
fn holes(id: &str, kind: Kind, version: &str) -> Option<Check> {
    let numbers = numbers(version)?;
    let affected =
        |fixed: &[Version]| match fixed.iter().find(|line| (line.0, line.1) == (numbers.0, numbers.1)) {
            Some(line) => numbers < *line,
            None => fixed.first().is_some_and(|first| numbers < *first),
        };
    let (_, fixed, what) = HOLES.iter().find(|(whose, fixed, _)| *whose == kind && affected(fixed))?;
    let fixed: Vec<_> = fixed.iter().map(|(a, b, c)| format!("{a}.{b}.{c}")).collect();
    let (id, seen) = (format!("{id}.security"), format!("{version} is older than the fix of {what}"));
    Some(match version.contains(['+', '~', '-']) {
        // As distributions write it that put fixes into old versions.
        true => Check::note(
            id,
            seen,
            "see that your distribution's package has the fix, which its version does not tell",
        ),
        false => Check::warning(id, seen, &format!("install {} or newer", fixed.join(", "))),
    })
}

fn numbers(version: &str) -> Option<Version> {
    let plain = version.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut parts = plain.split('.');
    let first = parts.next()?.parse().ok()?;
    let mut next = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    Some((first, next(), next()))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Outcome;
    use super::*;

    fn handler(answer: Result<Answer, Silence>) -> Handler {
        Handler {
            name: "crun".into(),
            path: "/usr/bin/crun".into(),
            default: true,
            built_in: true,
            answer,
            took: Duration::from_millis(5),
            base: None,
        }
    }

    fn answer(kind: Kind, version: &str) -> Answer {
        let features = Features { recursive_read_only: Ok(()), id_mapped_mounts: Ok(()) };
        Answer { kind, version: version.into(), features }
    }

    fn outcomes(handler: &Handler) -> Vec<Outcome> {
        of_one(handler).iter().map(|check| check.outcome).collect()
    }

    #[test]
    fn a_runtime_that_answers_is_well() {
        assert_eq!(outcomes(&handler(Ok(answer(Kind::Crun, "1.21")))), [Outcome::Ok, Outcome::Ok]);
        let mut old = answer(Kind::Crun, "1.8.1");
        old.features.id_mapped_mounts = Err("it needs crun 1.9".into());
        assert_eq!(outcomes(&handler(Ok(old))), [Outcome::Ok, Outcome::Note]);
        let mut slow = handler(Ok(answer(Kind::Crun, "1.21")));
        slow.took = Duration::from_secs(10);
        assert_eq!(outcomes(&slow)[0], Outcome::Warning);
    }

    #[test]
    fn one_that_does_not_answer_is_a_problem_unless_nobody_wants_it() {
        for silence in [Silence::Missing, Silence::Unusable("no".into()), Silence::Hangs(SLOW)] {
            assert_eq!(outcomes(&handler(Err(silence))), [Outcome::Problem]);
        }
        let unwanted = Handler { default: false, ..handler(Err(Silence::Missing)) };
        assert_eq!(outcomes(&unwanted), [Outcome::Note]);
        let configured = Handler { built_in: false, ..unwanted };
        assert_eq!(outcomes(&configured), [Outcome::Problem]);
        let hangs = Handler { default: false, ..handler(Err(Silence::Hangs(SLOW))) };
        assert_eq!(outcomes(&hangs), [Outcome::Problem]);
        let base = Handler { base: Some("no JSON".into()), ..handler(Ok(answer(Kind::Crun, "1.21"))) };
        assert_eq!(outcomes(&base)[2], Outcome::Problem);
    }

    #[test]
    fn holes_are_known_by_line_and_version() {
        let found = |kind, version: &str| holes("r", kind, version).map(|check| check.outcome);
        assert_eq!(found(Kind::Runc, "1.1.11"), Some(Outcome::Warning));
        assert_eq!(found(Kind::Runc, "1.1.5+ds1"), Some(Outcome::Note));
        assert_eq!(found(Kind::Runc, "1.2.7"), Some(Outcome::Warning));
        for fixed in ["1.2.8", "1.3.3", "1.4.0", "1.5.0"] {
            assert_eq!(found(Kind::Runc, fixed), None, "{fixed}");
        }
        assert_eq!(found(Kind::Crun, "1.4.3"), Some(Outcome::Warning));
        assert_eq!(found(Kind::Crun, "1.8.1"), None);
        assert_eq!(found(Kind::Other, "0.1"), None);
        assert_eq!(found(Kind::Runc, "unknown"), None);
    }
}
