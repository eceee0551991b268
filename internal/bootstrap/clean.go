package bootstrap

import (
	"strings"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/untrusted"
)

// Bounds of untrusted text, in bytes.
const (
	mostName   = 128
	mostDetail = 512
	mostLog    = 50 // lines
)

// lastLine returns the last line of what a command said that says something.
func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return untrusted.Line(lines[len(lines)-1], mostDetail)
}

// cleanError cleans an error that a host sent.
func cleanError(e *cluster.Error) *cluster.Error {
	if e == nil {
		return nil
	}
	return &cluster.Error{
		Code: cluster.Code(untrusted.Line(string(e.Code), mostName)), Message: untrusted.Line(e.Message, mostDetail), Hint: untrusted.Line(e.Hint, mostDetail),
		Field: untrusted.Line(e.Field, mostName), Node: cluster.NodeID(untrusted.Line(string(e.Node), mostName)),
	}
}

// cleanMessage cleans one line of a host.
func cleanMessage(m *plan.FromHost) {
	m.Type, m.Step = untrusted.Line(m.Type, mostName), untrusted.Line(m.Step, mostName)
	m.State = plan.State(untrusted.Line(string(m.State), mostName))
	m.Detail, m.Error = untrusted.Line(m.Detail, mostDetail), cleanError(m.Error)
	m.Node = cluster.NodeID(untrusted.Line(string(m.Node), mostName))
	m.Key, m.Hardware = untrusted.Line(m.Key, mostName), untrusted.Line(m.Hardware, mostName)
	m.Left = untrusted.Line(m.Left, mostDetail)
	m.Unit = plan.UnitKind(untrusted.Line(string(m.Unit), mostName))
	if len(m.Log) > mostLog {
		m.Log = m.Log[len(m.Log)-mostLog:]
	}
	for i := range m.Log {
		m.Log[i] = untrusted.Line(m.Log[i], mostDetail)
	}
	if m.Link != nil {
		m.Link = cleanLink(*m.Link)
	}
}

func cleanLink(l plan.Link) *plan.Link {
	l.State = plan.LinkState(untrusted.Line(string(l.State), mostName))
	l.Node = cluster.NodeID(untrusted.Line(string(l.Node), mostName))
	l.Version, l.URL, l.Error = untrusted.Line(l.Version, mostName), untrusted.Line(l.URL, mostDetail), untrusted.Line(l.Error, mostDetail)
	return &l
}
