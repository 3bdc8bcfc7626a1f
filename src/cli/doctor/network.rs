//! CNI: the configuration files, the plugins, and what these say of themselves.

use podd::config::Config;
use podd::network::{MissingPlugin, NetworkList, PluginAnswer, PluginError, Survey};

use super::finding::{Check, whole};

/// What was seen of it.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) directory: String,
    pub(super) plugin_dirs: String,
    pub(super) survey: Result<Survey, String>,
    /// The plugins of the selected network that are not installed.
    pub(super) missing: Vec<String>,
    pub(super) versions: Result<Vec<PluginAnswer>, MissingPlugin>,
    /// `None` where the network's version has no STATUS.
    pub(super) status: Option<Result<(), PluginError>>,
}

/// Reads the files, and asks the plugins that are used.
pub(super) async fn observe(config: &Config) -> Observed {
    let network = &config.network;
    let dirs: Vec<_> = network.plugin_dirs.iter().map(|dir| dir.display().to_string()).collect();
    let survey = Survey::of(network).map_err(|e| e.to_string());
    let (mut versions, mut status) = (Ok(Vec::new()), None);
    if let Ok(survey) = &survey {
        versions = survey.versions().await;
        // A plugin that does not even say its version is not asked for more.
        if versions.as_ref().is_ok_and(|answers| answers.iter().all(|answer| answer.versions.is_ok())) {
            status = survey.status().await;
        }
    }
    let directory = network.conf_dir.display().to_string();
    let missing = survey.as_ref().map(Survey::missing).unwrap_or_default();
    Observed { directory, plugin_dirs: dirs.join(", "), survey, missing, versions, status }
}

/// Judges it.
pub(super) fn checks(observed: &Observed) -> Vec<Check> {
    const ID: &str = "network.config";
    let survey = match &observed.survey {
        Ok(survey) => survey,
        Err(why) => {
            let seen = format!("{} cannot be read: {why}", observed.directory);
            return vec![Check::problem(ID, seen, "let podd read it, or correct network.conf_dir")];
        }
    };
    let mut checks = Vec::new();
    match survey.selected() {
        None if survey.files.is_empty() => checks.push(Check::problem(
            ID,
            format!("there is no network configuration in {}", observed.directory),
            "install a network add-on; until then pods on the host's network run, and no others",
        )),
        None => checks.push(Check::problem(
            ID,
            format!("no file in {} is valid", observed.directory),
            "correct one of them, see below",
        )),
        Some(list) => checks.push(Check::ok(ID, in_words(list, survey))),
    }
    checks.extend(broken(survey));
    if let Some(list) = survey.selected() {
        checks.push(plugins(observed, list));
        checks.extend(answers(observed, list));
    }
    checks
}

fn in_words(list: &NetworkList, survey: &Survey) -> String {
    let kinds: Vec<_> = list.plugins.iter().map(|plugin| plugin.kind()).collect();
    let file = survey.files.iter().find(|(_, found)| found.as_ref().is_ok_and(|found| found == list));
    let file = file.map(|(path, _)| path.display().to_string()).unwrap_or_default();
    format!("{} (CNI {}: {}) from {file}", list.name, list.cni_version, kinds.join(", "))
}

/// A check for each file that cannot be used. One that is looked at before the network of the pods may be meant to be it.
fn broken(survey: &Survey) -> impl Iterator<Item = Check> {
    let selected = survey.files.iter().position(|(_, list)| list.is_ok());
    survey.files.iter().enumerate().filter_map(move |(number, (path, list))| {
        let why = list.as_ref().err()?;
        let seen = format!("{} {}", path.display(), whole(why));
        let advice = "correct or remove it";
        Some(match selected {
            Some(selected) if number > selected => Check::note("network.file", seen, advice),
            Some(_) => {
                Check::warning("network.file", format!("{seen}; it is passed over for the next one"), advice)
            }
            None => Check::problem("network.file", seen, advice),
        })
    })
}

fn plugins(observed: &Observed, list: &NetworkList) -> Check {
    const ID: &str = "network.plugins";
    match &observed.missing[..] {
        [] => {
            let loopback = list.plugins.iter().any(|plugin| plugin.kind() == "loopback");
            let more = if loopback { "; loopback is not needed, podd does its work" } else { "" };
            Check::ok(ID, format!("all there, in {}{more}", observed.plugin_dirs))
        }
        missing => Check::problem(
            ID,
            format!("{} not in {}", missing.join(", "), observed.plugin_dirs),
            "install the CNI plugins of your network add-on there, or correct network.plugin_dirs",
        ),
    }
}

/// What the plugins say of themselves: each its versions, and together whether they can attach pods now.
fn answers(observed: &Observed, list: &NetworkList) -> Vec<Check> {
    let wanted = list.cni_version.as_str();
    let mut checks = Vec::new();
    for PluginAnswer { plugin, versions } in observed.versions.iter().flatten() {
        let id = format!("network.plugin.{plugin}");
        match versions {
            Ok(known) if known.iter().any(|version| version == wanted) => {}
            Ok(known) => checks.push(Check::problem(
                id,
                format!("it speaks CNI {}, and not the network's {wanted}", known.join(", ")),
                "install a newer plugin, or lower cniVersion in the network's configuration",
            )),
            Err(error) => checks.push(Check::problem(
                id,
                whole(error),
                "run it by hand with CNI_COMMAND=VERSION, and put right what it says: no pod can be attached",
            )),
        }
    }
    match &observed.status {
        None => {}
        Some(Ok(())) => checks.push(Check::ok("network.status", "the plugins can attach pods (STATUS)")),
        Some(Err(error)) => checks.push(Check::problem(
            "network.status",
            whole(error),
            "look at the network add-on: its plugin says that it cannot attach pods now",
        )),
    }
    checks
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::finding::Outcome;
    use super::*;

    /// What real plugins and files give, with scripts in the place of plugins.
    fn observed(files: &[(&str, &str)], plugins: &[(&str, &str)]) -> Observed {
        let dir = tempfile::tempdir().unwrap();
        let (conf, bin) = (dir.path().join("conf"), dir.path().join("bin"));
        for directory in [&conf, &bin] {
            fs::create_dir(directory).unwrap();
        }
        for (name, text) in files {
            fs::write(conf.join(name), text).unwrap();
        }
        for (name, text) in plugins {
            // Another process writes it: a fork of this one that has it open would make it busy.
            let script = bin.join(name);
            let draft = dir.path().join("draft");
            fs::write(&draft, format!("#!/bin/sh\n{text}\n")).unwrap();
            let installed =
                std::process::Command::new("install").arg("-m755").arg(&draft).arg(&script).status();
            assert!(installed.unwrap().success());
        }
        let mut config = Config::defaults(dir.path(), dir.path());
        (config.network.conf_dir, config.network.plugin_dirs) = (conf, vec![bin]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(observe(&config))
    }

    fn found(observed: &Observed) -> Vec<(String, Outcome)> {
        checks(observed).into_iter().map(|check| (check.id, check.outcome)).collect()
    }

    fn network(version: &str, plugin: &str) -> String {
        format!(
            r#"{{"cniVersion":"{version}","name":"net","plugins":[{{"type":"{plugin}"}},{{"type":"loopback"}}]}}"#
        )
    }

    const KNOWS: &str =
        r#"case $CNI_COMMAND in VERSION) echo '{"supportedVersions":["1.0.0","1.1.0"]}';; esac"#;

    fn expect(observed: &Observed, expected: &[(&str, Outcome)]) {
        let found = found(observed);
        let found: Vec<_> = found.iter().map(|(id, outcome)| (id.as_str(), *outcome)).collect();
        assert_eq!(found, expected, "{:#?}", checks(observed));
    }

    #[test]
    fn a_network_with_its_plugins_is_well_and_is_asked_for_its_status_where_it_can_be() {
        use Outcome::{Ok as Fine, Problem};
        let plugins = [("bridge", KNOWS)];
        let old = observed(&[("a.conflist", &network("1.0.0", "bridge"))], &plugins);
        expect(&old, &[("network.config", Fine), ("network.plugins", Fine)]);
        let new = observed(&[("a.conflist", &network("1.1.0", "bridge"))], &plugins);
        expect(&new, &[("network.config", Fine), ("network.plugins", Fine), ("network.status", Fine)]);
        let busy = format!(
            r#"{KNOWS}; [ $CNI_COMMAND = VERSION ] || {{ echo '{{"code":50,"msg":"no"}}'; exit 1; }}"#
        );
        let new = observed(&[("a.conflist", &network("1.1.0", "bridge"))], &[("bridge", &busy)]);
        expect(&new, &[("network.config", Fine), ("network.plugins", Fine), ("network.status", Problem)]);
    }

    #[test]
    fn broken_files_are_named_and_weighed_by_where_they_stand() {
        use Outcome::{Note, Ok as Fine, Problem, Warning};
        let good = network("1.0.0", "bridge");
        let files = [("10-a.conf", "{"), ("20-b.conflist", good.as_str()), ("30-c.conflist", "{}")];
        let expected = [
            ("network.config", Fine),
            ("network.file", Warning),
            ("network.file", Note),
            ("network.plugins", Fine),
        ];
        expect(&observed(&files, &[("bridge", KNOWS)]), &expected);
        let all_broken = observed(&[("10-a.conf", "{")], &[]);
        expect(&all_broken, &[("network.config", Problem), ("network.file", Problem)]);
        assert!(checks(&all_broken)[1].seen.contains("10-a.conf"));
        expect(&observed(&[], &[]), &[("network.config", Problem)]);
    }

    #[test]
    fn plugins_that_are_missing_or_too_old_or_hang_are_problems() {
        use Outcome::{Ok as Fine, Problem};
        let files = [("a.conflist", network("1.1.0", "bridge"))].map(|(name, text)| (name, text));
        let files = [(files[0].0, files[0].1.as_str())];
        expect(&observed(&files, &[]), &[("network.config", Fine), ("network.plugins", Problem)]);
        let old = r#"echo '{"supportedVersions":["0.4.0"]}'"#;
        for plugin in [old, "sleep 1000", "echo nonsense", "exit 3"] {
            let expected =
                [("network.config", Fine), ("network.plugins", Fine), ("network.plugin.bridge", Problem)];
            let seen = observed(&files, &[("bridge", plugin)]);
            if plugin == old {
                // It answers, so it is asked on.
                assert_eq!(found(&seen)[..3].len(), 3);
                assert_eq!(found(&seen)[2].1, Problem);
            } else {
                expect(&seen, &expected);
            }
        }
    }
}
