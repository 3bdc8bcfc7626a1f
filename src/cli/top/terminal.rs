//! The terminal while `podd top` has it: its other screen, no cursor, each key at once. All of that ends with the value.

use std::io::{self, IsTerminal, Read, Write};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

use super::draw::{Line, Size};
use super::keys::{Key, keys};
use crate::cli::table::styled;

/// The other screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// The screen as it was.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Keys that were pressed and not looked at yet; more are not worth keeping.
const KEYS_WAITING: usize = 64;

/// The terminal, as long as it is ours.
pub(super) struct Terminal {
    before: Termios,
    colour: bool,
}

impl Terminal {
    /// Whether there is one to read keys from and to draw on.
    pub(super) fn is_there() -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// Takes the terminal.
    pub(super) fn open(colour: bool) -> io::Result<Self> {
        let terminal = Self { before: tcgetattr(io::stdin())?, colour };
        terminal.enter()?;
        Ok(terminal)
    }

    /// Takes it again, after somebody else has had it.
    pub(super) fn enter(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        put(ENTER)
    }

    /// How large it is now.
    pub(super) fn size(&self) -> Size {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Size { columns: size.ws_col.into(), rows: size.ws_row.into() }
            }
            _ => Size { columns: 80, rows: 24 },
        }
    }

    /// Draws all lines at once over those before, so that nothing flickers.
    pub(super) fn show(&self, lines: &[Line]) -> io::Result<()> {
        let mut picture = String::from("\x1b[H");
        for (number, line) in lines.iter().enumerate() {
            if number > 0 {
                picture.push_str("\r\n");
            }
            picture.push_str("\x1b[K");
            picture.push_str(&styled(&line.text, line.style, self.colour));
        }
        picture.push_str("\x1b[J");
        put(&picture)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = put(LEAVE);
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The keys as they are pressed; the end of the channel is the end of the terminal. The thread lives as long as the process.
pub(super) fn read_keys() -> io::Result<mpsc::Receiver<Key>> {
    let (sender, receiver) = mpsc::channel(KEYS_WAITING);
    let read = move || {
        let mut buffer = [0; 256];
        while let Ok(read @ 1..) = io::stdin().read(&mut buffer) {
            for key in keys(&buffer[..read]) {
                if sender.blocking_send(key).is_err() {
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("keys".to_owned()).spawn(read)?;
    Ok(receiver)
}

fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
