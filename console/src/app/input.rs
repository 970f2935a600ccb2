//! The prompt and the confirmation: typing, completing, remembering, deciding.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tui_input::{Input, InputRequest};

use super::{App, Prompt, PromptKind, ScreenId, Tone, act, write};
use crate::{command, message::Effect};

/// Longest line that can be typed or pasted, characters.
const LINE_MAX: usize = 8 * 1024;
/// Typed commands remembered.
const HISTORY_MAX: usize = 100;

pub(super) fn prompt_key(app: &mut App, key: &KeyEvent) -> Vec<Effect> {
    let ctrl_c = key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL;
    match key.code {
        KeyCode::Esc => leave(app),
        _ if ctrl_c => leave(app),
        KeyCode::Enter => return enter(app),
        KeyCode::Tab => complete(app),
        KeyCode::Up => recall(app, true),
        KeyCode::Down => recall(app, false),
        _ => {
            let Some(prompt) = &mut app.prompt else {
                return Vec::new();
            };
            edit(&mut prompt.input, key);
            changed(app);
        }
    }
    Vec::new()
}

/// Leaving a filter takes it away; leaving a search forgets the place.
fn leave(app: &mut App) {
    let Some(prompt) = app.prompt.take() else {
        return;
    };
    match prompt.kind {
        PromptKind::Command => {}
        PromptKind::Filter => set_filter(app, ""),
        PromptKind::Locate => app.ring.located = None,
    }
}

fn enter(app: &mut App) -> Vec<Effect> {
    let Some(prompt) = app.prompt.take() else {
        return Vec::new();
    };
    let line = prompt.input.value().to_owned();
    let result = match prompt.kind {
        PromptKind::Filter => {
            set_filter(app, &line);
            Ok(Vec::new())
        }
        PromptKind::Locate if line.is_empty() => Ok(Vec::new()),
        PromptKind::Locate => app.locate(&line).map(|()| Vec::new()),
        PromptKind::Command if line.trim().is_empty() => Ok(Vec::new()),
        PromptKind::Command => {
            remember(app, &line);
            command::parse(&line).and_then(|command| act::run(app, command))
        }
    };
    result.unwrap_or_else(|why| {
        // The line stays, so that it need not be typed again.
        app.prompt = Some(Prompt {
            error: Some(why.clone()),
            ..prompt
        });
        app.notify(Tone::Warning, why);
        Vec::new()
    })
}

fn remember(app: &mut App, line: &str) {
    app.history.retain(|l| l != line);
    if app.history.len() == HISTORY_MAX {
        app.history.pop_front();
    }
    app.history.push_back(line.to_owned());
}

fn recall(app: &mut App, older: bool) {
    let is_command = app.prompt.as_ref().map(|p| p.kind) == Some(PromptKind::Command);
    if !is_command || app.history.is_empty() {
        return;
    }
    let last = app.history.len() - 1;
    let at = match (app.recalled, older) {
        (None, true) => Some(last),
        (Some(at), true) => Some(at.saturating_sub(1)),
        (Some(at), false) if at < last => Some(at + 1),
        (None | Some(_), false) => None,
    };
    app.recalled = at;
    let line = at.and_then(|at| app.history.get(at)).cloned();
    if let Some(prompt) = &mut app.prompt {
        prompt.input = Input::new(line.unwrap_or_default());
    }
    changed(app);
}

fn complete(app: &mut App) {
    if let Some(prompt) = &mut app.prompt {
        let line = format!("{}{}", prompt.input.value(), prompt.ghost);
        prompt.input = Input::new(line);
    }
    changed(app);
}

/// After every change: the ghost, and what follows while typing.
fn changed(app: &mut App) {
    let nodes = act::node_ids(app);
    let Some(prompt) = &mut app.prompt else {
        return;
    };
    let line = prompt.input.value().to_owned();
    prompt.error = None;
    prompt.ghost = match prompt.kind {
        PromptKind::Command => command::complete(&line, &nodes),
        PromptKind::Filter | PromptKind::Locate => String::new(),
    };
    match prompt.kind {
        PromptKind::Command => {}
        PromptKind::Filter => set_filter(app, &line),
        PromptKind::Locate => {
            let failed = app.locate(&line).err();
            if let Some(why) = failed {
                app.ring.located = None;
                if !line.is_empty()
                    && let Some(prompt) = &mut app.prompt
                {
                    prompt.error = Some(why);
                }
            }
        }
    }
}

fn set_filter(app: &mut App, text: &str) {
    match app.screen {
        ScreenId::Events => text.clone_into(&mut app.events.filter),
        _ => text.clone_into(&mut app.members.filter),
    }
}

pub(super) fn confirm_key(app: &mut App, key: &KeyEvent) -> Vec<Effect> {
    let ctrl_c = key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL;
    if key.code == KeyCode::Esc || ctrl_c {
        app.confirm = None;
        return Vec::new();
    }
    let Some(confirm) = &mut app.confirm else {
        return Vec::new();
    };
    if key.code != KeyCode::Enter {
        edit(&mut confirm.input, key);
        confirm.error = None;
        return Vec::new();
    }
    let typed = confirm.input.value().trim();
    if !confirm.expected.is_empty() && typed != confirm.expected {
        confirm.error = Some(format!("type exactly: {}", confirm.expected));
        return Vec::new();
    }
    let action = confirm.action.clone();
    match write::confirmed(app, &action) {
        Ok(effects) => {
            app.confirm = None;
            effects
        }
        Err(why) => {
            if let Some(confirm) = &mut app.confirm {
                confirm.error = Some(why.clone());
            }
            app.notify(Tone::Warning, why);
            Vec::new()
        }
    }
}

/// Pasted text goes into the prompt; what has to be typed is not pasted, and a paste is never
/// taken for keys.
pub(super) fn paste(app: &mut App, text: &str) {
    if app.confirm.is_some() {
        app.notify(Tone::Info, "a confirmation has to be typed");
        return;
    }
    let Some(prompt) = &mut app.prompt else {
        return;
    };
    for c in text.trim_end().chars() {
        if prompt.input.value().len() >= LINE_MAX {
            break;
        }
        let c = if c.is_control() { ' ' } else { c };
        prompt.input.handle(InputRequest::InsertChar(c));
    }
    changed(app);
}

fn edit(input: &mut Input, key: &KeyEvent) {
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    let alt = key.modifiers.contains(KeyModifiers::ALT);
    let request = match key.code {
        KeyCode::Char('a') if ctrl => InputRequest::GoToStart,
        KeyCode::Char('e') if ctrl => InputRequest::GoToEnd,
        KeyCode::Char('w') if ctrl => InputRequest::DeletePrevWord,
        KeyCode::Char('u') if ctrl => InputRequest::DeleteLine,
        KeyCode::Char('k') if ctrl => InputRequest::DeleteTillEnd,
        KeyCode::Char('h') if ctrl => InputRequest::DeletePrevChar,
        KeyCode::Char(c) if !ctrl && !alt && input.value().len() < LINE_MAX => {
            InputRequest::InsertChar(c)
        }
        KeyCode::Backspace if ctrl || alt => InputRequest::DeletePrevWord,
        KeyCode::Backspace => InputRequest::DeletePrevChar,
        KeyCode::Delete => InputRequest::DeleteNextChar,
        KeyCode::Left if ctrl => InputRequest::GoToPrevWord,
        KeyCode::Right if ctrl => InputRequest::GoToNextWord,
        KeyCode::Left => InputRequest::GoToPrevChar,
        KeyCode::Right => InputRequest::GoToNextChar,
        KeyCode::Home => InputRequest::GoToStart,
        KeyCode::End => InputRequest::GoToEnd,
        _ => return,
    };
    input.handle(request);
}
