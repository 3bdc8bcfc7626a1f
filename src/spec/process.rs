//! The process: what runs, with which environment, as whom.
//!
//! CRI `command` and `args` stand for the image's Entrypoint and Cmd as in a pod's `command` and `args`: a command alone
//! also puts the image's Cmd aside, args alone keep the Entrypoint.

use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{Process, User};

use super::{SpecError, SpecInput, resources, security as context};
use crate::api;

/// The search path of an image that sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The annotation of a pod or container that sets the umask, by the name that CRI-O gave it.
const UMASK: &str = "io.kubernetes.cri-o.umask";

/// The container's first process.
pub(super) fn build(input: &SpecInput<'_>, privileged: bool) -> Result<Process, SpecError> {
    let mut process = Process::default();
    process
        .set_terminal(Some(input.config.tty))
        .set_user(user(input)?)
        .set_args(Some(args(input.config, input.image)?))
        .set_env(Some(environment(input)?))
        .set_cwd(working_directory(input)?)
        .set_capabilities(Some(super::security::capabilities(input, privileged)?))
        .set_rlimits(Some(input.base.rlimits.clone()).filter(|limits| !limits.is_empty()))
        .set_no_new_privileges(Some(context(input).no_new_privs))
        .set_apparmor_profile(super::apparmor::profile(input, privileged)?)
        .set_oom_score_adj(Some(oom_score_adj(input)?))
        .set_selinux_label(input.labels.process.clone());
    Ok(process)
}

/// A process to run beside the container's first: the same user, environment, capabilities and directory.
pub fn exec_process(container: &Process, command: &[String], tty: bool) -> Process {
    let mut process = container.clone();
    process.set_args(Some(command.to_vec())).set_terminal(Some(tty)).set_console_size(None);
    if tty && let Some(env) = process.env_mut() {
        default_variable(env, "TERM", "xterm");
    }
    process
}

fn user(input: &SpecInput<'_>) -> Result<User, SpecError> {
    let resolved = input.user;
    let mut user = User::default();
    user.set_uid(resolved.uid)
        .set_gid(resolved.gid)
        .set_additional_gids(Some(resolved.additional_gids.clone()))
        .set_umask(umask(input)?);
    Ok(user)
}

/// What new files do not allow, where the operator lets pods say it; the runtimes take 0022 otherwise.
fn umask(input: &SpecInput<'_>) -> Result<Option<u32>, SpecError> {
    let Some(text) = input.annotations.get(UMASK) else { return Ok(None) };
    let is_octal = text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    match u32::from_str_radix(text, 8) {
        Ok(mask) if is_octal && mask <= 0o777 => Ok(Some(mask)),
        _ => {
            let why = format!("{text:?} is not an octal number from 0000 to 0777");
            Err(SpecError::invalid(format!("annotations[{UMASK:?}]"), why))
        }
    }
}

/// The program that a container begins with, as it is named; nothing where [`build`] will refuse to say.
pub fn program(config: &api::ContainerConfig, image: &ImageConfiguration) -> Option<String> {
    args(config, image).ok().and_then(|args| args.into_iter().next())
}

fn args(config: &api::ContainerConfig, image: &ImageConfiguration) -> Result<Vec<String>, SpecError> {
    let image = image.config().as_ref();
    let entrypoint = image.and_then(|config| config.entrypoint().clone()).unwrap_or_default();
    let cmd = image.and_then(|config| config.cmd().clone()).unwrap_or_default();
    let (mut args, rest) = match (&config.command[..], &config.args[..]) {
        ([], []) => (entrypoint, cmd),
        ([], args) => (entrypoint, args.to_vec()),
        (command, args) => (command.to_vec(), args.to_vec()),
    };
    if args == [""] {
        args.clear();
    }
    args.extend(rest);
    if args.first().is_none_or(String::is_empty) {
        return Err(SpecError::invalid("command", "neither the container nor its image says what to run"));
    }
    match args.iter().any(|arg| arg.contains('\0')) {
        true => Err(SpecError::invalid("command", "an argument contains a NUL byte")),
        false => Ok(args),
    }
}

/// The operator's variables, then the image's, then the pod's host name, then the client's; the last one to name a variable wins.
fn environment(input: &SpecInput<'_>) -> Result<Vec<String>, SpecError> {
    let mut env = Vec::new();
    for (name, value) in &input.base.env {
        set_variable(&mut env, name, value);
    }
    let image = input.image.config().as_ref().and_then(|config| config.env().as_deref());
    for (name, value) in image.unwrap_or_default().iter().filter_map(|entry| entry.split_once('=')) {
        if !name.is_empty() {
            set_variable(&mut env, name, value);
        }
    }
    set_variable(&mut env, "HOSTNAME", input.hostname);
    for (index, variable) in input.config.envs.iter().enumerate() {
        let value = client_value(index, variable)?;
        set_variable(&mut env, &variable.key, value);
    }
    default_variable(&mut env, "PATH", DEFAULT_PATH);
    if let Some(home) = &input.user.home {
        default_variable(&mut env, "HOME", home);
    }
    if input.config.tty {
        default_variable(&mut env, "TERM", "xterm");
    }
    check_environment(&env)?;
    Ok(env)
}

fn client_value(index: usize, variable: &api::KeyValue) -> Result<&str, SpecError> {
    let invalid = |why: &str| SpecError::invalid(format!("envs[{index}] ({:?})", variable.key), why);
    if variable.key.is_empty() || variable.key.contains('=') {
        return Err(invalid("the name of a variable must not be empty and must not contain '='"));
    }
    std::str::from_utf8(variable.value.as_ref())
        .map_err(|_| invalid("the value is not UTF-8, as the runtime needs"))
}

fn check_environment(env: &[String]) -> Result<(), SpecError> {
    for entry in env {
        let name = entry.split('=').next().unwrap_or_default();
        if entry.contains('\0') {
            return Err(SpecError::invalid("envs", format!("the variable {name:?} contains a NUL byte")));
        }
        // Whoever writes HOME into a passwd file would write a second user with it.
        if name == "HOME" && entry.contains('\n') {
            return Err(SpecError::invalid("envs", "HOME contains a line break"));
        }
    }
    Ok(())
}

pub(super) fn set_variable(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    match position(env, name) {
        Some(index) => env[index] = entry,
        None => env.push(entry),
    }
}

fn default_variable(env: &mut Vec<String>, name: &str, value: &str) {
    if position(env, name).is_none() {
        env.push(format!("{name}={value}"));
    }
}

fn position(env: &[String], name: &str) -> Option<usize> {
    env.iter().position(|entry| entry.split_once('=').is_some_and(|(key, _)| key == name))
}

fn working_directory(input: &SpecInput<'_>) -> Result<PathBuf, SpecError> {
    let image = input.image.config().as_ref().and_then(|config| config.working_dir().as_deref());
    let path = match input.config.working_dir.as_str() {
        "" => image.unwrap_or_default(),
        path => path,
    };
    if path.contains('\0') {
        return Err(SpecError::invalid("working_dir", "the path contains a NUL byte"));
    }
    Ok(PathBuf::from("/").join(path))
}

/// Always said: what a container does not say would be the daemon's own.
fn oom_score_adj(input: &SpecInput<'_>) -> Result<i32, SpecError> {
    let asked = input.config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let asked = asked.map(|resources| resources.oom_score_adj).unwrap_or_default();
    resources::oom_score_adj(asked, input.host, resources::OF_CONTAINER)
}
