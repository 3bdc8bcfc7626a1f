//! The signal that asks a container to stop: the CRI's, else the image's, else SIGTERM (B28).

use oci_spec::image::ImageConfiguration;

use super::error::PodError;
use crate::api::{ContainerConfig, Signal};

/// The first real-time signal that a program may use (the C library keeps 32 and 33), by its number on Linux.
const RTMIN: i32 = 34;
/// The last one.
const RTMAX: i32 = 64;
const SIGTERM: i32 = 15;

/// The signal's number, and its name in the CRI; for a signal that nobody chose, the CRI's name is the default's.
pub(super) fn to_stop(config: &ContainerConfig, image: &ImageConfiguration) -> Result<(i32, i32), PodError> {
    let asked = Signal::try_from(config.stop_signal).map_err(|_| {
        PodError::invalid("config.stop_signal", format!("{} is not a signal of the CRI", config.stop_signal))
    })?;
    if asked != Signal::RuntimeDefault {
        let number = number_of(asked.as_str_name()).unwrap_or(SIGTERM);
        return Ok((number, asked.into()));
    }
    let number = match image.config().as_ref().and_then(|config| config.stop_signal().clone()) {
        Some(name) if !name.is_empty() => number_of(&name).ok_or_else(|| {
            PodError::invalid("config.image", format!("its stop signal {name:?} is not a signal"))
        })?,
        _ => SIGTERM,
    };
    Ok((number, name(number).into()))
}

/// `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-2`, and the CRI's `SIGRTMINPLUS3`.
fn number_of(text: &str) -> Option<i32> {
    let text = text.trim().to_ascii_uppercase();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text).replace("PLUS", "+").replace("MINUS", "-");
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.parse::<i32>().ok() };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => RTMIN + offset(rest)?,
        (_, Some(rest)) => RTMAX + offset(rest)?,
        _ => return None,
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// The CRI's name of a signal.
fn name(number: i32) -> Signal {
    let cri = match number {
        n @ RTMIN..=49 if n > RTMIN => format!("SIGRTMINPLUS{}", n - RTMIN),
        RTMIN => "SIGRTMIN".to_owned(),
        RTMAX => "SIGRTMAX".to_owned(),
        n @ 50..=63 => format!("SIGRTMAXMINUS{}", RTMAX - n),
        n => NAMES
            .iter()
            .find(|(_, known)| *known == n)
            .map(|(name, _)| format!("SIG{name}"))
            .unwrap_or_default(),
    };
    Signal::from_str_name(&cri).unwrap_or_default()
}

/// signal(7), x86 and ARM.
const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b28_every_signal_of_the_cri_has_its_number_and_is_named_back() {
        for value in 1..=65 {
            let signal = Signal::try_from(value).unwrap();
            let number = number_of(signal.as_str_name()).unwrap_or_else(|| panic!("{signal:?}"));
            let back = number_of(name(number).as_str_name()).unwrap();
            assert_eq!(back, number, "{signal:?}");
        }
    }

    #[test]
    fn b28_images_write_signals_in_many_ways() {
        for (text, expected) in
            [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-2", 62), ("SIGRTMIN", 34)]
        {
            assert_eq!(number_of(text), Some(expected), "{text}");
        }
        for text in ["", "SIG", "0", "65", "-1", "SIGRTMIN+31", "SIGFOO", "SIGRTMIN+99999999999"] {
            assert_eq!(number_of(text), None, "{text}");
        }
    }

    #[test]
    fn b28_the_cri_comes_before_the_image_and_the_image_before_the_default() {
        let image: ImageConfiguration = serde_json::from_str(
            r#"{"architecture":"amd64","os":"linux","config":{"StopSignal":"SIGUSR1"},"rootfs":{"type":"layers","diff_ids":[]}}"#,
        )
        .unwrap();
        let mut config = ContainerConfig::default();
        assert_eq!(to_stop(&config, &image).unwrap(), (10, Signal::Sigusr1.into()));
        config.stop_signal = Signal::Sigint.into();
        assert_eq!(to_stop(&config, &image).unwrap(), (2, Signal::Sigint.into()));
        assert_eq!(to_stop(&ContainerConfig::default(), &ImageConfiguration::default()).unwrap().0, SIGTERM);
    }
}
