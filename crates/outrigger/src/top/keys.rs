//! What is looked at, and how keys change that.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// How much there is to see, and how much of it is on the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Extent {
    pub(super) lines: usize,
    pub(super) page: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct View {
    sidecars: usize,
    pub(super) selected: usize,
    /// Lines that are scrolled over.
    pub(super) scrolled: usize,
    pub(super) shows_help: bool,
    extent: Extent,
}

impl View {
    pub(super) fn new(sidecars: usize) -> Self {
        Self {
            sidecars,
            selected: 0,
            scrolled: 0,
            shows_help: false,
            extent: Extent::default(),
        }
    }

    /// Nobody scrolls past the end. The help covers the rest for a while, and changes nothing of it.
    pub(super) fn fit(&mut self, extent: Extent) {
        if self.shows_help {
            return;
        }
        self.extent = extent;
        self.scrolled = self.scrolled.min(self.most());
    }

    fn most(&self) -> usize {
        self.extent.lines.saturating_sub(self.extent.page)
    }

    /// Whether that is the end.
    pub(super) fn pressed(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return false;
        }
        let page = self.extent.page.max(2) - 1;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return key.code == KeyCode::Char('c');
        }
        match key.code {
            KeyCode::Char('q' | 'Q') => return true,
            KeyCode::Esc if !self.shows_help => return true,
            KeyCode::Esc => self.shows_help = false,
            KeyCode::Char('?') => self.shows_help = !self.shows_help,
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => self.select(1),
            KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => {
                self.select(self.sidecars.saturating_sub(1));
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll_to(self.scrolled.saturating_add(1)),
            KeyCode::Up | KeyCode::Char('k') => self.scroll_to(self.scrolled.saturating_sub(1)),
            KeyCode::PageDown | KeyCode::Char(' ') => {
                self.scroll_to(self.scrolled.saturating_add(page));
            }
            KeyCode::PageUp => self.scroll_to(self.scrolled.saturating_sub(page)),
            KeyCode::Home | KeyCode::Char('g') => self.scroll_to(0),
            KeyCode::End | KeyCode::Char('G') => self.scroll_to(usize::MAX),
            _ => {}
        }
        false
    }

    fn scroll_to(&mut self, line: usize) {
        if !self.shows_help {
            self.scrolled = line.min(self.most());
        }
    }

    fn select(&mut self, further: usize) {
        if self.shows_help {
            return;
        }
        let selected = (self.selected + further) % self.sidecars.max(1);
        if selected != self.selected {
            self.scrolled = 0;
        }
        self.selected = selected;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(view: &mut View, code: KeyCode) -> bool {
        view.pressed(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn nobody_scrolls_past_an_end() {
        let mut view = View::new(1);
        view.fit(Extent {
            lines: 30,
            page: 10,
        });
        for (code, line) in [
            (KeyCode::Up, 0),
            (KeyCode::Down, 1),
            (KeyCode::Char('j'), 2),
            (KeyCode::Char('k'), 1),
            (KeyCode::PageDown, 10),
            (KeyCode::Char(' '), 19),
            (KeyCode::PageDown, 20),
            (KeyCode::Down, 20),
            (KeyCode::PageUp, 11),
            (KeyCode::Home, 0),
            (KeyCode::End, 20),
        ] {
            assert!(!press(&mut view, code));
            assert_eq!(view.scrolled, line, "{code:?}");
        }
        view.fit(Extent {
            lines: 30,
            page: 25,
        });
        assert_eq!(view.scrolled, 5);
        view.fit(Extent { lines: 3, page: 25 });
        assert_eq!(view.scrolled, 0);
    }

    #[test]
    fn sidecars_are_selected_in_a_circle_each_from_its_top() {
        let mut view = View::new(3);
        view.fit(Extent {
            lines: 30,
            page: 10,
        });
        press(&mut view, KeyCode::Down);
        for (code, selected) in [
            (KeyCode::BackTab, 2),
            (KeyCode::Tab, 0),
            (KeyCode::Right, 1),
            (KeyCode::Left, 0),
        ] {
            press(&mut view, code);
            assert_eq!((view.selected, view.scrolled), (selected, 0));
        }
    }

    #[test]
    fn help_opens_and_closes_and_some_keys_end() {
        let mut view = View::new(2);
        view.fit(Extent {
            lines: 30,
            page: 10,
        });
        press(&mut view, KeyCode::End);
        press(&mut view, KeyCode::Char('?'));
        press(&mut view, KeyCode::Tab);
        assert_eq!((view.shows_help, view.selected), (true, 0));
        view.fit(Extent { lines: 5, page: 10 });
        assert!(!press(&mut view, KeyCode::Esc));
        assert_eq!((view.shows_help, view.scrolled), (false, 20));
        assert!(press(&mut view, KeyCode::Esc));
        assert!(press(&mut view, KeyCode::Char('q')));
        let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
        assert!(view.pressed(control('c')));
        assert!(!view.pressed(control('j')));
        let mut released = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        released.kind = KeyEventKind::Release;
        assert!(!view.pressed(released));
    }
}
