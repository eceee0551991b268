package tui

import (
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// filterMost bounds the filter, in characters.
const filterMost = 64

// onKey routes a key: quitting and suspending always work, then whoever holds the keyboard gets it.
func (m *model) onKey(msg tea.KeyPressMsg) tea.Cmd {
	switch {
	case key.Matches(msg, m.keys.interrupt):
		return tea.Quit
	case key.Matches(msg, m.keys.suspend):
		return tea.Suspend
	case m.isTyping:
		m.onFilterKey(msg)
	case key.Matches(msg, m.keys.quit):
		return tea.Quit
	case m.isHelp:
		m.isHelp = false
	case key.Matches(msg, m.keys.help):
		m.isHelp = true
	case key.Matches(msg, m.keys.pause):
		m.pause()
	case m.detail.isOpen():
		m.onDetailKey(msg)
	default:
		m.onPaneKey(msg)
	}
	return nil
}

func (m *model) onFilterKey(msg tea.KeyPressMsg) {
	switch msg.String() {
	case "enter":
		m.isTyping = false
	case "esc":
		m.isTyping = false
		m.setFilter("")
	case "backspace":
		r := []rune(m.filter)
		m.setFilter(string(r[:max(len(r)-1, 0)]))
	case "ctrl+u":
		m.setFilter("")
	case "ctrl+w":
		words := strings.TrimRight(m.filter, " ")
		m.setFilter(words[:strings.LastIndexByte(words, ' ')+1])
	default:
		m.setFilter(m.filter + m.clean.text(msg.Text))
	}
}

func (m *model) setFilter(s string) {
	if r := []rune(s); len(r) > filterMost {
		s = string(r[:filterMost])
	}
	m.filter = strings.ToLower(s)
	m.refresh()
}

func (m *model) onDetailKey(msg tea.KeyPressMsg) {
	switch {
	case key.Matches(msg, m.keys.closing):
		m.detail.close()
	default:
		m.scroll(msg, m.detail.page, m.detail.move)
	}
}

func (m *model) onPaneKey(msg tea.KeyPressMsg) {
	switch {
	case key.Matches(msg, m.keys.next):
		m.focus = (m.focus + 1) % paneCount
	case key.Matches(msg, m.keys.previous):
		m.focus = (m.focus + paneCount - 1) % paneCount
	case key.Matches(msg, m.keys.filter):
		m.isTyping = true
	case key.Matches(msg, m.keys.sort):
		m.sort()
	case key.Matches(msg, m.keys.open):
		m.open()
	case key.Matches(msg, m.keys.back):
		m.back()
	default:
		m.movePane(msg)
	}
}

// back takes away the filter, or else the cursor, and with it the narrowing to one node.
func (m *model) back() {
	if m.filter != "" {
		m.setFilter("")
		return
	}
	m.nodes.clear()
	m.requests.clear()
	m.replicas.clear()
	m.refresh()
}

func (m *model) sort() {
	switch m.focus {
	case nodesID:
		m.nodes.resort()
	case requestsID:
		m.requests.resort()
	case replicasID:
		m.replicas.resort()
	default:
	}
	m.refresh()
}

// open shows the node of the row under the cursor.
func (m *model) open() {
	if m.shown == nil {
		return
	}
	id := cluster.NodeID("")
	switch m.focus {
	case requestsID:
		if r := m.requests.selected(); r != nil {
			id = r.Node
		}
	case replicasID:
		if r := m.replicas.selected(); r != nil {
			id = r.node
		}
	case nodesID:
		if m.nodes.selected() == nil {
			m.nodes.move(1)
		}
		if n := m.nodes.selected(); n != nil {
			id = n.ID
		}
	default:
	}
	m.detail.open(id)
	m.refresh()
}

func (m *model) movePane(msg tea.KeyPressMsg) {
	switch m.focus {
	case nodesID:
		m.scroll(msg, m.nodes.page, m.nodes.move)
		m.refresh() // the replicas follow the node
	case requestsID:
		m.scroll(msg, m.requests.page, m.requests.move)
	case replicasID:
		m.scroll(msg, m.replicas.page, m.replicas.move)
	default:
		m.scroll(msg, m.events.page, m.events.move)
	}
}

// far is further than any list is long.
const far = 1 << 20

// scroll turns a key into a movement.
func (m *model) scroll(msg tea.KeyPressMsg, page int, move func(int)) {
	page = max(page-1, 1)
	switch {
	case key.Matches(msg, m.keys.up):
		move(-1)
	case key.Matches(msg, m.keys.down):
		move(1)
	case key.Matches(msg, m.keys.pageUp):
		move(-page)
	case key.Matches(msg, m.keys.pageDown):
		move(page)
	case key.Matches(msg, m.keys.home):
		move(-far)
	case key.Matches(msg, m.keys.end):
		move(far)
	}
}
