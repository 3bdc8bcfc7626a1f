//! A terminal of its own for a program: its screen, its keys, its size.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use super::eventually;

/// A pseudo terminal and what runs on it.
#[derive(Debug)]
pub struct Terminal {
    keyboard: File,
    /// Held open, so that its settings can be looked at when nothing runs on it.
    line: File,
    output: Arc<Mutex<String>>,
    child: Option<Child>,
}

impl Terminal {
    /// One of that size.
    pub fn new(columns: u16, rows: u16) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        let line = File::options().read(true).write(true).open(name).unwrap();
        let keyboard = File::from(keyboard);
        let output = Arc::new(Mutex::new(String::new()));
        let (mut screen, written) = (keyboard.try_clone().unwrap(), Arc::clone(&output));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut buffer) {
                written.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        });
        let terminal = Self { keyboard, line, output, child: None };
        terminal.resize(columns, rows);
        terminal
    }

    /// Runs a program on it, as its session's leader.
    pub fn run(&mut self, program: &Path, args: &[&str]) {
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(program).args(args);
        command.stdin(self.line.try_clone().unwrap());
        command.stdout(self.line.try_clone().unwrap()).stderr(self.line.try_clone().unwrap());
        self.child = Some(command.spawn().unwrap());
    }

    /// Types.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Gives it another size, which the program is told of.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.keyboard.as_fd(), size).unwrap();
    }

    /// Signals the program.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// How the line is set, in a form that can be compared.
    pub fn settings(&self) -> String {
        let Termios { input_modes, output_modes, control_modes, local_modes, .. } =
            tcgetattr(&self.line).unwrap();
        format!("{input_modes:?} {output_modes:?} {control_modes:?} {local_modes:?}")
    }

    /// All that was written to it, as far as it was read.
    fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// The lines of the last whole picture, once they are as wanted.
    pub async fn screen(&self, what: &str, good: impl Fn(&[String]) -> bool) -> Vec<String> {
        eventually(what, || async { picture(&self.output()).filter(|lines| good(lines)) }).await
    }

    /// Waits until this was written to it.
    pub async fn says(&self, text: &str) {
        eventually(&format!("{text:?} on the terminal"), || async {
            self.output().contains(text).then_some(())
        })
        .await;
    }

    /// Waits until what was written to it ends like this.
    pub async fn ends_with(&self, what: &str, end: &str) {
        eventually(what, || async { self.output().ends_with(end).then_some(()) }).await;
    }

    /// The program's exit status.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = Mutex::new(self.child.take().unwrap());
        eventually("the end", || async { child.lock().unwrap().try_wait().unwrap() }).await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A picture begins at the upper left and ends with the erasing of what is below it.
fn picture(output: &str) -> Option<Vec<String>> {
    let whole = &output[..output.rfind("\u{1b}[J")?];
    let picture = &whole[whole.rfind("\u{1b}[H")?..];
    Some(picture.split("\r\n").map(|line| plain(line).trim_end().to_owned()).collect())
}

/// Without escape sequences.
fn plain(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(
            part.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or_default(),
        );
    }
    plain
}
