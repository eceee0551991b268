package tui

import "charm.land/bubbles/v2/key"

// keyMap holds every key of the dashboard; the footer and the help are made of it.
type keyMap struct {
	next, previous      key.Binding
	up, down            key.Binding
	pageUp, pageDown    key.Binding
	home, end           key.Binding
	open, back          key.Binding
	sort, filter, pause key.Binding
	help, suspend, quit key.Binding
	closing, moving     key.Binding // how the footer of the detail names them
	interrupt           key.Binding
}

func newKeys() keyMap {
	bind := func(name, does string, keys ...string) key.Binding {
		return key.NewBinding(key.WithKeys(keys...), key.WithHelp(name, does))
	}
	return keyMap{
		next:      bind("tab", "next pane", "tab"),
		previous:  bind("shift+tab", "pane before", "shift+tab"),
		up:        bind("k/up", "up", "k", "up"),
		down:      bind("j/down", "down", "j", "down"),
		pageUp:    bind("pgup", "page up", "pgup", "ctrl+b", "ctrl+u"),
		pageDown:  bind("pgdn", "page down", "pgdown", "ctrl+f", "ctrl+d"),
		home:      bind("g", "first", "g", "home"),
		end:       bind("G", "last", "G", "end"),
		open:      bind("enter", "node in detail", "enter"),
		back:      bind("esc", "back, all nodes", "esc"),
		sort:      bind("s", "sort", "s"),
		filter:    bind("/", "filter", "/"),
		pause:     bind("p", "pause", "p", "space"),
		help:      bind("?", "help", "?"),
		suspend:   bind("ctrl+z", "suspend", "ctrl+z"),
		quit:      bind("q", "quit", "q"),
		closing:   bind("esc", "back", "esc", "enter"),
		moving:    bind("j/k", "scroll", "j", "k"),
		interrupt: bind("ctrl+c", "quit", "ctrl+c"),
	}
}

// ShortHelp is the footer, most needed first.
func (k keyMap) ShortHelp() []key.Binding {
	return []key.Binding{k.quit, k.help, k.next, k.open, k.filter, k.sort, k.pause}
}

// detailHelp is the footer while one node is shown in detail.
func (k keyMap) detailHelp() []key.Binding {
	return []key.Binding{k.quit, k.help, k.closing, k.moving, k.pause}
}

// FullHelp is the help screen, column by column.
func (k keyMap) FullHelp() [][]key.Binding {
	return [][]key.Binding{
		{k.next, k.previous, k.up, k.down, k.pageUp, k.pageDown, k.home, k.end},
		{k.open, k.back, k.sort, k.filter, k.pause, k.help, k.suspend, k.quit},
	}
}
