//! The one loop that awaits: keys, the network's messages, the clock and signals go in, effects
//! come out and are spawned.
//!
//! It never awaits the network itself, so no key ever waits for a node. It draws only when
//! something changed, at most twenty times a second; when nothing happens it wakes once a second.

use std::{
    io,
    pin::Pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use crossterm::event::{Event, EventStream};
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep_until},
};

use crate::{
    app::{App, update},
    client::Client,
    config::Settings,
    exit,
    link::driver::{self, LinkHandle},
    message::{ChangeAnswer, ChangeOrder, ChangeOutcome, DataAnswer, DataRequest, Effect, Msg},
    procedure,
    progress::{ProcedureCommand, Progress},
    screen,
    terminal::Screen,
};

/// Messages of the network that may wait; beyond that its tasks wait.
const QUEUE: usize = 256;
/// Messages taken in one go before the screen gets its turn.
const BATCH: usize = 64;
/// At most twenty frames a second.
const FRAME: Duration = Duration::from_millis(50);
/// Steps of a procedure that may wait.
const PROGRESS_QUEUE: usize = 16;

/// Opens the dashboard and runs it until it is left.
pub async fn run(settings: Settings) -> ExitCode {
    let entered = Screen::enter();
    let mut screen = match entered {
        Ok(screen) => screen,
        Err(error) => {
            eprintln!(
                "ringmaster: the dashboard needs a terminal: {error}. \
                 The verbs work without one: ringmaster status, members, check, …"
            );
            return exit::FAILED.into();
        }
    };
    let code = Loop::new(&settings, &screen);
    let ended = match code {
        Ok(mut it) => it.run(&mut screen).await,
        Err(error) => Err(error),
    };
    drop(screen);
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("ringmaster: {error:#}");
            exit::FAILED.into()
        }
    }
}

struct Loop {
    app: App,
    /// Zero of the console's clock.
    epoch: Instant,
    client: Client,
    link: LinkHandle,
    messages: mpsc::Receiver<Msg>,
    sender: mpsc::Sender<Msg>,
    /// Operations on data and procedures; ended with the console.
    tasks: JoinSet<()>,
    /// Turns true to cancel the procedure that runs.
    cancel: Option<watch::Sender<bool>>,
    dirty: bool,
    drawn: Instant,
}

/// Why the loop should end.
type Step = Option<exit::Exit>;

impl Loop {
    fn new(settings: &Settings, screen: &Screen) -> anyhow::Result<Self> {
        let epoch = Instant::now();
        let (sender, messages) = mpsc::channel(QUEUE);
        let client = Client::new()?;
        let link = driver::spawn(&settings.endpoints, &client, epoch, sender.clone());
        let mut app = App::new(settings.display, settings.read_only, Timestamp::now());
        app.size = screen.size()?;
        Ok(Self {
            app,
            epoch,
            client,
            link,
            messages,
            sender,
            tasks: JoinSet::new(),
            cancel: None,
            dirty: true,
            drawn: epoch.checked_sub(FRAME).unwrap_or(epoch),
        })
    }

    async fn run(&mut self, screen: &mut Screen) -> anyhow::Result<exit::Exit> {
        let mut keys = EventStream::new();
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut signals = Signals::new()?;
        loop {
            let draw_at = self.drawn + FRAME;
            if self.dirty && Instant::now() >= draw_at {
                self.draw(screen)?;
            }
            let step = tokio::select! {
                key = keys.next() => self.terminal_event(key, screen)?,
                Some(msg) = self.messages.recv() => self.messages(msg, screen)?,
                _ = seconds.tick() => self.take(Msg::Second, screen)?,
                () = sleep_until(draw_at.into()), if self.dirty => None,
                end = signals.next() => Some(end),
                // Ended tasks have told what they had to tell.
                Some(_) = self.tasks.join_next() => None,
            };
            if let Some(exit) = step {
                return Ok(exit);
            }
        }
    }

    fn draw(&mut self, screen: &mut Screen) -> io::Result<()> {
        let (now_ms, utc) = self.now();
        self.app.set_time(now_ms, utc);
        screen.draw(|frame| screen::draw(frame, &self.app))?;
        self.dirty = false;
        self.drawn = Instant::now();
        Ok(())
    }

    fn now(&self) -> (u64, Timestamp) {
        (self.epoch.elapsed().as_millis() as u64, Timestamp::now())
    }

    fn terminal_event(
        &mut self,
        event: Option<io::Result<Event>>,
        screen: &mut Screen,
    ) -> anyhow::Result<Step> {
        let msg = match event {
            Some(Ok(Event::Key(key))) => Msg::Key(key),
            Some(Ok(Event::Paste(text))) => Msg::Paste(text),
            Some(Ok(Event::Resize(columns, rows))) => Msg::Size(columns, rows),
            Some(Ok(Event::FocusGained | Event::FocusLost | Event::Mouse(_))) => return Ok(None),
            // The terminal is gone: nobody looks any more.
            Some(Err(_)) | None => return Ok(Some(exit::FAILED)),
        };
        self.take(msg, screen)
    }

    /// Takes what is there, so that a burst costs one frame and not many.
    fn messages(&mut self, first: Msg, screen: &mut Screen) -> anyhow::Result<Step> {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(msg) = next.take() else {
                break;
            };
            if let Some(exit) = self.take(msg, screen)? {
                return Ok(Some(exit));
            }
            next = self.messages.try_recv().ok();
        }
        match next {
            Some(msg) => self.take(msg, screen),
            None => Ok(None),
        }
    }

    fn take(&mut self, msg: Msg, screen: &mut Screen) -> anyhow::Result<Step> {
        let (now_ms, utc) = self.now();
        self.app.set_time(now_ms, utc);
        self.dirty = true;
        for effect in update(&mut self.app, msg) {
            if let Some(exit) = self.effect(effect, screen)? {
                return Ok(Some(exit));
            }
        }
        Ok(None)
    }

    fn effect(&mut self, effect: Effect, screen: &mut Screen) -> anyhow::Result<Step> {
        match effect {
            Effect::Quit => return Ok(Some(exit::OK)),
            Effect::Suspend => screen.suspend()?,
            Effect::RetryNow => self.link.retry_now(),
            Effect::Data { endpoint, request } => {
                let (client, sender) = (self.client.clone(), self.sender.clone());
                self.tasks.spawn(operate(client, endpoint, request, sender));
            }
            Effect::Change {
                endpoint,
                id,
                order,
            } => {
                let (client, sender) = (self.client.clone(), self.sender.clone());
                self.tasks
                    .spawn(change(client, endpoint, id, order, sender));
            }
            Effect::Procedure(command) => self.command(command),
            Effect::Yank(text) => screen.yank(&text)?,
        }
        Ok(None)
    }

    fn command(&mut self, command: ProcedureCommand) {
        match command {
            ProcedureCommand::Start(kind, targets) => {
                let (cancel, cancelled) = watch::channel(false);
                self.cancel = Some(cancel);
                let (progress, steps) = mpsc::channel(PROGRESS_QUEUE);
                let sender = self.sender.clone();
                self.tasks.spawn(forward(steps, sender));
                self.tasks
                    .spawn(procedure::run(kind, targets, progress, cancelled));
            }
            ProcedureCommand::Cancel => {
                if let Some(cancel) = &self.cancel {
                    cancel.send_replace(true);
                }
            }
        }
    }
}

async fn forward(mut steps: mpsc::Receiver<Progress>, sender: mpsc::Sender<Msg>) {
    while let Some(progress) = steps.recv().await {
        if sender
            .send(Msg::Progress(Box::new(progress)))
            .await
            .is_err()
        {
            return;
        }
    }
}

/// One operation on data, and then where its replicas stand.
async fn operate(
    client: Client,
    endpoint: String,
    request: DataRequest,
    sender: mpsc::Sender<Msg>,
) {
    let asked = Instant::now();
    let result = client.data(&endpoint, &request.op).await;
    let took_ms = asked.elapsed().as_millis() as u64;
    let replicas = client.replicas(&endpoint, request.op.key()).await.ok();
    let answer = DataAnswer {
        id: request.id,
        op: request.op,
        endpoint,
        took_ms,
        result: result.map_err(Into::into),
        replicas,
    };
    let _ = sender.send(Msg::Answer(Box::new(answer))).await;
}

/// Has a change of the ring planned or applied.
async fn change(
    client: Client,
    endpoint: String,
    id: u64,
    order: ChangeOrder,
    sender: mpsc::Sender<Msg>,
) {
    let result = match &order {
        ChangeOrder::Plan(change) => {
            let plan = client.plan(&endpoint, change).await;
            plan.map(|plan| ChangeOutcome::Planned(Box::new(plan)))
        }
        ChangeOrder::Apply { plan_id, .. } => {
            let applied = client.apply(&endpoint, plan_id).await;
            applied.map(ChangeOutcome::Applied)
        }
    };
    let answer = ChangeAnswer {
        id,
        result: result.map_err(Into::into),
    };
    let _ = sender.send(Msg::Changed(Box::new(answer))).await;
}

/// Signals that end the console, as one stream of exit codes.
struct Signals {
    stream: Pin<Box<dyn Stream<Item = exit::Exit>>>,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stream = futures_util::stream::once(async move {
            tokio::select! {
                _ = interrupt.recv() => exit::INTERRUPTED,
                _ = terminate.recv() => exit::OK,
                // The line is gone: leave fast, write nothing.
                _ = hangup.recv() => exit::OK,
            }
        });
        Ok(Self {
            stream: Box::pin(stream),
        })
    }

    #[cfg(not(unix))]
    fn new() -> io::Result<Self> {
        let stream = futures_util::stream::once(async {
            match tokio::signal::ctrl_c().await {
                Ok(()) => exit::INTERRUPTED,
                Err(_) => std::future::pending().await,
            }
        });
        Ok(Self {
            stream: Box::pin(stream),
        })
    }

    async fn next(&mut self) -> exit::Exit {
        match self.stream.next().await {
            Some(exit) => exit,
            None => std::future::pending().await,
        }
    }
}
