//! `podd top`: what the pods of a node use, as it changes.
//!
//! Speaks the CRI alone, so it shows the pods of any CRI runtime. One task takes samples; this one has the terminal, and
//! draws whenever there is something new: a sample, a key, another size. What is drawn is a pure function (`draw.rs`).

mod draw;
mod keys;
mod sample;
mod terminal;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::client::Client;
use super::table::wants_colour;
use crate::Sources;
use draw::{View, draw, last_offset, page, plain, row_count};
use keys::Key;
use sample::{Sample, Sort, sort};
use terminal::Terminal;

/// How long after the first sample the second is taken, at the latest: rates need two.
const SOON: Duration = Duration::from_secs(1);

/// The arguments of `podd top`.
#[derive(Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    sources: Sources,
    /// The runtime's socket; any CRI runtime's will do. The configuration's, if not given.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Seconds between two looks.
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Print one table, after two looks, and end. So it is, too, where output or input is no terminal.
    #[arg(long)]
    once: bool,
    /// What comes first: the most of this.
    #[arg(long, value_enum, default_value = "cpu")]
    sort: Sort,
}

/// Does what `podd top` was asked to do.
pub(crate) async fn top(args: TopArgs) -> anyhow::Result<()> {
    let socket = super::socket(args.socket, args.sources)?;
    let interval = Duration::from_secs(args.interval);
    let mut client = Client::connect(&socket).await?;
    let version = client.version().await?;
    let view = View {
        runtime: format!("{} {}", version.runtime_name, version.runtime_version),
        entries: Vec::new(),
        sort: args.sort,
        offset: 0,
        remark: None,
        now: 0,
    };
    match args.once || !Terminal::is_there() {
        true => once(&client, view, interval.min(SOON)).await,
        false => Live::start(client, view, interval)?.run().await,
    }
}

async fn once(client: &Client, mut view: View, pause: Duration) -> anyhow::Result<()> {
    let before = Sample::take(client).await?;
    sleep(pause).await;
    let now = Sample::take(client).await?;
    if !now.has_stats() {
        eprintln!("podd: {}", no_stats(&view.runtime));
    }
    take_in(&mut view, &now, Some(&before));
    print!("{}", plain(&view));
    Ok(())
}

fn take_in(view: &mut View, now: &Sample, before: Option<&Sample>) {
    view.entries = now.entries(before);
    view.now = now.now;
    view.remark = (!now.has_stats()).then(|| no_stats(&view.runtime));
    sort(&mut view.entries, view.sort);
}

fn no_stats(runtime: &str) -> String {
    format!("{runtime} does not tell what pods use (no stats in its CRI)")
}

/// `podd top` on a terminal.
struct Live {
    terminal: Terminal,
    view: View,
    before: Option<Sample>,
    samples: mpsc::Receiver<anyhow::Result<Sample>>,
    keys: mpsc::Receiver<Key>,
    resized: Signal,
    continued: Signal,
    ends: [Signal; 4],
}

impl Live {
    fn start(client: Client, view: View, interval: Duration) -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("watching for signals");
        let ends =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()];
        let [terminate, interrupt, hangup, quit] = ends.map(watch);
        let ends = [terminate?, interrupt?, hangup?, quit?];
        let (resized, continued) =
            (watch(SignalKind::window_change())?, watch(SignalKind::from_raw(libc::SIGCONT))?);
        // From here on only this value's end gives the terminal back.
        let terminal = Terminal::open(wants_colour()).context("taking the terminal")?;
        let keys = terminal::read_keys().context("reading keys")?;
        // One: a sample that nobody looked at yet is new enough.
        let (sender, samples) = mpsc::channel(1);
        tokio::spawn(keep_sampling(client, interval, sender));
        Ok(Self { terminal, view, before: None, samples, keys, resized, continued, ends })
    }

    async fn run(mut self) -> anyhow::Result<()> {
        loop {
            let size = self.terminal.size();
            let furthest = last_offset(row_count(&self.view.entries), page(size));
            self.view.offset = self.view.offset.min(furthest);
            self.terminal.show(&draw(&self.view, size)).context("drawing")?;
            let [terminate, interrupt, hangup, quit] = &mut self.ends;
            tokio::select! {
                sample = self.samples.recv() => match sample {
                    Some(Ok(sample)) => {
                        take_in(&mut self.view, &sample, self.before.as_ref());
                        self.before = Some(sample);
                    }
                    // What was seen last stays, with the reason why it is not newer.
                    Some(Err(error)) => self.view.remark = Some(format!("{error:#}")),
                    None => return Ok(()),
                },
                key = self.keys.recv() => match key {
                    None | Some(Key::Quit) => return Ok(()),
                    Some(key) => self.obey(key, page(size)),
                },
                _ = self.resized.recv() => {}
                _ = self.continued.recv() => self.terminal.enter().context("taking the terminal again")?,
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hangup.recv() => return Ok(()),
                _ = quit.recv() => return Ok(()),
            }
        }
    }

    fn obey(&mut self, key: Key, page: usize) {
        let offset = self.view.offset;
        self.view.offset = match key {
            Key::Quit => offset,
            Key::Sort => {
                self.view.sort = self.view.sort.next();
                sort(&mut self.view.entries, self.view.sort);
                0
            }
            Key::Up => offset.saturating_sub(1),
            Key::Down => offset.saturating_add(1),
            Key::PageUp => offset.saturating_sub(page),
            Key::PageDown => offset.saturating_add(page),
            Key::First => 0,
            Key::Last => usize::MAX,
        };
    }
}

async fn keep_sampling(client: Client, interval: Duration, samples: mpsc::Sender<anyhow::Result<Sample>>) {
    let mut pause = interval.min(SOON);
    while samples.send(Sample::take(&client).await).await.is_ok() {
        sleep(pause).await;
        pause = interval;
    }
}
