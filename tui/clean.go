package tui

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// cleaner makes text from the network safe to draw: no escape sequence, no control or direction character, nothing that
// terminals disagree on in width. Where plain is set nothing but ASCII remains.
type cleaner struct{ plain bool }

// text cleans one string. Line ends and other white space become one space each.
func (c cleaner) text(s string) string {
	if isPlain(s) {
		return s
	}
	marks := 0
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.M, r) {
			marks++
		} else {
			marks = 0
		}
		return c.char(r, marks)
	}, ansi.Strip(strings.ToValidUTF8(s, "\uFFFD")))
}

// mostMarks is how many combining marks one character may carry: enough for every script, too few to climb over lines.
const mostMarks = 2

func (c cleaner) char(r rune, marks int) rune {
	switch {
	case r >= ' ' && r <= '~':
		return r
	case unicode.IsSpace(r):
		return ' '
	case !unicode.IsGraphic(r), marks > mostMarks, isJoining(r):
		return -1
	case c.plain && marks > 0:
		return -1
	case c.plain:
		return '?'
	}
	return r
}

// isJoining matches what makes several characters one: terminals disagree on the width of such clusters.
func isJoining(r rune) bool {
	return (r >= 0xfe00 && r <= 0xfe0f) || (r >= 0x1f3fb && r <= 0x1f3ff) || (r >= 0xe0100 && r <= 0xe01ef)
}

// isPlain matches the common case, which needs no work.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// snapshot returns a copy of s with every string cleaned.
func (c cleaner) snapshot(s *cluster.Snapshot) *cluster.Snapshot {
	out := *s
	out.Cluster = c.text(s.Cluster)
	out.Controller.Version, out.Controller.HTTP = c.text(s.Controller.Version), c.text(s.Controller.HTTP)
	out.Nodes = make([]cluster.Node, len(s.Nodes))
	for i := range s.Nodes {
		out.Nodes[i] = c.node(&s.Nodes[i])
	}
	out.Requests = make([]cluster.RequestStatus, len(s.Requests))
	for i, r := range s.Requests {
		r.ID, r.Node = cluster.RequestID(c.text(string(r.ID))), cluster.NodeID(c.text(string(r.Node)))
		r.Model, r.State = c.text(r.Model), cluster.RequestState(c.text(string(r.State)))
		out.Requests[i] = r
	}
	return &out
}

func (c cleaner) node(n *cluster.Node) cluster.Node {
	out := *n
	out.ID, out.State = cluster.NodeID(c.text(string(n.ID))), cluster.NodeState(c.text(string(n.State)))
	out.Name, out.Reason, out.Version = c.text(n.Name), c.text(n.Reason), c.text(n.Version)
	if out.Name == "" {
		out.Name = string(out.ID)
	}
	h := &out.Hardware
	h.Chip, h.Model, h.OS, h.OSVersion, h.Arch = c.text(h.Chip), c.text(h.Model), c.text(h.OS), c.text(h.OSVersion), c.text(h.Arch)
	if n.Load.Thermal != nil {
		thermal := c.text(*n.Load.Thermal)
		out.Load.Thermal = &thermal
	}
	out.Models = make([]cluster.Model, len(n.Models))
	for i, m := range n.Models {
		m.Name, m.Revision, m.Digest = c.text(m.Name), c.text(m.Revision), c.text(m.Digest)
		m.Architecture, m.Quantization = c.text(m.Architecture), c.text(m.Quantization)
		out.Models[i] = m
	}
	out.Replicas = make([]cluster.Replica, len(n.Replicas))
	for i, r := range n.Replicas {
		r.Model, r.Digest, r.Reason = c.text(r.Model), c.text(r.Digest), c.text(r.Reason)
		r.Adapter, r.Draft = c.text(r.Adapter), c.text(r.Draft)
		r.State = cluster.ReplicaState(c.text(string(r.State)))
		r.Prefixes = nil // nothing here shows them
		out.Replicas[i] = r
	}
	return out
}

// event returns e with every string cleaned.
func (c cleaner) event(e cluster.Event) cluster.Event {
	e.Kind, e.Node = cluster.EventKind(c.text(string(e.Kind))), cluster.NodeID(c.text(string(e.Node)))
	e.Model, e.Request, e.Message = c.text(e.Model), cluster.RequestID(c.text(string(e.Request))), c.text(e.Message)
	return e
}

// width returns how many columns s takes.
func width(s string) int {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return ansi.StringWidth(s)
		}
	}
	return len(s)
}
