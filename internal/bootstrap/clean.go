package bootstrap

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Bounds of untrusted text, in bytes.
const (
	mostName   = 128
	mostDetail = 512
	mostLog    = 50 // lines
)

// clean makes text of a host safe for a terminal and for one line: no escape sequences, no control or direction
// characters, nothing beyond most bytes.
func clean(s string, most int) string {
	if len(s) > 4*most { // escape sequences take room, too
		s = s[:4*most]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r):
			return -1
		}
		return r
	}, ansi.Strip(strings.ToValidUTF8(s, "\uFFFD")))
	if s = strings.TrimSpace(s); len(s) > most {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most]
	}
	return s
}

// lastLine returns the last line of what a command said that says something.
func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return clean(lines[len(lines)-1], mostDetail)
}

// cleanError cleans an error that a host sent.
func cleanError(e *cluster.Error) *cluster.Error {
	if e == nil {
		return nil
	}
	return &cluster.Error{
		Code: cluster.Code(clean(string(e.Code), mostName)), Message: clean(e.Message, mostDetail), Hint: clean(e.Hint, mostDetail),
		Field: clean(e.Field, mostName), Node: cluster.NodeID(clean(string(e.Node), mostName)),
	}
}

// cleanMessage cleans one line of a host.
func cleanMessage(m *plan.FromHost) {
	m.Type, m.Step = clean(m.Type, mostName), clean(m.Step, mostName)
	m.State = plan.State(clean(string(m.State), mostName))
	m.Detail, m.Error = clean(m.Detail, mostDetail), cleanError(m.Error)
	m.Node = cluster.NodeID(clean(string(m.Node), mostName))
	m.Key, m.Hardware = clean(m.Key, mostName), clean(m.Hardware, mostName)
	m.Unit = plan.UnitKind(clean(string(m.Unit), mostName))
	if len(m.Log) > mostLog {
		m.Log = m.Log[len(m.Log)-mostLog:]
	}
	for i := range m.Log {
		m.Log[i] = clean(m.Log[i], mostDetail)
	}
	if m.Link != nil {
		m.Link = cleanLink(*m.Link)
	}
}

func cleanLink(l plan.Link) *plan.Link {
	l.State = plan.LinkState(clean(string(l.State), mostName))
	l.Node = cluster.NodeID(clean(string(l.Node), mostName))
	l.Version, l.URL, l.Error = clean(l.Version, mostName), clean(l.URL, mostDetail), clean(l.Error, mostDetail)
	return &l
}
